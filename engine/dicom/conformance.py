"""Checks whether a text is a valid value for a VR. Use it for typed text, never for received values.

Standard: PS3.5 6.2, Table 6.2-1. Takes decoded text; lengths are in characters, as there.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from engine.dicom import values

_LENGTH_MAX: Final = {"AE": 16, "CS": 16, "LO": 64, "LT": 10240, "SH": 16, "ST": 1024, "UI": 64}
_GROUP_LENGTH_MAX: Final = 64
"""Limit for each group of a person name."""
_GROUPS_MAX: Final = 3
_COMPONENTS_MAX: Final = 5

_PATTERNS: Final = {
    "AS": (re.compile(r"\d{3}[DWMY]"), "an age such as 043Y"),
    "CS": (re.compile(r"[A-Z0-9_ ]*"), "a code of capital letters, digits, spaces and underscores"),
    "DS": (re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([Ee][+-]?\d+)?"), "a number of up to 16 characters"),
    "IS": (re.compile(r"[+-]?\d{1,12}"), "a whole number of up to 12 characters"),
    "TM": (
        re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"),
        "a time such as 1015 or 101530.5",
    ),
    "UI": (re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*"), "a UID"),
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
"""Tab, line feed, form feed and carriage return are allowed in texts."""
_PARAGRAPH_VRS: Final = frozenset(("LT", "ST", "UT"))


def fault(vr: str, text: str) -> str:
    """Why a text is not a valid value of this VR, in words without the text itself; "" if it is valid."""
    if (_CONTROL_IN_TEXT if vr in _PARAGRAPH_VRS else _CONTROL).search(text):
        return "it contains control characters"
    faults = (_fault_of_value(vr, values.strip(vr, value)) for value in values.split(vr, text))
    return next(filter(None, faults), "")


def _fault_of_value(vr: str, value: str) -> str:
    if not value:
        return ""
    if vr == "PN":
        return _fault_of_name(value)
    if vr == "DA":
        return "" if _is_date(value) else "it is not a date; write 20261124"
    if vr == "DT":
        return "" if _is_date(value[:8]) else "it is not a date and time; write 20261124101530"
    pattern, description = _PATTERNS.get(vr, (None, ""))
    if (pattern is not None and not pattern.fullmatch(value)) or (vr in ("DS", "IS") and len(value) > 16):
        return f"it is not {description}"
    if len(value) > _LENGTH_MAX.get(vr, len(value)):
        return f"it has {len(value)} characters; the limit is {_LENGTH_MAX[vr]}"
    return ""


def _fault_of_name(value: str) -> str:
    groups = value.split("=")
    if len(groups) > _GROUPS_MAX:
        return "it has more than three groups (=)"
    for group in groups:
        if len(group) > _GROUP_LENGTH_MAX:
            return f"one of its groups has {len(group)} characters; the limit is {_GROUP_LENGTH_MAX}"
        if group.count("^") >= _COMPONENTS_MAX:
            return "one of its groups has more than five components (^)"
    return ""


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return len(text) == 8 and text.isdigit()
