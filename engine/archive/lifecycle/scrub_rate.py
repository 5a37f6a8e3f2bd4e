"""How fast a scrub reads: spread over its cycle, bounded, in pieces that are worth a step. Pure: time is an argument.

A pass over a small archive is not stretched below RATE_BYTES_PER_S_MIN: it ends early, and the next one begins so early
that no byte waits longer than a cycle. Nor does one over a large archive go faster than its limit: then it is late.
"""

from __future__ import annotations

from engine.rate_limiter import TokenBucket

RATE_BYTES_PER_S_MIN = 1 << 20

TICK_BYTES_MIN = 1 << 20
"""Less than this is not worth a step, unless it is all."""

BURST_S = 2.0
"""Seconds of the limit that gather while nobody asks: what one step may read."""


class ScrubRate:
    """What may be read, gathering with time."""

    def __init__(self, bytes_per_s_max: int) -> None:
        self.bytes_per_s_max = max(bytes_per_s_max, 1)
        self._bucket = TokenBucket()

    def rate(self, left_bytes: int, left_s: float) -> float:
        """Bytes a second that bring the rest of a pass to its end in time."""
        needed = left_bytes / left_s if left_s > 0 else self.bytes_per_s_max
        return min(max(needed, RATE_BYTES_PER_S_MIN), self.bytes_per_s_max)

    def needed_s(self, total_bytes: int) -> float:
        """How long a pass takes at the lowest rate."""
        return total_bytes / min(RATE_BYTES_PER_S_MIN, self.bytes_per_s_max)

    def due(self, now_s: float, bytes_per_s: float, left_bytes: int) -> int:
        """What may be read at `now_s`, of a clock that only goes forward; 0 while it is too little."""
        self._bucket.gather(now_s, bytes_per_s, max(self.bytes_per_s_max * BURST_S, TICK_BYTES_MIN))
        # One byte more than all that is left: the step that reads it also ends the pass.
        is_enough = self._bucket.tokens >= min(TICK_BYTES_MIN, left_bytes + 1)
        return int(self._bucket.tokens) if is_enough else 0

    def spent(self, count_bytes: int) -> None:
        """So many bytes have been read; more than were due are held against what is due next."""
        self._bucket.take(count_bytes)
