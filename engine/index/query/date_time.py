"""Matches dates and times: precision, ranges, pairs, zones (PS3.4 C.2.2.2.1, C.2.2.2.5).

Makes conditions; decodes nothing.

    one value   DA: the same day. TM, DT: any moment in the span of the value, so that 1015 finds 101530.25
    a range     from the first moment of one end to the last of the other; a stored value counts by its first moment.
                An invalid stored date or time is in no range
    a pair      a date range and its time range, both open at the same end or at none: one range of moments (date-time
                matching). A date without a time matches if any moment of the day is in the range
    a zone      if Timezone Offset From UTC is a key (timezone adjustment): stored dates and times are converted to its
                zone from the study's. They are compared unchanged if the study has no zone, if the date or the time is
                missing, and in dates of birth
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from engine.dicom import tags, values
from engine.dicom.schema import Schema
from engine.dicom.values import Instant, Span
from engine.index.format.terms import Range, normal_values, ranges_between
from engine.index.query.condition import Condition, Rules

Interval = tuple[str, str]
"""Normal forms from the first to the last."""

MOMENT_VRS = frozenset(("DA", "TM", "DT"))

_OPEN = {"DA": ("0", "99999999"), "TM": ("0", "999999.999999")}
_DAY = ("000000.000000", "235959.999999")
_DAY_MINUTES = 24 * 60


def moment_condition(tag: int, vr: str, texts: Sequence[str], rules: Rules) -> Condition:
    """The condition of a key of VR DA, TM or DT: any of these values or ranges."""
    if vr == "DT":
        return _date_time_condition(tag, texts, rules)
    intervals = [_interval(vr, text) for text in texts]

    def matches(stored: bytes) -> bool:
        return any(_is_in(intervals, normal) for normal in normal_values(vr, stored))

    return Condition(tag, matches, _ranges(tag, intervals, rules.schema), test_count=len(intervals))


def _interval(vr: str, text: str) -> Interval:
    ends = values.parse_range(vr, text)
    if ends is not None:
        low, high = ends
        return (low.low if low else _OPEN[vr][0], high.high if high else _OPEN[vr][1])
    span = values.precision_range(vr, text)
    if span is not None:
        return (span.low, span.high)
    normal = values.normalise(vr, text)
    return (normal, normal)


def _is_in(intervals: Sequence[Interval], normal: str) -> bool:
    return any(low <= normal <= high for low, high in intervals)


def _ranges(tag: int, intervals: Sequence[Interval], schema: Schema) -> list[Range] | None:
    result: list[Range] = []
    for low, high in intervals:
        ranges = ranges_between(tag, low, high, schema)
        if ranges is None:
            return None
        result += ranges
    return result


# DT --------------------------------------------------------------------------------------------------


def _date_time_condition(tag: int, texts: Sequence[str], rules: Rules) -> Condition:
    zone = rules.zone
    ends = [_instants(text, zone) for text in texts]
    words = frozenset(values.normalise("DT", text) for text, end in zip(texts, ends, strict=True) if end is None)
    intervals = [interval for interval in ends if interval is not None]

    def test(stored: bytes, stored_zone: str) -> bool:
        for text in values.split("DT", stored.decode("utf-8", "replace")):
            span = values.precision_range("DT", text)
            if span is None:
                if values.strip("DT", text) in words:
                    return True
                continue
            moment = values.instant(span.low, span.offset or stored_zone)
            for low, high in intervals:
                if not (low and moment.is_before(low)) and not (high and high.is_before(moment)):
                    return True
        return False

    def together(items: Mapping[int, bytes], stored_zone: bytes) -> bool:
        return bool(items.get(tag)) and test(items[tag], stored_zone.decode("ascii", "replace"))

    ranges = _ranges(
        tag, [_around(low, high) for low, high in intervals] + [(word, word) for word in words], rules.schema
    )
    return Condition(tag, lambda stored: test(stored, ""), ranges, together=together if zone else None)


def _around(low: Instant | None, high: Instant | None) -> Interval:
    """The range of keys for values that may be between two moments. A key is in UTC if its value has an offset, else in
    local time, so the range has a day more on either side."""
    return (
        _shifted_or(low.normal(), -_DAY_MINUTES, "") if low else "",
        _shifted_or(high.normal(), _DAY_MINUTES, "\uffff") if high else "\uffff",
    )


def _instants(text: str, zone: str) -> tuple[Instant | None, Instant | None] | None:
    """The first and last moment of a value or range, None for an open end; None if the text is invalid."""
    ends = values.parse_range("DT", text)
    if ends is None:
        span = values.precision_range("DT", text)
        if span is None:
            return None
        ends = (span, span)
    low, high = ends
    return (
        values.instant(low.low, low.offset or zone) if low else None,
        values.instant(high.high, high.offset or zone) if high else None,
    )


def _shifted_or(normal: str, minutes: int, otherwise: str) -> str:
    """A date or date-time later by `minutes`; `otherwise` if it is invalid."""
    shifted = values.add_minutes(normal, minutes)
    return otherwise if shifted == normal else shifted


def _shifted_date_or(normal: str, minutes: int, otherwise: str) -> str:
    """A date later by `minutes`; `otherwise` for what is none, even if it would be a date-time."""
    return _shifted_or(normal, minutes, otherwise) if len(normal) == 8 else otherwise


# pairs -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def pair_of(tag: int) -> tuple[int, int] | None:
    """The pair of date and time that an attribute belongs to, such as Study Date and Study Time."""
    vr, keyword = tags.vr_of(tag), tags.keyword_of(tag)
    if vr == "DA" and keyword.endswith("Date"):
        other = tags.tag_of(keyword[:-4] + "Time")
        return (tag, other) if other is not None and tags.vr_of(other) == "TM" else None
    if vr == "TM" and keyword.endswith("Time"):
        other = tags.tag_of(keyword[:-4] + "Date")
        return (other, tag) if other is not None and tags.vr_of(other) == "DA" else None
    return None


def pair_condition(pair: tuple[int, int], dates: Sequence[str], times: Sequence[str], rules: Rules) -> Condition | None:
    """The condition of a date and its time together; None if each must be matched by itself."""
    date_tag, time_tag = pair
    combined = _combined(dates, times) if rules.date_time else None
    shifts = bool(rules.zone) and date_tag != tags.PatientBirthDate
    if combined is None and not shifts:
        return None
    days = [_interval("DA", text) for text in dates]
    test = _moment_test(combined) if combined else _parts_test(days, [_interval("TM", text) for text in times])
    key_minutes = values.offset_minutes(rules.zone) if shifts else None

    def together(items: Mapping[int, bytes], zone: bytes) -> bool:
        stored_dates = normal_values("DA", items.get(date_tag, b"")) or [""]
        stored_times = normal_values("TM", items.get(time_tag, b"")) or [""]
        minutes = values.offset_minutes(zone.decode("ascii", "replace")) if key_minutes is not None else None
        shift = key_minutes - minutes if key_minutes is not None and minutes is not None else 0
        return any(test(*_shift(date, time, shift)) for date in stored_dates for time in stored_times)

    if shifts:
        # Offsets differ by at most 26 hours.
        days = [
            (_shifted_date_or(low, -2 * _DAY_MINUTES, ""), _shifted_date_or(high, 2 * _DAY_MINUTES, "\uffff"))
            for low, high in days
        ]
    ranges = _ranges(date_tag, days, rules.schema) if days else None
    return Condition(date_tag if dates else time_tag, lambda stored: True, ranges, together=together)


def _combined(dates: Sequence[str], times: Sequence[str]) -> Interval | None:
    """The range of moments of a date range and a time range of the same form (PS3.4 C.2.2.2.5.4)."""
    if len(dates) != 1 or len(times) != 1:
        return None
    days, clock = values.parse_range("DA", dates[0]), values.parse_range("TM", times[0])
    if days is None or clock is None or _form(days) != _form(clock):
        return None
    low, high = ("".join(ends) for ends in zip(_interval("DA", dates[0]), _interval("TM", times[0]), strict=True))
    return (low, high)


def _form(ends: tuple[Span | None, Span | None]) -> tuple[bool, bool]:
    return ends[0] is None, ends[1] is None


def _moment_test(interval: Interval) -> Callable[[str, str], bool]:
    low, high = interval

    def test(date: str, time: str) -> bool:
        first, last = (time, time) if len(time) == 13 else _DAY
        return len(date) == 8 and low <= date + last and date + first <= high

    return test


def _parts_test(days: Sequence[Interval], clock: Sequence[Interval]) -> Callable[[str, str], bool]:
    def test(date: str, time: str) -> bool:
        return (not days or _is_in(days, date)) and (not clock or _is_in(clock, time))

    return test


def _shift(date: str, time: str, minutes: int) -> tuple[str, str]:
    """A date and its time later by `minutes`; unchanged if one of them is missing or invalid."""
    if not minutes or len(date) != 8 or len(time) != 13:
        return date, time
    shifted = values.add_minutes(date + time, minutes)
    return shifted[:8], shifted[8:]
