"""The speed of a scrub: spread over its cycle, bounded, in steps of a useful size. Pure: time is an argument.

A pass over a small archive never reads slower than RATE_BYTES_PER_S_MIN: it ends early, and the next one begins early
enough that no byte waits longer than a cycle. A pass over a large archive never exceeds its limit: it then ends late.
"""

from __future__ import annotations

from engine.rate_limiter import TokenBucket

RATE_BYTES_PER_S_MIN = 1 << 20

TICK_BYTES_MIN = 1 << 20
"""Smaller steps are not worth it, except for the last one."""

BURST_S = 2.0
"""Seconds for which bytes may accumulate: the largest step."""


class ScrubRate:
    """A budget of bytes that grows with time."""

    def __init__(self, bytes_per_s_max: int) -> None:
        self.bytes_per_s_max = max(bytes_per_s_max, 1)
        self._bucket = TokenBucket()

    def rate(self, left_bytes: int, left_s: float) -> float:
        """Bytes a second that finish the rest of a pass in time."""
        needed = left_bytes / left_s if left_s > 0 else self.bytes_per_s_max
        return min(max(needed, RATE_BYTES_PER_S_MIN), self.bytes_per_s_max)

    def needed_s(self, total_bytes: int) -> float:
        """How long a pass takes at the lowest rate."""
        return total_bytes / min(RATE_BYTES_PER_S_MIN, self.bytes_per_s_max)

    def due(self, now_s: float, bytes_per_s: float, left_bytes: int) -> int:
        """Bytes that may be read at `now_s` of a monotonic clock; 0 while they are too few for a step."""
        self._bucket.gather(now_s, bytes_per_s, max(self.bytes_per_s_max * BURST_S, TICK_BYTES_MIN))
        # One byte more than the rest, so that the step that reads it also ends the pass.
        is_enough = self._bucket.tokens >= min(TICK_BYTES_MIN, left_bytes + 1)
        return int(self._bucket.tokens) if is_enough else 0

    def spent(self, count_bytes: int) -> None:
        """Takes these bytes from the budget, which may become negative."""
        self._bucket.take(count_bytes)
