"""Query keys on a command line, in the forms that findscu accepts, and how matches are shown.

    PatientName=DOE*      a key, as in `index.query.keywords`        Modality      no value: only return it

QueryRetrieveLevel=STUDY sets the level, as on findscu.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.cli.tables import Form
from engine.dicom import keywords, tags
from engine.errors import QueryError
from engine.index.query.keywords import LEVELS as _LEVELS
from engine.index.query.keywords import RETURNED, Value, matches_all, path_of, set_key
from engine.index.query.keywords import tag_of as tag_of

LEVELS = tuple(_LEVELS)

_LEVEL_NAMES = {"PATIENT": "patient", "STUDY": "study", "SERIES": "series", "IMAGE": "instance"}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one query: tag → value, and the columns in the order given."""

    level: str
    values: dict[int, Value]
    columns: tuple[int, ...]
    options: frozenset[str] = field(default=frozenset())
    """Flags of `Query` that this query needs besides the defaults."""


def parse(texts: Iterable[str], returned: Iterable[str] = (), level: str | None = None) -> Keys:
    """Parses the keys of a command line. Raises QueryError, with the nearest keyword."""
    values: dict[int, Value] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.strip() == "QueryRetrieveLevel" or keywords.tag_of_number(name) == tags.QueryRetrieveLevel:
            level = level or _level(value)
            continue
        set_key(values, path_of(name), value)
    level = level or "study"
    shown = [tag for tag, value in values.items() if matches_all(value)]
    for name in returned:
        path = path_of(name)
        shown.append(path[0])
        if len(path) > 1 or path[0] not in values:
            set_key(values, path, "")
    columns = [*values, *(shown or [tag_of(name) for name in RETURNED[level]])]
    for tag in columns:
        values.setdefault(tag, "")
    return Keys(level, values, tuple(dict.fromkeys(columns)))


def named(
    keys: Iterable[str], studies: Iterable[str] = (), series: Iterable[str] = (), instances: Iterable[str] = ()
) -> list[Keys]:
    """The queries for --study, --series and --instance UIDs and KEY=VALUE."""
    queries = [parse([f"StudyInstanceUID={uid}"]) for uid in studies]
    queries += [parse([f"SeriesInstanceUID={uid}"], level="series") for uid in series]
    queries += [parse([f"SOPInstanceUID={uid}"], level="instance") for uid in instances]
    keys = list(keys)
    return [*queries, parse(keys)] if keys else queries


def form_of(tag: int, vr: str) -> Form:
    """How a terminal may shorten the values of an attribute."""
    if vr == "SQ":
        return Form.WRAPPED
    is_text = vr in ("LO", "LT", "PN", "ST", "UC", "UN", "UT") and not tags.keyword_of(tag).endswith("ID")
    return Form.CUT if is_text else Form.WHOLE


def _level(value: str) -> str:
    try:
        return _LEVEL_NAMES[value.strip().upper()]
    except KeyError:
        raise QueryError(f"QueryRetrieveLevel={value}: use one of {', '.join(_LEVEL_NAMES)}") from None
