"""Query keys as they stand on a command line, in the forms that findscu takes.

    PatientName=DOE*      by keyword          0010,0010=DOE*      by tag; (0010,0010) too
    StudyDate=20260101-   a range             Modality            no value: only to be returned

QueryRetrieveLevel=STUDY sets the level, as on findscu. What a value means is PS3.4 C.2.2.2 and not looked at here.
"""

from __future__ import annotations

import difflib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from engine.dicom import tags
from engine.errors import QueryError

LEVELS = ("patient", "study", "series", "instance")

RETURNED: dict[str, tuple[str, ...]] = {
    "patient": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "NumberOfPatientRelatedStudies"),
    "study": (
        "StudyDate",
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "ModalitiesInStudy",
        "StudyDescription",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    "series": (
        "SeriesNumber",
        "Modality",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    ),
    "instance": ("InstanceNumber", "SOPClassUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
"""What is shown at each level when nothing is asked for by name."""

_NUMBERS = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d", "UV": "<Q", "SV": "<q"}

_LEVEL_NAMES = {"PATIENT": "patient", "STUDY": "study", "SERIES": "series", "IMAGE": "instance"}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one query: tag → value ("" matches everything), and the order in which they were named."""

    level: str
    values: dict[int, str]
    columns: tuple[int, ...]


def parse(texts: Iterable[str], returned: Iterable[str] = (), level: str | None = None) -> Keys:
    """The keys of a command line; raises QueryError that names the nearest keyword."""
    values: dict[int, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name.strip() == "QueryRetrieveLevel" or _by_number(name) == tags.QueryRetrieveLevel:
            level = level or _level(value)
            continue
        values[tag_of(name)] = value
    level = level or "study"
    asked = [tag_of(name) for name in returned] + [tag for tag, value in values.items() if value == ""]
    columns = [*values, *(asked or [tag_of(name) for name in RETURNED[level]])]
    for tag in columns:
        values.setdefault(tag, "")
    return Keys(level, values, tuple(dict.fromkeys(columns)))


def named(
    keys: Iterable[str], studies: Iterable[str] = (), series: Iterable[str] = (), instances: Iterable[str] = ()
) -> list[Keys]:
    """The queries that --study, --series and --instance UID and KEY=VALUE together stand for."""
    queries = [parse([f"StudyInstanceUID={uid}"]) for uid in studies]
    queries += [parse([f"SeriesInstanceUID={uid}"], level="series") for uid in series]
    queries += [parse([f"SOPInstanceUID={uid}"], level="instance") for uid in instances]
    keys = list(keys)
    return [*queries, parse(keys)] if keys else queries


def tag_of(name: str) -> int:
    """The tag of a keyword or of gggg,eeee."""
    name = name.strip()
    number = _by_number(name)
    if number is not None:
        return number
    tag = tags.tag_of(name)
    if tag is None:
        if "." in name or "[" in name:
            raise QueryError(f"{name}: keys inside sequences are not supported on the command line")
        near = difflib.get_close_matches(name, _keywords(), n=1, cutoff=0.6)
        raise QueryError(f"{name!r} is no DICOM keyword" + (f"; did you mean {near[0]}?" if near else ""))
    return tag


def name_of(tag: int) -> str:
    """The keyword of a tag, or its number."""
    return tags.keyword_of(tag)


def value_of(tag: int, value: bytes) -> object:
    """An attribute of a match as JSON has it: text, a number, or a list when there are several values."""
    vr = tags.vr_of(tag)
    if vr == "SQ":
        return None if not value else "(sequence)"
    form = _NUMBERS.get(vr)
    if form is not None:
        numbers = [
            number for (number,) in struct.iter_unpack(form, value[: len(value) - len(value) % struct.calcsize(form)])
        ]
        return numbers if len(numbers) > 1 else numbers[0] if numbers else None
    text = value.decode("utf-8", "replace")
    # In these VRs a backslash is a character like any other (PS3.5 6.2).
    return text.split("\\") if "\\" in text and vr not in ("ST", "LT", "UT", "UR") else text


def text_of(tag: int, value: bytes) -> str:
    """An attribute of a match as DICOM writes it: several values with backslashes between them."""
    shown = value_of(tag, value)
    return "\\".join(map(str, shown)) if isinstance(shown, list) else "" if shown is None else str(shown)


def _by_number(name: str) -> int | None:
    match = re.fullmatch(r"\(?([0-9a-fA-F]{4}),\s*([0-9a-fA-F]{4})\)?", name.strip())
    return int(match[1] + match[2], 16) if match else None


def _level(value: str) -> str:
    try:
        return _LEVEL_NAMES[value.strip().upper()]
    except KeyError:
        raise QueryError(f"QueryRetrieveLevel={value}: it is one of {', '.join(_LEVEL_NAMES)}") from None


@cache
def _keywords() -> list[str]:
    return [name for name, value in vars(tags).items() if isinstance(value, int) and name[:1].isupper()]
