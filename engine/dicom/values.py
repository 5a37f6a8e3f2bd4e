r"""Normal forms of text values by VR: matching compares them, and the index orders by them.

Takes decoded text, one value at a time (call `split` first). Two values that match by PS3.4 C.2.2.2 have the same
normal form, and normal forms of dates, times and date-times order as strings. `index.query` does the matching.

    PN  accents and case folded, groups and components kept in order, empty ones at the end dropped
    DA  YYYYMMDD            TM  HHMMSS.FFFFFF          DT  YYYYMMDDHHMMSS.FFFFFF (in UTC if it names an offset)
    IS  as an integer       DS  shortest decimal       UI  without padding
    CS  in capitals, as PS3.5 6.2 demands                       others  NFC, without insignificant spaces

An invalid date, time or number is only stripped: the same text still finds it.

A date or time of lower precision is a `Span`; its normal form is the first moment of the span. Two date-times are
compared in UTC if both have an offset, else by the time on the clock (`Instant`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

SINGLE_VALUE_VRS: Final = frozenset(("LT", "ST", "UR", "UT"))
"""VRs in which a backslash is an ordinary character (PS3.5 6.2)."""
_LEADING_SPACES_COUNT: Final = frozenset(("LT", "ST", "UC", "UT"))

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})", re.ASCII)
_TIME = re.compile(r"\d{2}:?(?:\d{2}:?(?:\d{2}(?:\.\d{1,6})?)?)?", re.ASCII)
_PART_OF_DATE = re.compile(r"\d{4}(?:\d{2})?", re.ASCII)
# Offsets are -1200 to +1400 (PS3.5 6.2), which distinguishes "2026-0500" from the range "2026-2027".
_OFFSET = r"[+-](?:0\d|1[0-4])[0-5]\d"
_DATE_TIME = re.compile(rf"(\d{{4}}(?:\d{{2}}){{0,4}}|\d{{14}}(?:\.\d{{1,6}})?)({_OFFSET})?", re.ASCII)
_MOMENT = rf"\d{{4,14}}(?:\.\d{{1,6}})?(?:{_OFFSET})?"
_DATE_TIME_RANGE = re.compile(rf"({_MOMENT})? *- *({_MOMENT})?", re.ASCII)
_OFFSET_ONLY = re.compile(_OFFSET, re.ASCII)
_INTEGER = re.compile(r"([+-]?\d{1,12})(?:\.0*)?", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?", re.ASCII)

# Letters whose stroke or missing dot Unicode does not decompose; people type the bare letter.
_BARE_LETTERS = str.maketrans("đðħıłøŧς", "ddhilotσ")
_SPELT_OUT = str.maketrans({"þ": "th", "æ": "ae", "œ": "oe"})


def split(vr: str, text: str) -> list[str]:
    """The values of an element: one for a VR without multiplicity, none for an empty text."""
    if not text:
        return []
    return [text] if vr in SINGLE_VALUE_VRS else text.split("\\")


def strip(vr: str, text: str) -> str:
    """Removes insignificant spaces (PS3.5 6.2), and NULs."""
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
        return str(int(match[1])) if (match := _INTEGER.fullmatch(text)) else text
    if vr == "DS":
        return _normal_decimal(text)
    if vr == "CS":
        text = text.upper()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Removes case and accents, and makes full-width and half-width forms equal."""
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    bare = "".join(character for character in decomposed if not _is_accent(character))
    return unicodedata.normalize("NFC", bare.translate(_BARE_LETTERS).translate(_SPELT_OUT))


def fold_by_letter(text: str) -> str:
    """The same, but each letter stays one letter (ß, not ss), so that `?` matches it."""
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).lower())
    bare = "".join(character for character in decomposed if not _is_accent(character))
    return unicodedata.normalize("NFC", bare.translate(_BARE_LETTERS))


def _is_accent(character: str) -> bool:
    """Whether this is an accent of a Latin, Greek or Cyrillic letter; marks of other scripts make other letters."""
    return "\u0300" <= character <= "\u036f"


def fold_person_name(text: str, fold: Callable[[str], str] = fold) -> str:
    """A person name for matching: 'Müller^Jörg^^Dr.^=' and 'MULLER^JORG^^DR.' are equal."""
    groups = []
    for group in fold(text).split("="):
        components = [" ".join(component.split()) for component in group.split("^")]
        groups.append("^".join(components).rstrip("^"))
    return "=".join(groups).rstrip("=")


def normal_date(text: str) -> str:
    """YYYYMMDD, also from ACR-NEMA's YYYY.MM.DD."""
    match = _DATE.fullmatch(text)
    return "".join(match.groups()) if match else text


