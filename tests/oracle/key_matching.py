"""One key of an identifier against one attribute of an entity, by PS3.4 C.2.2.2: slow and obvious.

Works on values as pydicom decodes them. A verdict is YES, NO or OPEN. OPEN is where the standard leaves the answer to
the archive: a range over a stored value that is no date, a time of a coarser precision than the other, several values
without Multiple Value Matching.

Shares no code with the engine but the phonetic codes, which are what "by sound" is defined by.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from engine.dicom.phonetic import codes

NO, OPEN, YES = range(3)

WILD = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
TEXT = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
BINARY = {"US", "SS", "UL", "SL", "FL", "FD"}
ONE_VALUE = {"LT", "ST", "UR", "UT"}
LEADING_SPACES_COUNT = {"LT", "ST", "UC", "UT"}
MULTIPLE = {"AE", "AS", "AT", "CS", "LO", "PN", "SH", "UC"}


def tag_of(keyword: str) -> int:
    """The tag of a keyword of PS3.6."""
    found = tag_for_keyword(keyword)
    assert found is not None, keyword
    return int(found)


LEFT_BY_PYDICOM = "\x1b$)A"
"""The escape of ISO 2022 IR 58 (GB 2312), which pydicom leaves in the text."""
CREATOR = "FILMROOM TEST"
CHARACTER_SET = tag_of("SpecificCharacterSet")
ZONE = tag_of("TimezoneOffsetFromUTC")
BIRTH_DATE = tag_of("PatientBirthDate")
PAIRS = {
    tag_of(f"{name}Date"): tag_of(f"{name}Time")
    for name in ("Study", "Series", "PerformedProcedureStepStart", "Content", "InstanceCreation", "PatientBirth")
}

Values = dict[int, Any]
"""Tag → list of texts or numbers, or of items that are such again."""


@dataclass(frozen=True)
class Question:
    """What is asked; `keys` as pydicom reads them, with their Specific Character Set."""

    level: int
    keys: Dataset
    relational: bool = False
    date_time: bool = False
    fuzzy: bool = False
    timezone: bool = False
    empty_values: bool = False
    multiple_values: bool = False


# what pydicom says ---------------------------------------------------------------------------------


def vr_of(ds: Dataset, tag: int) -> str:
    """The VR of an element, by the dictionary if the data set does not say."""
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return str(ds[tag].VR)


def read(ds: Dataset, *, of_query: bool = False) -> Values:
    """The values of a data set; texts without the spaces and NULs that do not count, no value for an empty one.

    A private element is at (gggg,10xx), in whatever block it lies, and only there if its creator is CREATOR, which a
    query may leave out.
    """
    found: Values = {}
    for tag in map(int, ds.keys()):
        if tag >> 16 & 1 and tag & 0xFF00:
            creator = tag & 0xFFFF0000 | tag >> 8 & 0xFF
            is_ours = str(ds[creator].value).rstrip() == CREATOR if creator in ds else of_query
            if is_ours:
                found[tag & 0xFFFF00FF | 0x1000] = _values(ds, tag)
        elif tag != CHARACTER_SET and not tag >> 16 & 1:
            found[tag] = _values(ds, tag)
    return found


def _values(ds: Dataset, tag: int) -> list[Any]:
    vr = vr_of(ds, tag)
    if vr == "SQ":
        return [read(item) for item in ds[tag].value or []]
    if vr in TEXT or vr in BINARY:
        value = ds[tag].value
        if value is None or value == "":
            return []
        several = [value] if isinstance(value, (str, int, float)) or not hasattr(value, "append") else list(value)
        return several if vr in BINARY else stripped(vr, [str(one).replace(LEFT_BY_PYDICOM, "") for one in several])
    element = ds.get_item(tag)
    raw = element.value if isinstance(element, RawDataElement) else None
    if not isinstance(raw, bytes):
        value = ds[tag].value
        texts = [str(one) for one in (value if hasattr(value, "append") else [value])] if value is not None else []
        return stripped(vr, texts)
    text = raw.decode("latin-1")
    return stripped(vr, [text] if vr in ONE_VALUE else text.split("\\"))


def stripped(vr: str, texts: list[str]) -> list[str]:
    """Values without the spaces and NULs that do not count; none if all are empty."""
    bare = [text.rstrip(" \0") if vr in LEADING_SPACES_COUNT else text.strip(" \0") for text in texts]
    if vr == "PN":
        # pydicom drops the delimiters of empty groups at the end.
        bare = [text.rstrip("=") for text in bare]
    return bare if any(bare) else []


# one value against another -------------------------------------------------------------------------


def wild(pattern: str, text: str) -> bool:
    """C.2.2.2.4, one character of the pattern after the other."""
    ends = {0}
    for character in pattern:
        if character == "*":
            ends = set(range(min(ends), len(text) + 1)) if ends else ends
        else:
            ends = {end + 1 for end in ends if end < len(text) and character in ("?", text[end])}
    return len(text) in ends


STROKED = {"ı": "i", "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "þ": "th", "æ": "ae", "œ": "oe"}
"""Letters that Unicode does not take apart: YILDIZ is Yıldız in capitals, and Lukasik how Łukasik is typed abroad."""


def folded(text: str) -> str:
    """Case, accents and width gone."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    bare = "".join(STROKED.get(one, one) for one in apart if not "\u0300" <= one <= "\u036f")
    return unicodedata.normalize("NFC", bare)


