"""Ctrl-Z (SIGTSTP), put off while this process has something that others wait for."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class _Stops:
    """SIGTSTP, put off while this process has something that others wait for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holding = 0
        self.is_wanted = False

    def enter(self) -> None:
        with self.lock:
            self.holding += 1

    def leave(self) -> None:
        with self.lock:
            self.holding -= 1
            if self.is_wanted and not self.holding:
                self._stop()

    def _stop(self) -> None:
        # Under the lock: no other thread of ours begins to write before we are stopped.
        self.is_wanted = False
        os.kill(os.getpid(), signal.SIGSTOP)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_wanted = True
        # The main thread may be at `enter` or `leave` itself: then that one sees to it, or the next `leave` does.
        if self.lock.acquire(blocking=False):
            try:
                if not self.holding:
                    self._stop()
            finally:
                self.lock.release()


stops = _Stops()


def put_off_stops() -> None:
    """From now on Ctrl-Z stops this process between its transactions, not within one. Call it on the main thread."""
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, stops.on_signal)
