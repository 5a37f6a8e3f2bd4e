r"""Normal forms of text values by VR: what matching compares and the index orders by.

Does not match: `index.matching` does. Takes decoded text, one value at a time (`split` first); two values that PS3.4
C.2.2.2 wants to match have the same normal form, and normal forms of dates, times and date-times order as strings.

    PN  accents and case folded, groups and components kept in order, empty ones at the end dropped
    DA  YYYYMMDD            TM  HHMMSS.FFFFFF          DT  YYYYMMDDHHMMSS.FFFFFF (in UTC if it names an offset)
    IS  as an integer       DS  shortest decimal       UI  without padding      others  NFC, insignificant spaces gone

What is no date, time or number stays as it is, stripped: it can still be found by the same text.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Final

SINGLE_VALUE_VRS: Final = frozenset(("LT", "ST", "UR", "UT"))
"""In these a backslash is a character (PS3.5 6.2)."""
_LEADING_SPACES_COUNT: Final = frozenset(("LT", "ST", "UC", "UT"))

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?")
# Offsets reach from -1200 to +1400 (PS3.5 6.2), which is what tells "2026-0500" from the range "2026-2027".
_OFFSET = r"[+-](?:0\d|1[0-4])[0-5]\d"
_DATE_TIME = re.compile(rf"(\d{{4}})(\d{{2}})?(\d{{2}})?(\d{{2}})?(\d{{2}})?(\d{{2}})?(?:\.(\d{{1,6}}))?({_OFFSET})?")
_MOMENT = rf"\d{{4,14}}(?:\.\d{{1,6}})?(?:{_OFFSET})?"
_DATE_TIME_RANGE = re.compile(rf"({_MOMENT})-({_MOMENT})|({_MOMENT})-|-({_MOMENT})")
_INTEGER = re.compile(r"[+-]?\d{1,12}")


def split(vr: str, text: str) -> list[str]:
    """The values of an element; one for a VR that has no multiplicity, none for an empty text."""
    if not text:
        return []
    return [text] if vr in SINGLE_VALUE_VRS else text.split("\\")


def strip(vr: str, text: str) -> str:
    """Without the spaces that do not count (PS3.5 6.2), and NULs."""
    return text.rstrip(" \0") if vr in _LEADING_SPACES_COUNT else text.strip(" \0")


def normalise(vr: str, text: str) -> str:
    """The normal form of one value."""
    text = strip(vr, text)
    if vr == "PN":
        return fold_person_name(text)
    if vr == "UI":
        return text
    if vr == "DA":
        return normal_date(text)
    if vr == "TM":
        return normal_time(text)
    if vr == "DT":
        return normal_date_time(text)
    if vr == "IS":
        return str(int(text)) if _INTEGER.fullmatch(text) else text
    if vr == "DS":
        return _normal_decimal(text)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Case and accents gone, full-width and half-width forms one."""
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    bare = "".join(character for character in decomposed if not _is_accent(character))
    return unicodedata.normalize("NFC", bare)


def _is_accent(character: str) -> bool:
    """A mark on a Latin, Greek or Cyrillic letter; those of kana and of Indic scripts make other letters."""
    return "\u0300" <= character <= "\u036f"


def fold_person_name(text: str) -> str:
    """A person name for matching: 'Müller^Jörg^^Dr.^=' and 'MULLER^JORG^^DR.' are one."""
    groups = []
    for group in fold(text).split("="):
        components = [" ".join(component.split()) for component in group.split("^")]
        groups.append("^".join(components).rstrip("^"))
    return "=".join(groups).rstrip("=")


def normal_date(text: str) -> str:
    """YYYYMMDD, also from the YYYY.MM.DD of ACR-NEMA."""
    found = _DATE.fullmatch(text)
    return "".join(found.groups()) if found else text


def normal_time(text: str) -> str:
    """HHMMSS.FFFFFF; what is left out counts as 0."""
    found = _TIME.fullmatch(text)
    if not found:
        return text
    hours, minutes, seconds, fraction = found.groups(default="")
    return f"{hours}{minutes or '00'}{seconds or '00'}.{fraction.ljust(6, '0')}"


def normal_date_time(text: str) -> str:
    """YYYYMMDDHHMMSS.FFFFFF, missing parts at their lowest, brought to UTC if the text says its offset."""
    found = _DATE_TIME.fullmatch(text)
    if not found:
        return text
    year, month, day, hours, minutes, seconds, fraction, offset = found.groups(default="")
    digits = f"{year}{month or '01'}{day or '01'}{hours or '00'}{minutes or '00'}{seconds or '00'}"
    normal = f"{digits}.{fraction.ljust(6, '0')}"
    return _in_utc(normal, offset) if offset else normal


def _in_utc(normal: str, offset: str) -> str:
    sign = -1 if offset[0] == "-" else 1
    try:
        zone = timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5])))
        moment = datetime.strptime(normal, "%Y%m%d%H%M%S.%f").replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return normal
    return moment.strftime("%Y%m%d%H%M%S.%f").rjust(21, "0")


def _normal_decimal(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite() or len(text) > 16 or abs(number.adjusted()) > 32:
        return text
    return format(number.normalize() + 0, "f")


# ranges ----------------------------------------------------------------------------------------------------------


def parse_range(vr: str, text: str) -> tuple[str, str] | None:
    """A DA, TM or DT key as its lowest and highest normal form; None if the key is no range.

    An open end is "" or the highest possible string. A single value of lesser precision is no range here, but see
    `precision_range`. The hyphen of a DT offset ("-0500") ends no range (PS3.4 C.2.2.2.5).
    """
    text = text.strip(" \0")
    if vr not in ("DA", "TM", "DT") or "-" not in text:
        return None
    ends = _split_date_times(text) if vr == "DT" else tuple(text.split("-"))
    if len(ends) != 2 or not any(ends):
        return None
    low, high = ends[0].strip(), ends[1].strip()
    return (normalise(vr, low) if low else "", precision_range(vr, high)[1] if high else "\uffff")


def _split_date_times(text: str) -> tuple[str, ...]:
    """The two ends of a DT range, whose hyphens may belong to offsets."""
    found = None if _DATE_TIME.fullmatch(text) else _DATE_TIME_RANGE.fullmatch(text)
    if found is None:
        return ()
    return (found[1] or found[3] or "", found[2] or found[4] or "")


def precision_range(vr: str, text: str) -> tuple[str, str]:
    """The lowest and highest moment that a value of any precision covers: '10' is 100000.000000 to 105959.999999."""
    low = normalise(vr, text)
    text = text.strip(" \0").replace(":", "")
    if vr == "TM" and _TIME.fullmatch(text):
        digits, _, fraction = text.partition(".")
        return low, f"{digits}{'235959'[len(digits) :]}.{fraction.ljust(6, '9')}"
    if vr == "DT" and (found := _DATE_TIME.fullmatch(text)):
        offset = found[8] or ""
        digits, _, fraction = text.removesuffix(offset).partition(".")
        high = f"{digits}{'99991231235959'[len(digits) :]}.{fraction.ljust(6, '9')}"
        return low, _in_utc(high, offset) if offset else high
    return low, low
