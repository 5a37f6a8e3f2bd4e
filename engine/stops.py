"""Delays Ctrl-Z (SIGTSTP) while this process holds something that other processes wait for."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class _Stops:
    """Delays SIGTSTP while this process holds something that other processes wait for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.is_pending = False

    def enter(self) -> None:
        with self.lock:
            self.holders += 1

    def leave(self) -> None:
        with self.lock:
            self.holders -= 1
            if self.is_pending and not self.holders:
                self._stop()

    def _stop(self) -> None:
        # Called under the lock, so that no other thread of ours begins to write before the process stops.
        self.is_pending = False
        os.kill(os.getpid(), signal.SIGSTOP)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.is_pending = True
        # The main thread may itself be inside `enter` or `leave`; then that `leave`, or the next one, stops us.
        if self.lock.acquire(blocking=False):
            try:
                if not self.holders:
                    self._stop()
            finally:
                self.lock.release()


stops = _Stops()


def delay_stops() -> None:
    """From now on Ctrl-Z stops this process between its transactions, not within one. Call it on the main thread."""
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, stops.on_signal)
