"""Watches for processes that stop inside an index transaction, since every other writer waits for them.

    NAMED_S        it is named in the log, and in the statistics as long as it lasts
    CONTINUE_S     one that is stopped (Ctrl-Z, SIGSTOP) is continued
    the limit      it is killed, as a worker that does not answer is; what it had not committed is not there, and what
                   it had appended is found by the recovery

The watch acts only when two looks in a row see the same note. A process that has just taken its turn has not yet noted
when: for a moment its note is that of an earlier turn, perhaps hours old.

A process in another PID namespace is only named: its number means another process here.
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
    """Watches the holder of the index's write turn. Call `look` about once a second."""

    def __init__(self, holder: Callable[[], Holder | None], lock_path: str, counters: MutableMapping[str, int]) -> None:
        """`holder` returns the other process that writes just now; `lock_path`: the file that it has open."""
        self._holder = holder
        self._lock_path = os.path.realpath(lock_path)
        self._counters = counters
        self._seen: Holder | None = None
        """The holder at the last look."""
        self._named: Holder | None = None
        self._continued: Holder | None = None

    def look(self, limit_s: float) -> None:
        """Names, continues or kills the holder when that is due. With a limit of 0 it kills nobody."""
        holder = self._holder()
        before, self._seen = self._seen, holder
        if holder is None or holder.held_s < NAMED_S:
            if self._named is not None:
                logger.info("the index is written again")
            self._named = self._continued = None
            return
        if before is None or not _is_same_turn(before, holder):
            return
        if self._named is None:
            self._counters["index_held_up"] += 1
            logger.error("a process keeps the index to itself", **holder.as_dict())
        self._named = holder
        if not holder.pid or holder.pid == os.getpid() or not self._has_it_open(holder.pid):
            return
        if holder.held_s > CONTINUE_S and self._continued is None and _is_stopped(holder.pid):
            self._continued = holder
            logger.warning("a stopped process that keeps the index to itself is continued", **holder.as_dict())
            _signal(holder.pid, signal.SIGCONT)
        elif limit_s and holder.held_s > limit_s:
            logger.error("a process that keeps the index to itself is killed", **holder.as_dict())
            self._counters["index_holders_killed"] += 1
            _signal(holder.pid, signal.SIGKILL)

    def _has_it_open(self, pid: int) -> bool:
        folder = Path(f"/proc/{pid}/fd")
        try:
            return any(os.readlink(link) == self._lock_path for link in folder.iterdir())
        except OSError:
            return False

    def snapshot(self) -> dict[str, object] | None:
        """The process that blocks the index, for the statistics; None when all is well."""
        return None if self._named is None else self._named.as_dict()


def _is_same_turn(before: Holder, now: Holder) -> bool:
    """Whether both looks saw the same turn: the process has noted no other one in between."""
    return (before.foreign_pid, before.command) == (now.foreign_pid, now.command) and before.held_s <= now.held_s


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except OSError as error:
        logger.error("it cannot be told so", pid=pid, error=error.strerror)
