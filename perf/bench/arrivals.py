"""When each request of a stream is due, and how late it began.

In an open loop the due times are fixed before the run: whoever has waited long for an answer finds the next request
overdue, and its latency counts from its due time. So a slow server cannot make its own load smaller (coordinated
omission). A closed loop has no due times: each connection sends again as soon as it has its answer.

    due 1        due 2   due 3           latency of 2: from its due time, though it was sent late,
    |------------|-------|------------   since its connection still waited for answer 1
    |== request 1 ===========|== request 2 ==|
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Protocol

NS = 1_000_000_000


class Clock(Protocol):
    """The time of a run; tests have one of their own."""

    def now_ns(self) -> int: ...

    def sleep_until(self, when_ns: int) -> bool:
        """Waits. Returns False if the run was stopped."""


class WallClock:
    """The machine's clock. `stop` wakes every sleeper."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def sleep_until(self, when_ns: int) -> bool:
        pause_s = (when_ns - time.perf_counter_ns()) / NS
        return not (self._stopped.wait(pause_s) if pause_s > 0 else self._stopped.is_set())

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()


@dataclass(frozen=True, slots=True)
class Start:
    """The begin of one request."""

    due_ns: int
    """Its latency counts from here."""
    late_ns: int
    """How long after its due time it began."""
    lag_ns: int
    """The part of it that the generator is to blame for: its connection was free at the due time."""


class Arrivals:
    """The due times of one stream; the connections of the stream take them in turn."""

    def __init__(self, clock: Clock, *, rate: float, seed: str, steady: bool, begin_ns: int, end_ns: int) -> None:
        """`rate` in arrivals a second; 0: a closed loop."""
        self._clock, self._rate, self._steady, self._end_ns = clock, rate, steady, end_ns
        self._rng, self._lock = random.Random(seed), threading.Lock()
        self._next_ns = begin_ns + (self._gap_ns() if rate else 0)
        self._unsent_ns: list[int] = []

    def _gap_ns(self) -> int:
        return int((1 / self._rate if self._steady else self._rng.expovariate(self._rate)) * NS)

    def next(self) -> Start | None:
        """Waits for the next request; None: the run is over."""
        free_ns = self._clock.now_ns()
        if not self._rate:
            if free_ns >= self._end_ns or not self._clock.sleep_until(free_ns):
                return None
            return Start(free_ns, 0, 0)
        with self._lock:
            due_ns = self._next_ns
            if due_ns >= self._end_ns:
                return None
            self._next_ns += self._gap_ns()
        if not self._clock.sleep_until(due_ns):
            with self._lock:
                self._unsent_ns.append(due_ns)
            return None
        now_ns = self._clock.now_ns()
        return Start(due_ns, max(0, now_ns - due_ns), max(0, now_ns - max(due_ns, free_ns)))

    def left(self) -> list[int]:
        """The due times within the run that nobody took: the server was too slow for them."""
        if not self._rate:
            return []
        with self._lock:
            while self._next_ns < self._end_ns:
                self._unsent_ns.append(self._next_ns)
                self._next_ns += self._gap_ns()
            return self._unsent_ns
