"""A bound on how fast background work moves bytes: a backup, a replication, a compaction.

Knows nothing of what is moved. Who has moved some bytes says so and is held until that many were due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PIECE_BYTES_MIN = 4096
BURST_S = 1.0
"""After a pause, so much time's worth of bytes may go at once."""


class Pace:
    """Some bytes a second; 0: as fast as it goes. For one thread."""

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
        self._due_s = clock_s()

    def piece(self, length_bytes: int) -> int:
        """How much of so many bytes to move at once, so that there is a sign of life every second."""
        return min(length_bytes, max(PIECE_BYTES_MIN, self._bytes_per_s)) if self._bytes_per_s else length_bytes

    def spent(self, count_bytes: int) -> None:
        """So many bytes have been moved; returns when the next may be."""
        if not self._bytes_per_s:
            return
        now_s = self._clock_s()
        self._due_s = max(self._due_s, now_s - BURST_S) + count_bytes / self._bytes_per_s
        if self._due_s > now_s:
            self._wait(self._due_s - now_s)
