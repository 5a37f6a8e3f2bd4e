"""Rate limits: TokenBucket is the algorithm, TokenBuckets has a bucket for each name, RateLimiter slows a thread.

Tokens gather at a rate, up to a burst; an item takes as many tokens as it has bytes. An item that takes more than there
are leaves a debt, and nothing else passes until it is paid. Every rate limit uses this module: bandwidth of a peer,
ingest beside retrievals, long requests of an address, scrub, compaction, backup and the like.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

PIECE_BYTES_MIN: Final = 4096
BURST_S: Final = 1.0
"""After a pause, the bytes of so many seconds may pass at once."""


class TokenBucket:
    """A token bucket. Pure: time is an argument, of a monotonic clock."""

    __slots__ = ("_gathered_at_s", "tokens")

    def __init__(self, tokens: float = 0.0, now_s: float | None = None) -> None:
        """Gathers from `now_s` on; without it, from the first `gather` on."""
        self.tokens = tokens
        """Below zero: a debt."""
        self._gathered_at_s = now_s

    @property
    def debt(self) -> float:
        """Tokens that must gather before anything may pass."""
        return max(-self.tokens, 0.0)

    def add(self, tokens: float, burst: float) -> None:
        """Adds tokens, up to `burst` in all."""
        self.tokens = min(self.tokens + tokens, burst)

    def gather(self, now_s: float, rate_per_s: float, burst: float) -> None:
        """Adds the tokens that have gathered at this rate since the last call."""
        elapsed_s = 0.0 if self._gathered_at_s is None else max(now_s - self._gathered_at_s, 0.0)
        self._gathered_at_s = now_s
        self.add(rate_per_s * elapsed_s, burst)

    def take(self, count: float) -> None:
        """Takes tokens out, also more than there are."""
        self.tokens -= count

    def wait_s(self, count: float, rate_per_s: float) -> float:
        """Seconds at this rate until `count` tokens are there; 0: they are."""
        return max(count - self.tokens, 0.0) / rate_per_s


class TokenBuckets:
    """A bucket for each name, a bounded number of them: the least recently used is forgotten first."""

    NAMES_MAX: Final = 1024

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, name: str, count: float, rate_per_s: float, now_s: float) -> float:
        """Takes the tokens and returns 0, or returns in how many seconds there will be enough. Rate 0: no limit.

        A bucket begins full and holds the tokens of one second. A larger `count` takes all of them.
        """
        if not rate_per_s or not count:
            return 0.0
        bucket = self._buckets.pop(name, None) or TokenBucket(rate_per_s, now_s)
        self._buckets[name] = bucket
        if len(self._buckets) > self.NAMES_MAX:
            del self._buckets[next(iter(self._buckets))]
        bucket.gather(now_s, rate_per_s, burst=rate_per_s)
        count = min(count, rate_per_s)
        wait_s = bucket.wait_s(count, rate_per_s)
        if not wait_s:
            bucket.take(count)
        return wait_s


class RateLimiter:
    """Limits background work to some bytes a second; 0: no limit. For one thread."""

    def __init__(
        self,
        bytes_per_s: int,
        clock_s: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """`wait` is called with the seconds to wait; without it the thread sleeps."""
        self._bytes_per_s = bytes_per_s
        self._clock_s = clock_s
        self._wait = wait or threading.Event().wait
        self._bucket = TokenBucket(0.0, clock_s())

    def piece(self, length_bytes: int) -> int:
        """How many of `length_bytes` to move at once, so that the work can report progress every second."""
        return min(length_bytes, max(PIECE_BYTES_MIN, self._bytes_per_s)) if self._bytes_per_s else length_bytes

    def spent(self, count_bytes: int) -> None:
        """Counts bytes that have been moved; returns when the next may be moved."""
        if not self._bytes_per_s:
            return
        self._bucket.gather(self._clock_s(), self._bytes_per_s, self._bytes_per_s * BURST_S)
        self._bucket.take(count_bytes)
        if wait_s := self._bucket.wait_s(0, self._bytes_per_s):
            self._wait(wait_s)
