"""Schedule: how many bytes a second may be uploaded at which hour of the day. Pure: the time is an argument.

"7-19 2 MiB"     from 7 to 19 o'clock of this machine's time; "22-6 …" goes over midnight; the first that fits counts
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class _Hours(NamedTuple):
    first: int
    end: int
    bytes_per_s: int

    def has(self, hour: int) -> bool:
        if self.first < self.end:
            return self.first <= hour < self.end
        return hour >= self.first or hour < self.end


class Schedule:
    """Rates by hour."""

    def __init__(self, bytes_per_s: int, entries: Sequence[str]) -> None:
        """`bytes_per_s`: at all other hours; 0: no limit. `entries` as the settings check them."""
        self._bytes_per_s = bytes_per_s
        self._hours = [_parsed(entry) for entry in entries]

    def bytes_per_s(self, moment: datetime) -> int:
        """The rate at a local time; 0: no limit."""
        return next((each.bytes_per_s for each in self._hours if each.has(moment.hour)), self._bytes_per_s)


def _parsed(entry: str) -> _Hours:
    hours, _, rate = entry.partition(" ")
    first, _, end = hours.partition("-")
    number, unit = rate.strip()[:-3].strip(), rate.strip()[-3:]
    return _Hours(int(first), int(end), int(number) * _UNITS[unit])