def folded_by_letter(text: str) -> str:
    """The same, but what would be several letters stays one, as `?` may be meant: Stra?e."""
    letters = [(one, folded(one)) for one in unicodedata.normalize("NFC", text)]
    return "".join(bare if len(bare) == 1 else one for one, bare in letters)


def groups_of(name: str, fold: Callable[[str], str] = folded) -> list[str]:
    """The groups of a person name, folded; spaces around components and empty components at the end do not count."""
    groups = []
    for group in fold(name).split("="):
        components = [" ".join(component.split()) for component in group.split("^")]
        groups.append("^".join(components).rstrip("^"))
    return groups


def name_matches(key: str, stored: str) -> int:
    """Wild cards in names are for the archive to define (C.2.2.2.4): ours stand for folded letters, or whole ones."""
    if _groups_match(groups_of(key), groups_of(stored)):
        return YES
    by_letter = "?" in key and _groups_match(groups_of(key, folded_by_letter), groups_of(stored, folded_by_letter))
    return OPEN if by_letter else NO


def _groups_match(asked: list[str], there: list[str]) -> bool:
    """One group asked for may be any; several are compared one by one, an empty one with nothing."""
    while asked and not asked[-1]:
        asked.pop()
    if len(asked) == 1:
        return any(wild(asked[0], group) for group in there if group)
    pairs = zip_longest(asked, there[: len(asked)], fillvalue="")
    return all(not group or not group.strip("*") or wild(group, other) for group, other in pairs)


def words_of(name: str) -> list[str]:
    """The words of all components and groups."""
    return [word for word in re.split(r"[\^= ]+", folded(name)) if word]


def sounds_like(key: str, stored: str) -> int:
    """Every word asked for meets a stored one: by sound, by its beginning before a `*`, or as it is."""
    there = words_of(stored)
    verdict = YES
    for word in words_of(key):
        if not word.strip("*"):
            continue
        bare = word.rstrip("*")
        if "*" in bare or "?" in bare:
            verdict = min(verdict, OPEN)
        elif word != bare:
            verdict = min(verdict, YES if any(other.startswith(bare) for other in there) else NO)
        elif not any(word == other or codes(word) & codes(other) for other in there):
            return NO
    return verdict


def moment(vr: str, text: str) -> tuple[str, str] | None:
    """The first and the last moment that a date or time means; None if it is neither.

    A DT with an offset is in UTC, and ends in Z: it is not compared with one without.
    """
    if vr == "DT":
        return _date_time(text)
    if vr == "DA":
        found = re.fullmatch(r"(\d{4})(\.?)(\d\d)\2(\d\d)", text)
        if not found or not "01" <= found[3] <= "12" or not "01" <= found[4] <= "31":
            return None
        return (date := found[1] + found[3] + found[4]), date
    found = re.fullmatch(r"(\d\d)(?:(:?)(\d\d)(?:\2(\d\d)(?:\.(\d{1,6}))?)?)?", text)
    if not found or found[1] > "23" or (found[3] or "") > "59" or (found[4] or "") > "60":
        return None
    digits, fraction = found[1] + (found[3] or "") + (found[4] or ""), found[5] or ""
    low = digits + "000000"[len(digits) :] + "." + fraction.ljust(6, "0")
    return low, digits + "235959"[len(digits) :] + "." + fraction.ljust(6, "9")


OFFSET = r"[+-](?:0\d|1[0-4])[0-5]\d"
"""From -1200 to +1400 (PS3.5 6.2), which tells the year 2023 with an offset from the range of two years."""


DATE_TIME_RANGE = rf"([\d.]*(?:{OFFSET})?) *- *([\d.]*(?:{OFFSET})?)"


