"""The token bucket: how much of something may be had by the second, and how long to wait for more.

Tokens come in at `rate` a second, up to what `burst_s` seconds bring. `wait_s` takes some, or says when there will be
enough.
"""

from __future__ import annotations


class TokenBucket:
    """One bucket; it does not know what time it is."""

    __slots__ = ("_at", "_left")

    def __init__(self, rate: float, now: float, burst_s: float = 1.0) -> None:
        """It begins full."""
        self._left = rate * burst_s
        self._at = now

    def wait_s(self, count: float, rate: float, now: float, burst_s: float = 1.0) -> float:
        """0, and `count` tokens are taken, or in how many seconds there will be enough.

        `rate`: tokens a second. What is more than the bucket holds takes all of it.
        """
        full = rate * burst_s
        self._left = min(self._left + (now - self._at) * rate, full)
        self._at = now
        count = min(count, full)
        if self._left >= count:
            self._left -= count
            return 0.0
        return (count - self._left) / rate


class TokenBuckets:
    """A bucket for each name, a bounded number of them: the one that was not asked for longest is forgotten first."""

    NAMES_MAX = 1024

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, name: str, count: float, rate: float, now: float) -> float:
        """As `TokenBucket.wait_s`. `rate` 0: any number."""
        if not rate or not count:
            return 0.0
        bucket = self._buckets.pop(name, None) or TokenBucket(rate, now)
        self._buckets[name] = bucket
        if len(self._buckets) > self.NAMES_MAX:
            del self._buckets[next(iter(self._buckets))]
        return bucket.wait_s(count, rate, now)
