"""When the disk of an archive will be full, from the history of its free space.

The trend is the median of the slopes of all pairs of points (Theil and Sen), so that a compaction, a large import or
an hour without values changes it little. At most POINTS_MAX points are used, evenly spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Final, Literal

DAY_S: Final = 86_400.0
POINTS_MIN: Final = 6
SPAN_S_MIN: Final = DAY_S / 4
POINTS_MAX: Final = 120
HORIZON_S: Final = 10 * 365 * DAY_S
"""What is further away is no forecast."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The trend of free space."""

    state: Literal["unknown", "steady", "filling"]
    """unknown: the history is too short; steady: it does not fill up within the horizon."""
    bytes_per_day: float = 0.0
    """By how much free space shrinks; negative: it grows."""
    full_at_s: float | None = None
    """Seconds since 1970."""


def forecast(points: Sequence[tuple[float, float]], reserve_bytes: float = 0) -> Forecast:
    """The forecast of free bytes over seconds since 1970, the oldest first; full: only the reserve is left."""
    points = [point for point in points if point[1] > 0]
    if len(points) < POINTS_MIN or points[-1][0] - points[0][0] < SPAN_S_MIN:
        return Forecast("unknown")
    step = max(1, -(-len(points) // POINTS_MAX))
    thinned = points[::-1][::step]
    slopes = [
        (one[1] - other[1]) / (one[0] - other[0]) for one, other in combinations(thinned, 2) if one[0] != other[0]
    ]
    slope = median(slopes)
    now_s, free_bytes = points[-1]
    left_bytes = max(0.0, free_bytes - reserve_bytes)
    if slope >= 0 or left_bytes / -slope > HORIZON_S:
        return Forecast("steady", -slope * DAY_S)
    return Forecast("filling", -slope * DAY_S, now_s + left_bytes / -slope)
