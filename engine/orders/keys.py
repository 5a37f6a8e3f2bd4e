"""Keys of queries for steps (PS3.4 C.2.2.2): what values a key has, and a test of one value for each.

Several values are alternatives. Person names match without case and accents. A wild card may stand in every text; dates
and times are values of any precision, or ranges.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from engine.dicom import charset, tags, values
from engine.errors import QueryError

VALUES_MAX: Final = 1000
"""Values of one key."""
WILD_VALUES_MAX: Final = 100
VALUE_CHARACTERS_MAX: Final = 1024
WILD_CHARACTERS_MAX: Final = 256
"""Of a value with wild cards. Each character of it may be compared with each of a comment."""

_WILD_VRS = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
FIRST_DAY, LAST_DAY = "00000000", "99999999"
_OPEN_ENDS = {"DA": (FIRST_DAY, LAST_DAY), "TM": ("0", "999999.999999"), "DT": ("0", "99991231235959.999999")}

Test = Callable[[str], bool]


def texts_of(tag: int, value: bytes, character_set: bytes) -> list[str]:
    """The values of a key; none if it matches everything. Raises QueryError."""
    vr = tags.vr_of(tag)
    if vr in ("US", "SQ"):
        return []
    text = charset.decode(value, character_set, vr)
    texts = [part.strip(" \0") for part in values.split(vr, text) if part.strip(" \0")]
    if any(not part.strip("*") for part in texts):
        return []
    if len(texts) > VALUES_MAX or any(len(part) > VALUE_CHARACTERS_MAX for part in texts):
        raise QueryError(f"{tags.keyword_of(tag)} has too many values, or too long ones", tag)
    wild = [part for part in texts if "*" in part or "?" in part]
    if len(wild) > WILD_VALUES_MAX or any(len(part) > WILD_CHARACTERS_MAX for part in wild):
        raise QueryError(f"{tags.keyword_of(tag)} has too many values with wild cards, or too long ones", tag)
    return texts


def interval_of(vr: str, text: str) -> tuple[str, str] | None:
    """The first and the last normal value that meet a date or time; None if it is neither a value nor a range."""
    ends = values.parse_range(vr, text)
    if ends is not None:
        first, last = _OPEN_ENDS[vr]
        low, high = ends
        return (_moment(low, low.low) if low else first, _moment(high, high.high) if high else last)
    span = values.precision_range(vr, text)
    return None if span is None else (_moment(span, span.low), _moment(span, span.high))


def _moment(span: values.Span, wall: str) -> str:
    """In UTC if it has an offset, as `values.normalise` has it."""
    return values.instant(wall, span.offset).normal() if span.offset else wall


def condition_of(tag: int, vr: str, text: str) -> Test:
    """A test of one value. Raises QueryError for a date or time that is none."""
    if vr in ("DA", "TM", "DT"):
        interval = interval_of(vr, text)
        if interval is None:
            raise QueryError(f"{tags.keyword_of(tag)} is neither a value nor a range", tag)
        low, high = interval
        return lambda value: low <= values.normalise(vr, value) <= high
    if vr == "PN":
        return _name_test(text)
    normal = values.normalise(vr, text)
    if vr in _WILD_VRS and ("*" in normal or "?" in normal):
        matches = pattern_of(normal)
        return lambda value: matches(values.normalise(vr, value)) is not None
    return lambda value: values.normalise(vr, value) == normal


def _name_test(text: str) -> Test:
    """A single group of a name matches any group, several match one by one."""
    groups = values.fold_person_name(text).split("=")
    tests = [pattern_of(group) if group else None for group in groups]

    def test(value: str) -> bool:
        stored = values.fold_person_name(value).split("=")
        if len(tests) == 1 and tests[0] is not None:
            return any(tests[0](group) is not None for group in stored if group)
        stored += [""] * (len(tests) - len(stored))
        return all(each is None or each(group) is not None for each, group in zip(tests, stored, strict=False))

    return test


def pattern_of(text: str) -> Callable[[str], object]:
    """A full match of a text with wild cards, without backtracking: (?>…), first match of each piece."""
    first, *others = [re.escape(part).replace(r"\?", ".") for part in re.sub(r"\*+", "*", text).split("*")]
    middle = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    return re.compile(f"{first}{middle}.*{others[-1]}" if others else first, re.DOTALL).fullmatch
