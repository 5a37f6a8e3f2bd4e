"""A clock for whole runs of a bench: time stands still while a request is under way, however slow the machine is."""

from __future__ import annotations

import threading

from perf.bench.arrivals import NS
from perf.bench.runner import THREAD_NAME

STEP_NS = NS // 1000
"""What a wait takes at least, so that a closed loop comes to its end."""
LOOK_S = 0.01
"""A thread that ends tells nobody."""


class SteppedClock:
    """In place of a WallClock. When all threads of the load wait, time passes to the first of their appointments."""

    def __init__(self) -> None:
        self._at_ns = 0
        self._is_stopped = False
        self._appointments: dict[threading.Thread, int] = {}
        self._changed = threading.Condition()

    def now_ns(self) -> int:
        with self._changed:
            return self._at_ns

    def sleep_until(self, when_ns: int) -> bool:
        me = threading.current_thread()
        with self._changed:
            when_ns = max(when_ns, self._at_ns + STEP_NS)
            self._appointments[me] = when_ns
            while self._at_ns < when_ns and not self._is_stopped:
                if self._all_wait():
                    self._at_ns = min(self._appointments.values())
                    self._changed.notify_all()
                else:
                    self._changed.wait(LOOK_S)
            del self._appointments[me]
            return not self._is_stopped

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _all_wait(self) -> bool:
        """Whether nobody is busy. Whoever started the load waits only after it has started every thread."""
        load = {thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)}
        waiting = {thread for thread, when_ns in self._appointments.items() if when_ns > self._at_ns}
        return load < waiting