def _date_time(text: str) -> tuple[str, str] | None:
    found = re.fullmatch(rf"(\d{{4}}(?:\d\d){{0,5}})(?:\.(\d{{1,6}}))?({OFFSET})?", text)
    if not found or (found[2] and len(found[1]) < 14):
        return None
    digits, fraction, offset = found[1], found[2] or "", _offset(found[3] or "")
    month = digits[4:6] or "12"
    if not "01" <= month <= "12":
        return None
    last_day = monthrange(int(digits[:4]), int(month))[1]
    low = digits + "00000101000000"[len(digits) :] + "." + fraction.ljust(6, "0")
    high = digits + f"000012{last_day:02}235959"[len(digits) :] + "." + fraction.ljust(6, "9")
    if offset is None:
        return low, high
    moments = [datetime.strptime(one, "%Y%m%d%H%M%S.%f") - offset for one in (low, high)]
    return moments[0].strftime("%Y%m%d%H%M%S.%fZ"), moments[1].strftime("%Y%m%d%H%M%S.%fZ")


def ends_of(vr: str, key: str) -> tuple[str, str] | None:
    """The two ends of a range as first and last moment, "" for an open one; None if it is no range."""
    if vr not in ("DA", "TM", "DT") or "-" not in key or (vr != "DT" and key.count("-") != 1):
        return None
    cut = re.fullmatch(DATE_TIME_RANGE, key) if vr == "DT" else None
    if vr == "DT" and (cut is None or moment(vr, key) is not None):
        return None
    low, high = (part.strip() for part in (cut.groups() if cut else key.split("-")))
    first, last = moment(vr, low) if low else ("", ""), moment(vr, high) if high else ("", "")
    return None if first is None or last is None or not (low or high) else (first[0], last[1])


def in_range(ends: tuple[str, str], stored: tuple[str, str] | None) -> int:
    """A stored value that is coarser than the end that it straddles, or is none, is for the archive to decide."""
    low, high = ends
    if stored is None or (low and high and low > high) or len({one[-1] == "Z" for one in (*ends, *stored) if one}) > 1:
        return OPEN
    inside = [(not low or low <= one) and (not high or one <= high) for one in stored]
    return (
        YES if all(inside) else OPEN if any(inside) or (low and high and stored[0] < low and high < stored[1]) else NO
    )


def when_matches(vr: str, key: str, stored: str) -> int:
    """DA, TM or DT."""
    there = moment(vr, stored)
    ends = ends_of(vr, key)
    if ends is not None:
        return in_range(ends, there)
    asked = moment(vr, key)
    if asked is None or there is None:
        return YES if key == stored else OPEN if "-" in key else NO
    if asked == there:
        return YES
    if (asked[0][-1] == "Z") != (there[0][-1] == "Z"):
        return OPEN
    # "10" is 10:00:00 and all of the hour.
    overlap = asked[0] <= there[1] and there[0] <= asked[1]
    return YES if asked[0] == there[0] else OPEN if overlap else NO


def number_of(text: str) -> float | str:
    """A number if it is one."""
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) else text


def one_matches(vr: str, key: Any, stored: Any, question: Question) -> int:
    """One value asked for, one value stored."""
    if vr in BINARY:
        return YES if key == stored else NO
    if vr == "PN":
        return sounds_like(key, stored) if question.fuzzy else name_matches(key, stored)
    if vr in ("DA", "TM", "DT"):
        return when_matches(vr, key, stored)
    if vr in ("IS", "DS"):
        return YES if number_of(key) == number_of(stored) else NO
    key, stored = unicodedata.normalize("NFC", key), unicodedata.normalize("NFC", stored)
    if vr == "CS" and not wild(key, stored):
        # Lower case is none of its characters (PS3.5 6.2): who takes it for capitals is right too.
        return OPEN if wild(key.upper(), stored.upper()) else NO
    return YES if (wild(key, stored) if vr in WILD else key == stored) else NO


def is_universal(vr: str, keys: Sequence[Any]) -> bool:
    """C.2.2.2.3, and `*` (C.2.2.2.4)."""
    if vr in BINARY:
        return not keys
    return not keys or (len(keys) == 1 and not str(keys[0]).strip("* \0"))


def matches(tag: int, vr: str, keys: list[Any], stored: list[Any], question: Question) -> int:
    """A key attribute against an attribute of an entity."""
    if vr == "SQ":
        return sequence_matches(keys, stored, question)
    if question.empty_values and keys == ['""']:
        return NO if stored else YES
    if is_universal(vr, keys):
        return YES
    if vr == "PN" and not any(key.strip("^= ") for key in keys):
        return OPEN
    keys = [key for key in keys if key or vr in BINARY]
    there = [value for value in stored if value or vr in BINARY]
    if not there:
        return OPEN if len(keys) > 1 and any(is_universal(vr, [key]) for key in keys) else NO
    verdicts = [max(one_matches(vr, key, value, question) for value in there) for key in keys]
    if len(keys) == 1:
        return verdicts[0]
    if question.multiple_values and vr in MULTIPLE and not tag >> 16 & 1 and dictionary_VM(tag) != "1":
        is_wild = any("*" in key or "?" in key for key in keys)
        return OPEN if is_wild else min(verdicts)
    if vr == "UI":
        return max(verdicts)
    if any(is_universal(vr, [key]) for key in keys):
        return OPEN
    return YES if min(verdicts) == YES else OPEN if max(verdicts) > NO else NO