def normal_time(text: str) -> str:
    """HHMMSS.FFFFFF; missing parts are 0."""
    span = _time_span(text)
    return span.low if span else text


def normal_date_time(text: str) -> str:
    """YYYYMMDDHHMMSS.FFFFFF with the lowest values for missing parts; in UTC if the text has an offset."""
    span = _date_time_span(text)
    return text if span is None else instant(span.low, span.offset).normal()


def _normal_decimal(text: str) -> str:
    if len(text) > 16 or not _DECIMAL.fullmatch(text):
        return text
    number = Decimal(text)
    return text if abs(number.adjusted()) > 32 else format(number.normalize() + 0, "f")


# precision and ranges --------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """The first and the last moment of a date or time, as local time."""

    low: str
    high: str
    offset: str = ""
    """From UTC, if a DT has it: +0100."""


def precision_range(vr: str, text: str) -> Span | None:
    """The span of a value of any precision: '10' is 100000.000000 to 105959.999999. None if it is no date or time."""
    text = text.strip(" \0")
    if vr == "TM":
        return _time_span(text)
    if vr == "DT":
        return _date_time_span(text)
    date = normal_date(text)
    return Span(date, date) if _DATE.fullmatch(date) else None


def _time_span(text: str) -> Span | None:
    if not _TIME.fullmatch(text):
        return None
    digits, _, fraction = text.replace(":", "").partition(".")
    return Span(
        f"{digits}{'000000'[len(digits) :]}.{fraction.ljust(6, '0')}",
        f"{digits}{'235959'[len(digits) :]}.{fraction.ljust(6, '9')}",
    )


def _date_time_span(text: str) -> Span | None:
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        return None
    digits, _, fraction = match[1].partition(".")
    return Span(
        f"{digits}{'00000101000000'[len(digits) :]}.{fraction.ljust(6, '0')}",
        f"{digits}{'99991231235959'[len(digits) :]}.{fraction.ljust(6, '9')}",
        match[2] or "",
    )


def parse_range(vr: str, text: str) -> tuple[Span | None, Span | None] | None:
    """The two ends of a DA, TM or DT range, None for an open end; None if the key is not a range.

    The hyphen of a DT offset ("-0500") does not make a range (PS3.4 C.2.2.2.5.3). A date may lack day and month here.
    """
    text = text.strip(" \0")
    if "-" not in text:
        return None
    if vr == "DT":
        match = None if _DATE_TIME.fullmatch(text) else _DATE_TIME_RANGE.fullmatch(text)
        ends = (match[1] or "", match[2] or "") if match else ("", "")
    elif vr in ("DA", "TM") and text.count("-") == 1:
        low, _, high = text.partition("-")
        ends = (low.strip(), high.strip())
    else:
        return None
    spans = [_end(vr, end) if end else None for end in ends]
    if not any(ends) or any(end and span is None for end, span in zip(ends, spans, strict=True)):
        return None
    return spans[0], spans[1]


def _end(vr: str, text: str) -> Span | None:
    if vr == "DA" and _PART_OF_DATE.fullmatch(text):
        return Span(text + "0101"[len(text) - 4 :], text + "1231"[len(text) - 4 :])
    return precision_range(vr, text)


# zones -----------------------------------------------------------------------------------------------------------


class Instant(NamedTuple):
    """A moment as local time, and in UTC if its offset is known, else ""."""

    wall: str
    """Local time."""
    utc: str

    def normal(self) -> str:
        """The normal form of a DT."""
        return self.utc or self.wall

    def is_before(self, other: Instant) -> bool:
        """Whether it is earlier: in UTC if both have it, else by local time."""
        return self.utc < other.utc if self.utc and other.utc else self.wall < other.wall


def instant(wall: str, offset: str) -> Instant:
    """The moment of a normal form in local time; `offset` of its zone, "" if unknown."""
    minutes = offset_minutes(offset)
    return Instant(wall, "" if minutes is None else add_minutes(wall, -minutes))


def offset_minutes(offset: str) -> int | None:
    """Minutes east of UTC, from '+0100'; None if it is not an offset."""
    offset = offset.strip(" \0")
    if not _OFFSET_ONLY.fullmatch(offset):
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return -minutes if offset[0] == "-" else minutes


def add_minutes(normal: str, minutes: int) -> str:
    """The normal form of a DT or DA, later by `minutes`. An invalid date is returned unchanged."""
    try:
        start = datetime.strptime(normal[:14], "%Y%m%d%H%M%S" if len(normal) > 8 else "%Y%m%d")
        later = start + timedelta(minutes=minutes)
    except (ValueError, OverflowError):
        return normal
    digits = f"{later.year:04}{later:%m%d%H%M%S}"
    return digits + normal[14:] if len(normal) > 8 else digits[:8]
