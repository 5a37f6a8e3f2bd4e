"""The turn to write the index: a lock in front of LMDB's own, which can be tried, and which names its holder.

All processes share LMDB's write lock. It cannot be tried, and does not name its holder: a process that is stopped,
frozen or traced within a transaction would keep all others waiting, and none of them could say for whom.

    DATA/index/turn      the writing process locks (OFD) a range from byte 0. Each process locks another number of
                         bytes, 1 + its slot, so that the lock itself names its holder
                         byte SLOTS_AT + slot: locked by the process that has the slot, as long as it has the index open
                         at slot * 88: the process that has or had that slot:

    offset  bytes  field
    0       4      process id, in the PID namespace of that process
    4       4      0
    8       8      inode of that namespace
    16      8      the start of its turn, ns of CLOCK_BOOTTIME; up to NOTE_LIFE_NS too early
    24      64     the process's command line without arguments; UTF-8, padded with NUL

A turn takes two system calls, to lock and to unlock: a note younger than NOTE_LIFE_NS is not written again. LMDB's own
lock still excludes a process that opens the index without this one (an older version).
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
from engine.index.database.locks import try_lock
from engine.index.format.types import Holder

_HOLDER = struct.Struct("<IIQQ64s")
_LOCK = struct.Struct("hhqqi4x")

SLOTS_AT = 1 << 40
"""Far behind the end of the file: a lock needs no bytes."""
SLOTS = 4096
"""Open handles with a slot. A handle without one takes turns too, but is not named."""
NOTE_LIFE_NS = 50_000_000
"""Far less than the shortest turn that causes a warning, far more than a transaction takes."""

_POLL_S = 0.01

_TRY_S = 0.002
"""How long a caller that must not wait tries to get a turn."""
_YIELDS = 200
_PAUSE_S = 0.00005
"""A transaction takes some 100 microseconds: yield the processor first, then sleep for moments. Pauses of half a
millisecond here cost eight write-behind senders a tenth of their throughput."""


def pid_namespace() -> int:
    """The inode of this process's PID namespace; 0 if it cannot be read."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _command() -> bytes:
    """The program and subcommand of this process, without arguments: these may name patients' files or UIDs."""
    words = [Path(sys.argv[0]).name, *[word for word in sys.argv[1:2] if word.isascii() and word.isidentifier()]]
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is not None:
        words[0] = module.name
    return " ".join(words).encode("utf-8", "replace")[:64]


class Turn:
    """One process's handle; for one thread at a time."""

    def __init__(self, directory: str) -> None:
        """Raises OSError."""
        self._fd = os.open(turn_path(directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._who = os.getpid(), 0, pid_namespace()
        self._command = _command()
        try:
            self._slot = self._free_slot()
        except BaseException:
            self.close()
            raise
        self._note_ns = 0
        self._use_slot(self._slot)

    def _use_slot(self, slot: int) -> None:
        self._slot = slot
        self._lock = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1 + slot, 0)
        self._unlock = _LOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 1 + slot, 0)

    def _free_slot(self) -> int:
        return next((slot for slot in range(SLOTS) if try_lock(self._fd, exclusive=True, at=SLOTS_AT + slot)), SLOTS)

    def take(self) -> None:
        """Waits for the turn. Raises StorageFailed, as `try_take` and `take_within` do, when the disk fails."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, self._lock)
        self._note()

    def try_take(self) -> bool:
        """Takes the turn. False when another process keeps it for more than some milliseconds."""
        if not self._try():
            give_up_at, tries = time.monotonic() + _TRY_S, 0
            while not self._try():
                if time.monotonic() > give_up_at:
                    return False
                tries += 1
                if tries <= _YIELDS:
                    os.sched_yield()
                else:
                    select.select((), (), (), _PAUSE_S)
        self._note()
        return True

    def _try(self) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._lock)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EACCES:
                return False
            raise
        return True

    def take_within(self, patience_s: float) -> bool:
        """Waits for the turn for at most `patience_s`. Returns whether it was taken."""
        give_up_at = time.monotonic() + patience_s
        while not self.try_take():
            if time.monotonic() > give_up_at:
                return False
            threading.Event().wait(_POLL_S)
        return True

    def _note(self) -> None:
        now_ns = _now_ns()
        if now_ns - self._note_ns < NOTE_LIFE_NS or self._slot == SLOTS:
            return
        try:
            os.pwrite(self._fd, _HOLDER.pack(*self._who, now_ns, self._command), self._slot * _HOLDER.size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self.leave()
                raise StorageFailed(f"the index cannot be written: {error.strerror}") from error
            # Take turns without a name from now on: with its old note, this process would seem to write all the time.
            self._use_slot(SLOTS)
        else:
            self._note_ns = now_ns

    def leave(self) -> None:
        """Gives the turn back."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._unlock)

    def holder(self) -> Holder | None:
        """The other process that has the turn."""
        return _read_holder(self._fd)

    def close(self) -> None:
        """Closes the file, which gives back the turn and the slot."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def turn_path(directory: str) -> str:
    """The file that every process which writes the index of this directory has open."""
    return f"{directory}/turn"


def holder_of(directory: str) -> Holder | None:
    """The process that is writing the index of this directory; None: no process, or there is no index."""
    try:
        fd = os.open(turn_path(directory), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_holder(fd)
    finally:
        os.close(fd)


def _read_holder(fd: int) -> Holder | None:
    kind, _, _, bytes_locked, _ = _LOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _ANYBODY))
    if kind == fcntl.F_UNLCK:
        return None
    data = os.pread(fd, _HOLDER.size, (bytes_locked - 1) * _HOLDER.size)
    if len(data) < _HOLDER.size:
        return Holder(0, 0, 0.0, "?")
    pid, _, namespace, since_ns, command = _HOLDER.unpack(data)
    is_ours = namespace == pid_namespace()
    held_s = max(0.0, (_now_ns() - since_ns) / 1e9)
    return Holder(pid if is_ours else 0, pid, held_s, command.rstrip(b"\0").decode("utf-8", "replace"))


_ANYBODY = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
