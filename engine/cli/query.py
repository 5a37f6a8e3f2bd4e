"""Query keys as they stand on a command line, in the forms that findscu takes, and how what matches is shown.

    PatientName=DOE*      by keyword          0010,0010=DOE*      by tag; (0010,0010) and 00100010 too
    StudyDate=20260101-   a range             Modality            no value: only to be returned
    RequestAttributesSequence[0].ScheduledProcedureStepID=7       within a sequence; [0] may be left out
    0019,xxA3=7           a private attribute of the configuration; 0019,0010=ACME names its creator, as in a data set

QueryRetrieveLevel=STUDY sets the level, as on findscu. What a value means is PS3.4 C.2.2.2 and not looked at here.
"""

from __future__ import annotations

import difflib
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from engine.cli import key_values
from engine.cli.tables import Form
from engine.dicom import tags, values
from engine.dicom.identifier import Identifier, decode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError, QueryError

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

_NUMBER_VRS = frozenset((*_NUMBERS, "AT", "IS", "DS"))

_LEVEL_NAMES = {"PATIENT": "patient", "STUDY": "study", "SERIES": "series", "IMAGE": "instance"}


Value: TypeAlias = "str | list[dict[int, Value]]"
"""Of one key: text, "" matches everything; of a sequence its only item."""


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
        if name.strip() == "QueryRetrieveLevel" or _by_number(name) == tags.QueryRetrieveLevel:
            level = level or _level(value)
            continue
        _put(wanted, _path(name), value)
    level = level or "study"
    asked = [tag for tag, value in wanted.items() if matches_all(value)]
    for name in returned:
        path = _path(name)
        asked.append(path[0])
        if len(path) > 1 or path[0] not in wanted:
            _put(wanted, path, "")
    columns = [*wanted, *(asked or [tag_of(name) for name in RETURNED[level]])]
    for tag in columns:
        wanted.setdefault(tag, "")
    return Keys(level, wanted, tuple(dict.fromkeys(columns)))


def matches_all(value: Value) -> bool:
    """Whether a key is only to be returned (universal matching)."""
    return not value if isinstance(value, str) else all(matches_all(inner) for item in value for inner in item.values())


def named(
    keys: Iterable[str], studies: Iterable[str] = (), series: Iterable[str] = (), instances: Iterable[str] = ()
) -> list[Keys]:
    """The queries that --study, --series and --instance UID and KEY=VALUE together stand for."""
    queries = [parse([f"StudyInstanceUID={uid}"]) for uid in studies]
    queries += [parse([f"SeriesInstanceUID={uid}"], level="series") for uid in series]
    queries += [parse([f"SOPInstanceUID={uid}"], level="instance") for uid in instances]
    keys = list(keys)
    return [*queries, parse(keys)] if keys else queries


def is_private(tag: int) -> bool:
    """Whether it is an attribute of a manufacturer (PS3.5 7.8)."""
    return tags.is_private(tag)


def is_person_name(tag: int) -> bool:
    """Whether it names a person."""
    return tags.vr_of(tag) == "PN"


def is_creator(tag: int) -> bool:
    """Whether it is a private creator element, which matches nothing by itself (PS3.5 7.8.1)."""
    return tags.is_private(tag) and 0x10 <= tag & 0xFFFF <= 0xFF


def creator_of(tag: int) -> int:
    """The element that names the creator of a private one's block (PS3.5 7.8.1)."""
    return tag & 0xFFFF0000 | tag >> 8 & 0xFF


