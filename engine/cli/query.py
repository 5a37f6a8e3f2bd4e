"""Query keys as they stand on a command line, in the forms that findscu takes, and how what matches is shown.

    PatientName=DOE*      a key, as in `index.query.keywords`        Modality      no value: only to be returned

QueryRetrieveLevel=STUDY sets the level, as on findscu.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.cli.tables import Form
from engine.dicom import keywords, tags
from engine.errors import QueryError
from engine.index.query.keywords import LEVELS as _LEVELS
from engine.index.query.keywords import RETURNED, Value, matches_all, path_of, put
from engine.index.query.keywords import tag_of as tag_of

LEVELS = tuple(_LEVELS)

_LEVEL_NAMES = {"PATIENT": "patient", "STUDY": "study", "SERIES": "series", "IMAGE": "instance"}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one query: tag → value, and the order in which they were named."""

    level: str
    values: dict[int, Value]
    columns: tuple[int, ...]
    options: frozenset[str] = field(default=frozenset())
    """Flags of `index.types.Query` beyond those that every query here has."""


def parse(texts: Iterable[str], returned: Iterable[str] = (), level: str | None = None) -> Keys:
    """The keys of a command line; raises QueryError that names the nearest keyword."""
    wanted: dict[int, Value] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.strip() == "QueryRetrieveLevel" or keywords.by_number(name) == tags.QueryRetrieveLevel:
            level = level or _level(value)
            continue
        put(wanted, path_of(name), value)
    level = level or "study"
    asked = [tag for tag, value in wanted.items() if matches_all(value)]
    for name in returned:
        path = path_of(name)
        asked.append(path[0])
        if len(path) > 1 or path[0] not in wanted:
            put(wanted, path, "")
    columns = [*wanted, *(asked or [tag_of(name) for name in RETURNED[level]])]
    for tag in columns:
        wanted.setdefault(tag, "")
    return Keys(level, wanted, tuple(dict.fromkeys(columns)))


def named(
    keys: Iterable[str], studies: Iterable[str] = (), series: Iterable[str] = (), instances: Iterable[str] = ()
) -> list[Keys]:
    """The queries that --study, --series and --instance UID and KEY=VALUE together stand for."""
    queries = [parse([f"StudyInstanceUID={uid}"]) for uid in studies]
    queries += [parse([f"SeriesInstanceUID={uid}"], level="series") for uid in series]
    queries += [parse([f"SOPInstanceUID={uid}"], level="instance") for uid in instances]
    keys = list(keys)
    return [*queries, parse(keys)] if keys else queries


def form_of(tag: int, vr: str) -> Form:
    """What a terminal may do to the values of an attribute where there is no room for them."""
    if vr == "SQ":
        return Form.WRAPPED
    is_text = vr in ("LO", "LT", "PN", "ST", "UC", "UN", "UT") and not tags.keyword_of(tag).endswith("ID")
    return Form.CUT if is_text else Form.WHOLE


def _level(value: str) -> str:
    try:
        return _LEVEL_NAMES[value.strip().upper()]
    except KeyError:
        raise QueryError(f"QueryRetrieveLevel={value}: it is one of {', '.join(_LEVEL_NAMES)}") from None
