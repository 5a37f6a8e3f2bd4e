"""Watches for a process that stops inside an index transaction, since every other writer waits for it.

    after NAMED_S      names the process in the log, and in the statistics while it lasts
    after CONTINUE_S   continues a process that is stopped (Ctrl-Z, SIGSTOP)
    after the limit    kills it, like a worker that does not answer. Its transaction is lost; the recovery finds the
                       records that it had appended

The watch acts only when two looks in a row see the same note. A process that has just taken its turn has not yet
written the time: for a moment its note is that of an earlier turn, perhaps hours old.

It only names a process in another PID namespace: here that number is another process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, MutableMapping
from pathlib import Path

from engine import log
from engine.index.format.types import Holder

logger = log.get("archive.writer_watch")

NAMED_S = 3.0
"""A transaction takes milliseconds, or a second on an overloaded disk."""

CONTINUE_S = 5.0


class WriterWatch:
    """Watches the process that writes the index. Call `look` about once a second."""

    def __init__(self, holder: Callable[[], Holder | None], lock_path: str, counters: MutableMapping[str, int]) -> None:
        """`holder` returns the other process that writes now; `lock_path`: a file that it must have open."""
        self._holder = holder
        self._lock_path = os.path.realpath(lock_path)
        self._counters = counters
        self._previous: Holder | None = None
        """The holder at the last look."""
        self._reported: Holder | None = None
        self._continued: Holder | None = None

    def look(self, limit_s: float) -> None:
        """Names, continues or kills the holder when that is due. With a limit of 0 it never kills."""
        holder = self._holder()
        previous, self._previous = self._previous, holder
        if holder is None or holder.held_s < NAMED_S:
            if self._reported is not None:
                logger.info("index writes go on")
            self._reported = self._continued = None
            return
        if previous is None or not _is_same_turn(previous, holder):
            return
        if self._reported is None:
            self._counters["index_held_up"] += 1
            logger.error("a process blocks the index", **holder.as_dict())
        self._reported = holder
        if not holder.pid or holder.pid == os.getpid() or not self._has_it_open(holder.pid):
            return
        if holder.held_s > CONTINUE_S and self._continued is None and _is_stopped(holder.pid):
            self._continued = holder
            logger.warning("continuing a stopped process that blocks the index", **holder.as_dict())
            _signal(holder.pid, signal.SIGCONT)
        elif limit_s and holder.held_s > limit_s:
            logger.error("killing a process that blocks the index", **holder.as_dict())
            self._counters["index_holders_killed"] += 1
            _signal(holder.pid, signal.SIGKILL)

    def _has_it_open(self, pid: int) -> bool:
        folder = Path(f"/proc/{pid}/fd")
        try:
            return any(os.readlink(link) == self._lock_path for link in folder.iterdir())
        except OSError:
            return False

    def snapshot(self) -> dict[str, object] | None:
        """The process that blocks the index, for the statistics; None if there is none."""
        return None if self._reported is None else self._reported.as_dict()


def _is_same_turn(previous: Holder, now: Holder) -> bool:
    """Whether both looks saw the same turn of the same process."""
    return (previous.foreign_pid, previous.command) == (now.foreign_pid, now.command) and previous.held_s <= now.held_s


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except OSError as error:
        logger.error("cannot signal a process", pid=pid, error=error.strerror)
