"""Whose turn it is to write the index: a lock in front of LMDB's own, which can be tried, and which names its holder.

LMDB's write lock is one for all processes. It cannot be tried, and says of nobody that he has it: one process that
stands still in a transaction (stopped, frozen, traced) would keep everybody waiting, and nobody would know for whom.

    DATA/index/writer    an OFD lock on its first byte; and who had it last, which is who has it while it is locked

    offset  bytes  field
    0       8      byte that is locked, unused
    8       4      process id, in the PID namespace of that process
    12      4      0
    16      8      inode of that namespace
    24      8      since when, ns of CLOCK_BOOTTIME
    32      64     the process's command line, its arguments left out; UTF-8, padded with NUL

Whoever opens the index without this lock (an older version) is still kept apart from others by LMDB's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import sys
import threading
import time
from pathlib import Path

from engine.errors import StorageFailed
from engine.index.database.locks import is_locked, try_lock, wait_exclusive
from engine.index.format.types import Holder

_HOLDER = struct.Struct("<8xIIQQ64s")

_POLL_S = 0.01

_TRY_S = 0.002
"""How long a turn is asked for again before who must not wait gives up."""
_YIELDS = 200
_PAUSE_S = 0.00005
"""A transaction takes some 100 microseconds: first the processor is given to others, then for moments. Pauses of half a
millisecond here cost a tenth of what eight write-behind senders reach."""


def pid_namespace() -> int:
    """The inode of this process's PID namespace; 0 where that cannot be told."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _command() -> bytes:
    """What this process is, without paths of patients' files or UIDs."""
    words = [Path(sys.argv[0]).name, *[word for word in sys.argv[1:2] if word.isascii() and word.isidentifier()]]
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None:
        words[0] = module.name
    return " ".join(words).encode("utf-8", "replace")[:64]


class Turn:
    """One process's handle; for one thread at a time."""

    def __init__(self, directory: str) -> None:
        """Raises OSError."""
        self._fd = os.open(f"{directory}/writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._who = os.getpid(), 0, pid_namespace()
        self._command = _command()

    def take(self) -> None:
        """Waits for it. Raises StorageFailed, as the other two do, when the disk fails."""
        wait_exclusive(self._fd)
        self._note()

    def try_take(self) -> bool:
        """Takes it, unless somebody else has it for more than some milliseconds."""
        give_up_at, tries = time.monotonic() + _TRY_S, 0
        while not try_lock(self._fd, exclusive=True):
            if time.monotonic() > give_up_at:
                return False
            tries += 1
            if tries <= _YIELDS:
                os.sched_yield()
            else:
                select.select((), (), (), _PAUSE_S)
        self._note()
        return True

    def take_within(self, patience_s: float) -> bool:
        """Waits for it, but not for ever."""
        give_up_at = time.monotonic() + patience_s
        while not self.try_take():
            if time.monotonic() > give_up_at:
                return False
            threading.Event().wait(_POLL_S)
        return True

    def _note(self) -> None:
        try:
            os.pwrite(self._fd, _HOLDER.pack(*self._who, _now_ns(), self._command), 0)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # then nobody is named, and all the same all take turns
                self.leave()
                raise StorageFailed(f"the index cannot be written: {error.strerror}") from error

    def leave(self) -> None:
        """Gives it to the next."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _UNLOCK)

    def holder(self) -> Holder | None:
        """Who else has it."""
        return _read_holder(self._fd)

    def close(self) -> None:
        """Lets go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_UNLOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 1, 0)


def holder_of(directory: str) -> Holder | None:
    """Who writes the index of this directory just now; None: nobody, or it has none."""
    try:
        fd = os.open(f"{directory}/writer", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_holder(fd)
    finally:
        os.close(fd)


def _read_holder(fd: int) -> Holder | None:
    if not is_locked(fd):
        return None
    data = os.pread(fd, _HOLDER.size, 0)
    if len(data) < _HOLDER.size:
        return Holder(0, 0, 0.0, "?")
    pid, _, namespace, since_ns, command = _HOLDER.unpack(data)
    is_ours = namespace == pid_namespace()
    held_s = max(0.0, (_now_ns() - since_ns) / 1e9)
    return Holder(pid if is_ours else 0, pid, held_s, command.rstrip(b"\0").decode("utf-8", "replace"))
