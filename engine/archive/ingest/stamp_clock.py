"""Stamps: the numbers, roughly nanoseconds, that order the records of one key.

A stamp is a hybrid clock: the time, but never less than what this process has given out or seen. So the order of cause
and effect does not depend on the clocks of machines, which are set back, and differ:

    after      the newest stamp of the UID (study, correction) in the index: a record supersedes what its writer has
               seen, whatever the clock did between two starts
    observed   the largest stamp in the applied groups of other nodes: what this node writes next comes after them

A stamp more than AHEAD_MAX_NS ahead of this machine's clock is not observed: one node with a broken clock would drag
all others into its future. Its records still count, by `after`. Nothing is refused because of a clock: an order that is
right needs none, and an archive must take instances also on a machine whose clock is wrong.
"""

from __future__ import annotations

import threading
import time

AHEAD_MAX_NS = 24 * 3600 * 1_000_000_000
"""A day: more than a wrong time zone, less than a wrong date."""


class StampClock:
    """Gives the stamps of one writer. `next` is for one thread, `observe` for any."""

    def __init__(self, observed: int = 0) -> None:
        self._last = 0
        self._observing = threading.Lock()
        self._observed = 0
        self.observe(observed)

    def next(self, after: int = 0) -> int:
        """A stamp above all earlier ones of this clock, all that it has observed, and `after`."""
        self._last = max(time.time_ns(), self._last + 1, self._observed + 1, after + 1)
        return self._last

    def observe(self, stamp: int) -> bool:
        """Steps over a stamp of another node. False if it is too far ahead."""
        if stamp > time.time_ns() + AHEAD_MAX_NS:
            return False
        with self._observing:
            self._observed = max(self._observed, stamp)
        return True
