"""Dates of a search (search.html#date): several comparisons, each with a prefix, become one range of DICOM.

    ge2026-01-02            from the first moment of that day             eq or none    within the day
    lt2026-01-02T10:00Z     before that minute                            sa, eb        as gt and lt

A value stands for all moments that it may mean: a year, a month, a day, a minute, a second. `ne` and `ap` are refused.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from engine.errors import RequestError

_VALUE: Final = re.compile(
    r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
    r"(Z|[+-]\d\d:\d\d)?)?)?)?",
    re.ASCII,
)
_TICK: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Range:
    """Keys of a query: dates, times, and the zone that they are in; "": no key."""

    dates: str
    times: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class _Span:
    """The moments that a value stands for, on the clock of its zone."""

    prefix: str
    first: datetime
    last: datetime
    zone: timezone | None
    has_time: bool


def bounds_of(name: str, values: Iterable[str]) -> tuple[str | None, str | None] | None:
    """From when on and before when, in UTC as 2026-01-02T10:11:12.000000Z; None: at no time.

    A value without a zone is in UTC. Raises RequestError.
    """
    spans = [_moved(span if span.zone is not None else replace(span, zone=UTC), UTC) for span in _spans(name, values)]
    first, last = _within(name, spans)
    if first > last:
        return None
    form = "%Y-%m-%dT%H:%M:%S.%fZ"
    return (
        first.strftime(form) if first > datetime.min else None,
        (last + _TICK).strftime(form) if last < datetime.max else None,
    )


def _spans(name: str, values: Iterable[str]) -> list[_Span]:
    return [_span(name, value) for value in values]


def _within(name: str, spans: Iterable[_Span]) -> tuple[datetime, datetime]:
    """The first and the last moment that meet all spans, which are in one zone."""
    first, last = datetime.min, datetime.max
    for span in spans:
        begin, end = _bounds(name, span)
        first, last = max(first, begin), min(last, end)
    return first, last


def range_of(name: str, values: Iterable[str]) -> Range | None:
    """The range that meets all values; None if no moment does. Raises RequestError."""
    spans = _spans(name, values)
    zone = next((span.zone for span in spans if span.zone is not None), None)
    first, last = _within(name, (_moved(span, zone) for span in spans))
    if first > last:
        return None
    begins, ends = first > datetime.min, last < datetime.max
    dates = f"{first:%Y%m%d}" * begins + "-" + f"{last:%Y%m%d}" * ends
    if begins and ends and first.date() == last.date():
        dates = f"{first:%Y%m%d}"
    if not any(span.has_time for span in spans):
        return Range(dates)
    # One range of moments: the first time belongs to the first date, the last time to the last date.
    times = f"{first:%H%M%S.%f}" * begins + "-" + f"{last:%H%M%S.%f}" * ends
    return Range(dates, times, f"{first.replace(tzinfo=zone):%z}" if zone is not None else "")


def _moved(span: _Span, zone: timezone | None) -> _Span:
    """A span on the clock of another zone, if it has one."""
    if span.zone is None or span.zone == zone or zone is None:
        return span
    shift = zone.utcoffset(None) - span.zone.utcoffset(None)
    return _Span(span.prefix, span.first + shift, span.last + shift, zone, span.has_time)


def _bounds(name: str, span: _Span) -> tuple[datetime, datetime]:
    match span.prefix:
        case "" | "eq":
            return span.first, span.last
        case "ge":
            return span.first, datetime.max
        case "le":
            return datetime.min, span.last
        case "gt" | "sa":
            return span.last + _TICK, datetime.max
        case "lt" | "eb":
            return datetime.min, span.first - _TICK
    raise RequestError(f"{name}: the prefix {span.prefix} is not supported")


def _span(name: str, value: str) -> _Span:
    # A plus sign that was not encoded arrives as a space.
    match = _VALUE.fullmatch(value.strip().replace(" ", "+"))
    if match is None:
        raise RequestError(f"{name}: is not a date as 2026-01-02 or 2026-01-02T10:11:12Z")
    prefix, year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        first = datetime(
            int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
        )  # fmt: skip
        last = first + _length(first, month, day, hour, second, fraction) - _TICK
        # Room for other zones and for the tick beyond either end.
        if not 1 < first.year < datetime.max.year - 1:
            raise ValueError(year)
        return _Span(prefix or "", first, last, _zone(zone), hour is not None)
    except (ValueError, OverflowError):
        raise RequestError(f"{name}: there is no such date") from None


def _length(
    first: datetime, month: str | None, day: str | None, hour: str | None, second: str | None, fraction: str | None
) -> timedelta:
    if fraction is not None:
        return timedelta(microseconds=10 ** max(6 - len(fraction), 0))
    if second is not None:
        return timedelta(seconds=1)
    if hour is not None:
        return timedelta(minutes=1)
    if day is not None:
        return _DAY
    if month is not None:
        return _DAY * calendar.monthrange(first.year, first.month)[1]
    return _DAY * (366 if calendar.isleap(first.year) else 365)


def _zone(text: str | None) -> timezone | None:
    if text is None or text == "Z":
        return UTC if text else None
    hours, minutes = int(text[1:3]), int(text[4:])
    if hours > 14 or minutes > 59:
        raise ValueError(text)
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)
