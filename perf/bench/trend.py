"""Whether a figure grows during a run: leaks, and latencies that drift.

A leak grows all the time; a cache grows and stops; a busy machine swings. So growth counts if the middle of the last
third is above the middle of the first third by a share and by an absolute minimum, and nearly all pairs of values, in
the order of time, rise (Mann and Kendall's test).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perf.harness import median

VALUES_MIN = 12
"""With fewer values nothing can be said."""
SETTLING_SHARE = 0.2
"""The first part of a run, in which caches fill, does not count."""
_SIGNIFICANT = 3.0
"""Standard deviations of Mann and Kendall's statistic: by chance once in 700 runs."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The change of one figure."""

    first: float
    last: float
    per_hour: float
    """The median of the slopes between all pairs of values (Theil and Sen)."""
    grows: bool


def of(times_s: Sequence[float], values: Sequence[float], *, share_min: float, growth_min: float) -> Trend | None:
    """The trend of a figure; None if there are too few values."""
    skipped = int(len(values) * SETTLING_SHARE)
    times_s, values = times_s[skipped:], values[skipped:]
    count = len(values)
    if count < VALUES_MIN:
        return None
    third = count // 3
    first, last = median(values[:third]), median(values[-third:])
    slopes, rising = [], 0
    for later in range(count):
        for earlier in range(later):
            difference = values[later] - values[earlier]
            rising += (difference > 0) - (difference < 0)
            if times_s[later] > times_s[earlier]:
                slopes.append(difference / (times_s[later] - times_s[earlier]))
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    is_steady = rising / deviation > _SIGNIFICANT
    grows = is_steady and last - first >= growth_min and last >= first * (1 + share_min)
    return Trend(first, last, median(slopes) * 3600, grows)


def thinned(count: int, at_most: int = 400) -> list[int]:
    """The places of at most so many of `count` values, evenly: pairs grow with the square."""
    step = max(1, math.ceil(count / at_most))
    return list(range(0, count, step))