def tag_of(name: str) -> int:
    """The tag of a keyword or of gggg,eeee."""
    name = name.strip()
    number = _by_number(name)
    if number is not None:
        return number
    tag = tags.tag_of(name)
    if tag is None:
        near = difflib.get_close_matches(name, _keywords(), n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"write KEY=VALUE, such as {key_values.meant_by(name)}"
        raise QueryError(f"{name!r} is no DICOM keyword" + (f"; {hint}" if name else ""))
    return tag


def name_of(tag: int) -> str:
    """The keyword of a tag, or its number."""
    return tags.keyword_of(tag)


def value_of(tag: int, value: bytes) -> object:
    """An attribute of a match as JSON has it: text or a number; a list wherever PS3.6 allows several values.

    A number that is missing is None; text that is no number where one should be stays text.
    """
    vr = tags.vr_of(tag)
    if vr == "SQ":
        items = _items(tag, value)
        return [_item(item) for item in items] if items or not value else ["(sequence)"]
    found = _values(vr, value)
    if vr in values.SINGLE_VALUE_VRS or not _has_several_values(tag):
        return found[0] if len(found) == 1 else found or (None if vr in _NUMBER_VRS else "")
    return found


def encoded_numbers(tag: int, text: str) -> bytes | None:
    """What was typed for an attribute of a binary VR, as a key has it; None for another VR. Raises QueryError."""
    form = _NUMBERS.get(tags.vr_of(tag))
    if form is None or not text.strip(" *") or text == key_values.EMPTY_VALUE:
        return None if form is None else b""
    try:
        read = float if form in ("<f", "<d") else int
        return b"".join(struct.pack(form, read(part)) for part in text.split("\\"))
    except (ValueError, OverflowError, struct.error):
        raise QueryError(f"{name_of(tag)}={text}: it is no number of VR {tags.vr_of(tag)}") from None


def text_of(tag: int, value: bytes) -> str:
    """An attribute of a match as DICOM writes it: several values with backslashes between them."""
    return as_text(value_of(tag, value))


def as_text(shown: object) -> str:
    """The same of what `value_of` gave."""
    if isinstance(shown, dict):
        return "[" + ", ".join(f"{name}={as_text(value)}" for name, value in shown.items()) + "]"
    if isinstance(shown, list):
        return ("" if shown and isinstance(shown[0], dict) else "\\").join(map(as_text, shown))
    return "" if shown is None else str(shown)


def form_of(tag: int) -> Form:
    """What a terminal may do to the values of an attribute where there is no room for them."""
    vr = tags.vr_of(tag)
    if vr == "SQ":
        return Form.WRAPPED
    is_text = vr in ("LO", "LT", "PN", "ST", "UC", "UN", "UT") and not name_of(tag).endswith("ID")
    return Form.CUT if is_text else Form.WHOLE


def _has_several_values(tag: int) -> bool:
    """Whether PS3.6 allows it; a private attribute is a list where it has several."""
    return tag in tags.SEVERAL_VALUED or tag in tags.OTHERS_SEVERAL_VALUED


def _values(vr: str, value: bytes) -> list[object]:
    if vr == "AT":
        return [name_of(group << 16 | element) for group, element in _pairs(value)]
    form = _NUMBERS.get(vr)
    if form is not None:
        whole = value[: len(value) - len(value) % struct.calcsize(form)]
        return [number for (number,) in struct.iter_unpack(form, whole)]
    texts = values.split(vr, value.decode("utf-8", "replace"))
    return [_number(vr, text) for text in texts] if vr in ("IS", "DS") else list[object](texts)


def _number(vr: str, text: str) -> object:
    """An IS or DS as a number; the text where it is none."""
    try:
        number = int(text) if vr == "IS" else float(text)
    except ValueError:
        return text or None
    return number if math.isfinite(number) else text


def _items(tag: int, value: bytes) -> list[Identifier]:
    """The items of a sequence of a match; none if they cannot be read."""
    header = struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, b"SQ", len(value))
    try:
        return decode_identifier(header + value, EXPLICIT_VR_LITTLE_ENDIAN).sequence(tag)
    except DataSetError:
        return []


def _item(item: Identifier) -> dict[str, object]:
    return {
        name_of(tag): value_of(tag, value) if isinstance(value, bytes) else [_item(inner) for inner in value]
        for tag, value in item.items.items()
    }


def _pairs(value: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<HH", value[: len(value) // 4 * 4]))


def _path(name: str) -> list[int]:
    """The tags that lead to an attribute, through sequences."""
    path = []
    steps = name.strip().split(".")
    for number, step in enumerate(steps):
        match = re.fullmatch(r"(.*?)(?:\[(.*)\])?", step)
        tag = tag_of(match[1] if match else step)
        if match and match[2] is not None and match[2].strip() != "0":
            raise QueryError(f"{name}: a sequence is matched by one item, which is {match[1]}[0] (PS3.4 C.2.2.2.6)")
        is_entered = number < len(steps) - 1 or (match is not None and match[2] is not None)
        if is_entered and tags.vr_of(tag) not in ("SQ", "UN"):
            raise QueryError(f"{name}: {name_of(tag)} is no sequence")
        path.append(tag)
    return path


def _put(wanted: dict[int, Value], path: list[int], value: str) -> None:
    tag, *inner = path
    if inner:
        items = wanted.get(tag)
        if not isinstance(items, list):
            items = wanted[tag] = [{}]
        _put(items[0], inner, value)
    elif value and tags.vr_of(tag) == "SQ":
        raise QueryError(f"{name_of(tag)} is a sequence: {name_of(tag)}.ATTRIBUTE=VALUE asks for what is in it")
    else:
        key_values.check(name_of(tag), tags.vr_of(tag), value)
        wanted[tag] = value


def _by_number(name: str) -> int | None:
    match = re.fullmatch(r"\(?([0-9a-fA-F]{4}),?\s*((?:[0-9a-fA-F]{2}|[xX]{2})[0-9a-fA-F]{2})\)?", name.strip())
    # xx: a private attribute in whichever block; the index has it in the first one.
    return int(match[1] + re.sub("[xX]{2}", "10", match[2]), 16) if match else None


def _level(value: str) -> str:
    try:
        return _LEVEL_NAMES[value.strip().upper()]
    except KeyError:
        raise QueryError(f"QueryRetrieveLevel={value}: it is one of {', '.join(_LEVEL_NAMES)}") from None


@cache
def _keywords() -> list[str]:
    return [name for name, value in vars(tags).items() if isinstance(value, int) and name[:1].isupper()]
