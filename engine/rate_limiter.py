"""TokenBucket: how much of something may pass in a time; TokenBuckets: one for each name; RateLimiter: for a thread.

Tokens gather at a rate, up to a burst, and whatever passes takes as many as it is long. What takes more than there are
leaves a debt, and nothing else passes until it is paid. All that limits a rate is made of this: bandwidth of a peer,
ingest beside retrievals, long requests of an address, scrub, compaction, backup and the like.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

PIECE_BYTES_MIN: Final = 4096
BURST_S: Final = 1.0
"""After a pause, so much time's worth of bytes may go at once."""


class TokenBucket:
    """Some tokens. Pure: time is an argument, of a clock that only goes forward."""

    __slots__ = ("_gathered_at_s", "tokens")

    def __init__(self, tokens: float = 0.0, now_s: float | None = None) -> None:
        """Gathers from `now_s` on; without it, from the first `gather` on."""
        self.tokens = tokens
        """Below zero: a debt."""
        self._gathered_at_s = now_s

    @property
    def debt(self) -> float:
        """What must gather before anything may pass."""
        return max(-self.tokens, 0.0)

    def add(self, tokens: float, burst: float) -> None:
        """Puts tokens in, up to `burst` in all."""
        self.tokens = min(self.tokens + tokens, burst)

    def gather(self, now_s: float, rate_per_s: float, burst: float) -> None:
        """Puts in what has come together at this rate since the last time."""
        elapsed_s = 0.0 if self._gathered_at_s is None else max(now_s - self._gathered_at_s, 0.0)
        self._gathered_at_s = now_s
        self.add(rate_per_s * elapsed_s, burst)

    def take(self, count: float) -> None:
        """Takes tokens out, also more than there are."""
        self.tokens -= count

    def wait_s(self, count: float, rate_per_s: float) -> float:
        """How long it takes at this rate until so many tokens are there; 0: they are."""
        return max(count - self.tokens, 0.0) / rate_per_s


class TokenBuckets:
    """A bucket for each name, a bounded number of them: the one that was not asked for longest is forgotten first."""

    NAMES_MAX: Final = 1024

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, name: str, count: float, rate_per_s: float, now_s: float) -> float:
        """0, and the tokens are taken, or in how many seconds there will be enough. Rate 0: any number.

        A bucket begins full and holds what a second brings. What is more than that takes all of it.
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
    """Some bytes a second for background work; 0: as fast as it goes. For one thread."""

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
        """How much of so many bytes to move at once, so that there is a sign of life every second."""
        return min(length_bytes, max(PIECE_BYTES_MIN, self._bytes_per_s)) if self._bytes_per_s else length_bytes

    def spent(self, count_bytes: int) -> None:
        """So many bytes have been moved; returns when the next may be."""
        if not self._bytes_per_s:
            return
        self._bucket.gather(self._clock_s(), self._bytes_per_s, self._bytes_per_s * BURST_S)
        self._bucket.take(count_bytes)
        if wait_s := self._bucket.wait_s(0, self._bytes_per_s):
            self._wait(wait_s)