def sequence_matches(keys: list[Values], stored: list[Values], question: Question) -> int:
    """C.2.2.2.6: some item meets every key of the one item asked for."""
    if not keys or all(not _asks(item) for item in keys):
        return YES
    return max((item_matches(asked, item, question) for asked in keys for item in stored), default=NO)


def _asks(item: Values) -> bool:
    return any(
        any(map(_asks, value)) if value and isinstance(value[0], dict) else not is_universal(vr_of_tag(tag), value)
        for tag, value in item.items()
    )


def vr_of_tag(tag: int) -> str:
    """The VR in PS3.6; our one private attribute is LO."""
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "LO" if tag >> 16 & 1 else "UN"


def item_matches(asked: Values, item: Values, question: Question) -> int:
    """All keys of an item against one stored item."""
    return min(
        (matches(tag, vr_of_tag(tag), keys, item.get(tag, []), question) for tag, keys in asked.items()), default=YES
    )


def given_back(keys: list[Values], stored: list[Values], question: Question) -> list[Values]:
    """The items that matched, with what was asked of them; all of them if nothing was asked."""
    asked = {tag: value for item in keys for tag, value in item.items()}
    if not asked:
        return stored
    chosen = [item for item in stored if max(item_matches(one, item, question) for one in keys)]
    return [
        {
            tag: given_back(value, item.get(tag, []), question) if vr_of_tag(tag) == "SQ" else item.get(tag, [])
            for tag, value in asked.items()
        }
        for item in chosen
    ]


# dates with their times ----------------------------------------------------------------------------


def _offset(text: str) -> timedelta | None:
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", text)
    if not found:
        return None
    return timedelta(hours=int(found[2]), minutes=int(found[3])) * (-1 if found[1] == "-" else 1)


def moved(date: str, time: str, by: timedelta) -> tuple[str, str]:
    """A date and a time in another zone."""
    low = moment("TM", time)
    assert low is not None
    at = datetime.strptime(date.replace(".", "") + low[0], "%Y%m%d%H%M%S.%f") + by
    return at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")


def zoned(text: str, zone: str) -> str:
    """A DT, or a range of them, with the offset of a zone where it has none."""
    if not zone or not text:
        return text
    if moment("DT", text) is not None:
        return text if re.search(f"{OFFSET}$", text) else text + zone
    cut = re.fullmatch(DATE_TIME_RANGE, text)
    return "-".join(zoned(end, zone) for end in cut.groups()) if cut else text


def pair_matches(keys: Values, facts: Values, date: int, zone: Values, question: Question) -> int | None:
    """The verdict on a date and its time together, where they are to be taken together; None where they are not."""
    time = PAIRS[date]
    asked = [keys.get(date, []), keys.get(time, [])]
    there = [facts.get(date, []), facts.get(time, [])]
    own, other = zone.get(ZONE, []), keys.get(ZONE, [])
    shifts = question.timezone and bool(other) and any(asked)
    if question.empty_values and ['""'] in asked:
        return None
    ends = [ends_of(vr, one[0]) if len(one) == 1 else None for vr, one in zip(("DA", "TM"), asked, strict=True)]
    combines = question.date_time and None not in ends and _form(ends[0]) == _form(ends[1])
    if not shifts and not combines:
        return None
    if not any(there):
        return NO if any(asked) else YES
    if not all(there) or len(there[0]) + len(there[1]) != 2 or (shifts and date == BIRTH_DATE):
        return OPEN
    if moment("DA", there[0][0]) is None or moment("TM", there[1][0]) is None:
        return OPEN
    stored = (there[0][0], there[1][0])
    if shifts:
        here, asked_for = _offset(own[0]) if own else None, _offset(other[0])
        if here is None or asked_for is None:
            return OPEN
        if moment("TM", stored[1])[0] != moment("TM", stored[1])[1] and len(stored[1]) < 6:
            return OPEN
        stored = moved(*stored, asked_for - here)
    if not combines:
        parts = zip((date, time), ("DA", "TM"), asked, stored, strict=True)
        return min(matches(tag, vr, key, [value], question) for tag, vr, key, value in parts)
    low = ends[0][0] + ends[1][0], ends[0][1] + ends[1][1]
    day, span = moment("DA", stored[0]), moment("TM", stored[1])
    return in_range(low, (day[0] + span[0], day[1] + span[1]))


def _form(ends: tuple[str, str] | None) -> tuple[bool, bool]:
    return (False, False) if ends is None else (bool(ends[0]), bool(ends[1]))
