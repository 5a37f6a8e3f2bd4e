"""Checks whether typed text is a valid value for a key: a UID, a date, a time, a number, or a list or range of these.

A key that can match nothing is a mistake: `find` would answer "no matches", and `hold` would hold nothing. `""` (no
value) and `*` (any) are always valid. Text of other VRs is not checked. PS3.4 C.2.2.2 defines the meaning of values.
"""

from __future__ import annotations

import re
from datetime import date

from engine.dicom import conformance, values
from engine.dicom.plain_values import EMPTY_VALUE
from engine.errors import QueryError

UID_CHARACTERS_MAX = 128
"""The longest UID that the archive stores (`archive.ingest`); PS3.5 9.1 allows 64."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_FOREIGN_UID = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z_-])[A-Za-z0-9._-]+")
"""What programs that remove identities store in the place of UIDs: hashes and GUIDs, which must be found too."""
_SEPARATED_DATE = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_MONTH = re.compile(r"(\d{4})-?(\d{2})")
_YEAR = re.compile(r"\d{4}")


def check_uid(text: str, what: str = "UID") -> None:
    """Raises QueryError when the text is not a UID."""
    fault = _fault_of_uid(text)
    if fault:
        raise QueryError(f"{what} {text!r}: {fault}")


def guess_key(text: str) -> str:
    """Guesses KEY=VALUE for a value that was typed without a key: a UID, a date, an ID, or a name."""
    if _UID.fullmatch(text) and text.count(".") > 2:
        return f"StudyInstanceUID={text}"
    if _is_whole_day(text) or (text and _suggested(text)):
        return f"StudyDate={text if _is_whole_day(text) else _suggested(text)}"
    return f"{'PatientID' if re.search('[0-9]', text) else 'PatientName'}={text}"


def check(name: str, vr: str, text: str) -> None:
    """Raises QueryError for a value that the attribute `name`, of this VR, can never match."""
    if not text.strip(" *"):
        return
    for value in values.split(vr, text):
        fault = "" if value.strip() in ("", EMPTY_VALUE) else _fault(vr, value.strip(" \0"))
        if fault:
            raise QueryError(f"{name}={text}: {fault}")


def _fault(vr: str, value: str) -> str:
    if vr == "UI":
        return _fault_of_uid(value)
    if vr in ("DA", "TM", "DT"):
        return _fault_of_moment(vr, value)
    if vr in ("IS", "DS") and not re.search("[*?]", value):
        return conformance.fault(vr, value)
    return ""


def _fault_of_uid(text: str) -> str:
    if "*" in text or "?" in text:
        return "a UID has no wild cards * and ? (PS3.4 C.2.2.2.2)"
    if not _UID.fullmatch(text) and not _FOREIGN_UID.fullmatch(text):
        return "it is not a UID; a UID has digits and dots, such as 1.2.840.113619.2.55"
    if len(text) > UID_CHARACTERS_MAX:
        return f"it is not a UID: it has {len(text)} characters"
    return ""


def _fault_of_moment(vr: str, text: str) -> str:
    ends = values.parse_range(vr, text)
    if ends is None:
        return "" if _is_moment(vr, text) else _no_moment(vr, text)
    low, high = ends
    # A DT may have a hyphen in its offset: split it as parse_range does.
    if vr != "DT" and not all(_is_end(vr, end.strip()) for end in text.split("-") if end.strip()):
        return _no_moment(vr, text)
    if vr == "DT" and not all(_is_day(end.low[:8]) for end in (low, high) if end):
        return _no_moment(vr, text)
    if low and high and values.instant(high.high, high.offset).is_before(values.instant(low.low, low.offset)):
        return "the range ends before it begins"
    return ""


def _is_moment(vr: str, text: str) -> bool:
    if vr == "DT":
        span = values.precision_range("DT", text)
        return span is not None and not conformance.fault("TM", span.low[8:14]) and _is_day(span.low[:8])
    return _is_end(vr, text) and not (vr == "DA" and len(text) < 8)


def _is_end(vr: str, text: str) -> bool:
    """Whether this is an existing date or time; a date may lack day and month."""
    if vr == "TM":
        return values.precision_range("TM", text) is not None and not conformance.fault("TM", text.replace(":", ""))
    day = values.normal_date(text)
    return day.isdecimal() and len(day) in (4, 6, 8) and _is_day(day + "0101"[len(day) - 4 :] if len(day) < 8 else day)


def _is_day(text: str) -> bool:
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return False
    return True


def _no_moment(vr: str, text: str) -> str:
    if vr == "TM":
        return "it is not a time; write 1015 or 101530, or a range such as 1000-1159"
    what = "date" if vr == "DA" else "date and time"
    return f"it is not a {what}; write {_suggested(text) or ('20261124' if vr == 'DA' else '20261124101530')}"


def _suggested(text: str) -> str:
    """The value in DICOM's form, if its meaning is clear."""
    if _YEAR.fullmatch(text):
        return f"{text}0101-{text}1231"
    month = _MONTH.fullmatch(text)
    if month and 1 <= int(month[2]) <= 12:
        return f"{month[1]}{month[2]}-{month[1]}{month[2]}"
    plain = _SEPARATED_DATE.sub(lambda date: f"{date[1]}{int(date[2]):02}{int(date[3]):02}", text).replace(" ", "")
    parts = [part for part in plain.split("-") if part]
    return plain if plain != text and len(parts) <= 2 and parts and all(map(_is_whole_day, parts)) else ""


def _is_whole_day(text: str) -> bool:
    return len(text) == 8 and text.isdecimal() and _is_day(text)
