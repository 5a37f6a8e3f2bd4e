"""Whether the attributes of an N-CREATE or N-SET have values that their VR allows (PS3.5 6.2), at any depth.

    texts          no longer than the VR allows (SH, LO and PN up to 256); no control characters; AS, CS, DA, DS, DT,
                   IS, TM and UI of their form
    numbers        whole values
    sequences      items, and nothing else; a coded entry has a code; some have one item at most (CC.2.5)
    unknown tags   anything

What a stored instance has may be worse: workitems that the archive makes of it are not asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Final

from engine.dicom import tags, values
from engine.errors import WorkitemRefused
from engine.orders.attributes import Items, values_of
from engine.orders.workitems.rules import Fault, is_uid

_CHARACTERS_MAX: Final[Mapping[str, int]] = {
    "AE": 16, "AS": 4, "CS": 16, "DA": 8, "DS": 16, "DT": 26, "IS": 12, "LO": 256, "LT": 10_240, "SH": 256, "ST": 1024,
    "TM": 14, "UI": 64,
}  # fmt: skip
"""SH (16 in PS3.5) and LO (64) are longer here: numbers and names come from orders of HL7, which has up to 250
characters, and a client that copies an accession number of 20 characters must not fail."""
_GROUP_CHARACTERS_MAX: Final = 256
"""Of each component group of a PN (64 in PS3.5)."""
_WIDTHS: Final[Mapping[str, int]] = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "AT": 4, "UV": 8, "SV": 8}

_CODED: Final = frozenset((
    tags.ScheduledStationNameCodeSequence, tags.ScheduledStationClassCodeSequence,
    tags.ScheduledStationGeographicLocationCodeSequence, tags.ScheduledWorkitemCodeSequence,
    tags.PerformedStationNameCodeSequence, tags.PerformedWorkitemCodeSequence, tags.HumanPerformerCodeSequence,
    tags.ProcedureStepDiscontinuationReasonCodeSequence,
))  # fmt: skip
_CODES: Final = (tags.CodeValue, tags.LongCodeValue, tags.URNCodeValue)
_SINGLE: Final = frozenset((
    tags.ProcedureStepProgressInformationSequence, tags.UnifiedProcedureStepPerformedProcedureSequence,
    tags.ScheduledWorkitemCodeSequence,
))  # fmt: skip

_DATE = re.compile(r"\d{8}", re.ASCII)
_CODE_STRING = re.compile(r"[A-Z0-9 _]*", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)
_FORMS: Final[Mapping[str, Callable[[str], object]]] = {
    "AS": _AGE.fullmatch,
    "CS": _CODE_STRING.fullmatch,
    "DS": _DECIMAL.fullmatch,
    "IS": _INTEGER.fullmatch,
    "UI": is_uid,
    "DA": lambda text: _is_date(text),
    "DT": lambda text: values.precision_range("DT", text),
    "TM": lambda text: values.precision_range("TM", text),
}


def check(items: Items) -> None:
    """Raises WorkitemRefused, with the tag of the attribute of the root. `items`: with texts in UTF-8."""
    for tag, value in items.items():
        wrong = _wrong(tag, value)
        if wrong:
            raise WorkitemRefused(wrong, Fault.VALUE, (tag,))
    progress = items.get(tags.ProcedureStepProgressInformationSequence) or b""
    for item in () if isinstance(progress, bytes) else progress:
        share = values_of(item).get(tags.ProcedureStepProgress) or b""
        text = share.decode("ascii", "replace").strip(" \0") if isinstance(share, bytes) else ""
        if text and not 0 <= float(text) <= 100:
            tag = tags.ProcedureStepProgressInformationSequence
            raise WorkitemRefused("ProcedureStepProgress is no percentage", Fault.VALUE, (tag,))


def _wrong(tag: int, value: object) -> str:
    """What is wrong with an attribute, in words without its value; "": nothing."""
    vr, name = tags.vr_of(tag), tags.keyword_of(tag)
    if vr == "UN" or value in (b"", []):
        return ""
    if isinstance(value, list):
        return _wrong_items(tag, value) if vr == "SQ" else f"{name} is no sequence"
    if not isinstance(value, bytes) or vr == "SQ":
        return f"{name} is a sequence"
    if vr in _WIDTHS:
        return "" if len(value) % _WIDTHS[vr] == 0 else f"{name} has a part of a number"
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return "" if vr in ("OB", "OW", "OF", "OD", "OL", "OV") else f"{name} is no text in its character set"
    if any(not _is_right(vr, values.strip(vr, part)) for part in values.split(vr, text)):
        return f"{name} is longer than {vr} allows, or has another form"
    return ""


def _is_date(text: str) -> bool:
    try:
        return _DATE.fullmatch(text) is not None and date(int(text[:4]), int(text[4:6]), int(text[6:])) is not None
    except ValueError:
        return False


def _is_right(vr: str, text: str) -> bool:
    if vr == "PN":
        return all(len(group) <= _GROUP_CHARACTERS_MAX for group in text.split("=")) and text.count("=") <= 2
    if len(text) > _CHARACTERS_MAX.get(vr, len(text)):
        return False
    if vr in ("SH", "LO", "AE", "UC", "UR") and any(each < " " and each != "\x1b" for each in text):
        return False
    form = _FORMS.get(vr)
    return not text or form is None or bool(form(text))


def _wrong_items(tag: int, items: list[object]) -> str:
    name = tags.keyword_of(tag)
    if tag in _SINGLE and len(items) > 1:
        return f"{name} has more than one item"
    for item in items:
        inner = values_of(item)  # type: ignore[arg-type]
        if tag in _CODED and not any(inner.get(each) for each in _CODES):
            return f"an item of {name} has no code"
        for within, value in inner.items():
            wrong = _wrong(within, value)
            if wrong:
                return f"in {name}: {wrong}"
    return ""
