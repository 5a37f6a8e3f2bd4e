"""Replacements of engine.storage.files.Files that fail on purpose.

FaultyFiles     the real file system, with a fault at the n-th call of a kind, a limit on every single read or write,
                and a count of all calls
SimulatedDisk   a disk in memory that forgets: nothing is durable before its sync. `after_power_cut(seed)` is the disk
                as the next boot finds it, in one of its many possible states

The simulated disk may lose or reorder changes. Per file: each 512-byte sector written since the last fdatasync may be
lost by itself; changes of size are kept in order up to some point, and bytes after the size are lost. Per directory:
creations, removals and renames since the last sync of this directory are kept up to some point, and a lost directory
loses its contents. A sync fails as in the kernel (Rebello et al., ATC'20): some of the pages reach the platter, all are
clean from then on, the cache shows bytes that the platter does not have, and the next sync succeeds.

Faults by number: every call is counted; `fail_at` makes the n-th one fail, with EIO, ENOSPC (from then on the disk is
full, until `make_room`), EMFILE, or after half of a write. Bytes that were synced are damaged only by `flip`.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import select
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import StorageError, StorageFull
from engine.storage.files import Files, SyncThread, raise_sync_error, raise_write_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

SECTOR_BYTES = 512

WRITING = ("write_zeros", "create", "pwritev", "allocate", "truncate", "rename", "unlink")
SYNCING = ("fdatasync", "sync_directory", "write_back")
READING = ("open", "pread", "preadv", "preadv_cached", "list_directory", "free_bytes")


class PowerCut(BaseException):
    """The machine lost its power. This is no error of the engine, so no code may catch it."""


@dataclass
class Fault:
    """The failure of one call."""

    number: int
    """The errno that the call fails with."""
    partial_bytes: int = 0
    """The number of bytes that a pwritev writes before it fails."""
    repeat: bool = False
    """Whether every later call fails as well."""


class SyncTwin(SyncThread):
    """The same with `files.fdatasync`, faults and all."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._error: BaseException | None = None
        self._runner: threading.Thread | None = None
        self.begin = self._begin
        self.wait = self._wait
        self.fileno = lambda: self._fd
        self.close = self._close

    def _begin(self, fd: int) -> None:
        def run() -> None:
            self._error = None
            try:
                self._files.fdatasync(fd)
            except BaseException as error:
                self._error = error
            os.eventfd_write(self._fd, 1)

        assert self._runner is None
        self._runner = threading.Thread(target=run, daemon=True)
        self._runner.start()

    def _wait(self, timeout_us: int, other_fd: int = -1) -> bool:
        others = [other_fd] if other_fd >= 0 else []
        timeout_s = None if timeout_us < 0 else timeout_us / 1e6
        return self._fd in select.select([self._fd, *others], [], [], timeout_s)[0]

    def finish(self) -> None:
        assert self._runner is not None
        self._runner.join()
        self._runner = None
        os.eventfd_read(self._fd)
        if self._error is not None:
            raise self._error

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SyncAtOnce(SyncThread):
    """The same without a thread: the sync has ended at once, or only after the first question."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._error: StorageError | None = None
        self._count = 0
        self.begin = self._begin
        self.wait = self._wait
        self.fileno = lambda: -1
        self.close = lambda: None

    def _begin(self, fd: int) -> None:
        self._error = None
        self._count += 1
        try:
            self._files.fdatasync(fd)
        except StorageError as error:
            self._error = error

    def _wait(self, timeout_us: int, other_fd: int = -1) -> bool:
        return timeout_us == 0 or self._count % 3 != 0

    def finish(self) -> None:
        if self._error is not None:
            raise self._error


class FaultyFiles(Files):
    """The real file system until a test sets a fault. Faults count calls from 1."""

    __slots__ = ("_faults", "_next_here", "before", "calls", "read_bytes_max", "write_bytes_max")

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """The number of calls of each method."""
        self.read_bytes_max = 0
        """A limit of one system call's read, 0 for none: short reads."""
        self.write_bytes_max = 0
        """A limit of one system call's write: short writes."""
        self.before: Callable[[str], None] | None = None
        """Called with the method's name before each call, on its thread; it may wait."""
        self._faults: dict[tuple[str, int], Fault] = {}
        self._next_here: dict[tuple[str, int], int] = {}

    def fail_here(self, method: str, number: int) -> None:
        """The next call of `method` on this thread fails with this errno; background threads have no part in it."""
        self._next_here[method, threading.get_ident()] = number

    def fail(self, method: str, number: int, *, at: int = 1, partial_bytes: int = 0, repeat: bool = False) -> None:
        """The `at`-th call of `method` from now on fails with this errno."""
        self._faults[method, self.calls[method] + at] = Fault(number, partial_bytes, repeat)

    def heal(self) -> None:
        """Removes all faults."""
        self._faults.clear()

    def _enter(self, method: str) -> Fault | None:
        self.calls[method] += 1
        if self.before is not None:
            self.before(method)
        faults = list(self._faults.items())
        if (here := self._next_here.pop((method, threading.get_ident()), 0)) != 0:
            faults.append(((method, self.calls[method]), Fault(here, 0, False)))
        for (name, at), fault in faults:
            if name == method and (self.calls[method] == at or (fault.repeat and self.calls[method] > at)):
                error = OSError(fault.number, os.strerror(fault.number))
                if method in SYNCING:
                    raise_sync_error(error, method)
                if method == "pwritev" and fault.partial_bytes:
                    return fault
                if method in WRITING:
                    raise_write_error(error, method)
                raise error
        return None

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        self._enter("open")
        return super().open(path, flags, mode)

    def create(self, path: str) -> int:
        self._enter("create")
        return super().create(path)

    def close(self, fd: int) -> None:
        self._enter("close")
        super().close(fd)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, length: int = -1) -> None:
        fault = self._enter("pwritev")
        if fault is not None:
            os.pwrite(fd, b"".join(buffers)[: fault.partial_bytes], offset)
            raise_write_error(OSError(fault.number, os.strerror(fault.number)), "pwritev")
        if not self.write_bytes_max:
            super().pwritev(fd, buffers, offset, length)
            return
        data = b"".join(buffers)
        written = os.pwrite(fd, data[: self.write_bytes_max], offset)
        self._write_rest(fd, [data], offset, written, length)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._enter("pread")
        if not self.read_bytes_max:
            return super().pread(fd, length, offset)
        pieces = range(offset, offset + length, self.read_bytes_max)
        return b"".join(os.pread(fd, min(offset + length - at, self.read_bytes_max), at) for at in pieces)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._enter("preadv")
        if not self.read_bytes_max:
            return super().preadv(fd, buffers, offset)
        done = 0
        for buffer in buffers:
            for at in range(0, buffer.nbytes, self.read_bytes_max):
                done += os.preadv(fd, [buffer[at : at + self.read_bytes_max]], offset + done)
        return done

    def preadv_cached(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._enter("preadv_cached")
        return super().preadv_cached(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        self._enter("fdatasync")
        super().fdatasync(fd)

    def sync_thread(self) -> SyncThread:
        return SyncTwin(self)

    def write_back(self, fd: int, offset: int, length: int) -> None:
        self._enter("write_back")
        super().write_back(fd, offset, length)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        self._enter("allocate")
        super().allocate(fd, offset, length)

    def keep_room(self, fd: int, offset: int, length: int) -> None:
        self._enter("keep_room")
        super().keep_room(fd, offset, length)

    def write_zeros(self, path: str, offset: int, length: int) -> None:
        self._enter("write_zeros")
        super().write_zeros(path, offset, length)

    def truncate(self, fd: int, length: int) -> None:
        self._enter("truncate")
        super().truncate(fd, length)

    def rename(self, source: str, target: str) -> None:
        self._enter("rename")
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._enter("unlink")
        super().unlink(path)

    def sync_directory(self, path: str) -> None:
        self._enter("sync_directory")
        super().sync_directory(path)

    def list_directory(self, path: str) -> list[str]:
        self._enter("list_directory")
        return super().list_directory(path)

    def free_bytes(self, path: str) -> int:
        self._enter("free_bytes")
        return super().free_bytes(path)


# -- the disk that forgets ----------------------------------------------------------------------


_descriptors = itertools.count(1_000_000)
"""Common to all disks, so that a late close by a dead process affects no other file."""


def _write(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset + len(data):
        target.extend(bytes(offset + len(data) - len(target)))
    target[offset : offset + len(data)] = data


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))


Change = tuple[int, bytes] | int
"""An offset and the bytes of one sector or less, or a new size."""


def _apply(target: bytearray, change: Change) -> None:
    if isinstance(change, int):
        _resize(target, change)
    else:
        _write(target, *change)


@dataclass(eq=False)
class SimulatedFile:
    """One inode: the bytes on the platter, those in the page cache, and the changes since the last sync, in order."""

    durable: bytearray = field(default_factory=bytearray)
    now: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    links: int = 1
    owner: int = 0
    """The descriptor that has the lock, 0 for none."""
    version: int = 0
    """The number of its changes."""
    is_directory: bool = False
    suspected_by: set[str] = field(default_factory=set)
    """The processes that saw a sync of it fail."""

    def size(self) -> int:
        return len(self.now)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.now[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.version += 1
        _write(self.now, offset, data)
        self.note_written(offset, data)

    def note_written(self, offset: int, data: bytes) -> None:
        """Records each sector separately: each may reach the platter alone."""
        at = 0
        while at < len(data):
            length = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
            self.pending.append((offset + at, data[at : at + length]))
            at += length

    def resize(self, size: int) -> None:
        self.version += 1
        _resize(self.now, size)
        self.pending.append(size)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()

    def sync_badly(self, rng: random.Random, kept_share: float) -> None:
        """A failed sync: the platter has part of the changes, and the kernel regards all as written."""
        for change in self.pending:
            if rng.random() < kept_share:
                _apply(self.durable, change)
        self.pending.clear()

    def drop_cache(self) -> None:
        self.now[:] = self.durable
        for change in self.pending:
            _apply(self.now, change)

    def survivor(self, rng: random.Random, kept_share: float) -> SimulatedFile:
        """Its state after a power cut."""
        left = SimulatedFile(is_directory=self.is_directory)
        left.durable[:] = self.durable
        resizes = [index for index, change in enumerate(self.pending) if isinstance(change, int)]
        kept_resizes = set(resizes[: rng.randint(0, len(resizes))])
        size = len(self.durable)
        for index, change in enumerate(self.pending):
            if isinstance(change, int):
                if index in kept_resizes:
                    _resize(left.durable, change)
                    size = change
            elif rng.random() < kept_share:
                _write(left.durable, *change)
        # Appending lengthens a file implicitly; without its new size on the platter the bytes are not reachable.
        if rng.random() < 0.5:
            size = max(size, len(left.durable))
        _resize(left.durable, size)
        left.now[:] = left.durable
        return left


@dataclass(frozen=True)
class _Renaming:
    """The change that one call made to the names of a directory; an empty name: none."""

    removed: str
    added: str = ""
    file: SimulatedFile | None = None

    def apply(self, names: dict[str, SimulatedFile]) -> None:
        names.pop(self.removed, None)
        if self.file is not None:
            names[self.added] = self.file


TAKES_ROOM = frozenset({"create", "allocate", "write_zeros", "link", "make_directory"})
"""Calls that a full disk refuses; also pwritev, if the file grows."""
TAKES_DESCRIPTOR = frozenset({"open", "create", "sync_directory", "list_directory", "write_zeros"})
READS = frozenset({"open", "pread", "preadv", "preadv_cached", "list_directory", "free_bytes", "size"})
CHANGES = TAKES_ROOM | {"pwritev", "fdatasync", "truncate", "rename", "unlink", "sync_directory"}


class SimulatedDisk(Files):
    """Files and directories in memory. A directory that was not made with make_directory has always existed."""

    __slots__ = (
        "_directories",
        "_fault_at",
        "_fault_kind",
        "_fault_method",
        "_fault_name",
        "_fds",
        "_journals",
        "_names_durable",
        "_names_now",
        "_rng",
        "calls",
        "calls_all",
        "capacity_bytes",
        "cut_at",
        "fault_hit",
        "is_full",
        "kept_share_badly",
        "loses_directories",
        "loses_syncs",
        "process",
        "trace",
        "violations",
    )

    def __init__(self, *, capacity_bytes: int = 1 << 40, cut_at: int = 0) -> None:
        self.calls = 0
        """Calls that change something, so far."""
        self.calls_all = 0
        """Calls that could fail, so far."""
        self.cut_at = cut_at
        """The power fails at this changing call: it may take effect in part, then it and all later ones raise PowerCut.
        0: never."""
        self.capacity_bytes = capacity_bytes
        self.is_full = False
        self.fault_hit = ""
        """The method in which the fault of `fail_at` occurred."""
        self.trace: list[tuple[str, str]] | None = None
        """Method and name of each call, if a test sets a list."""
        self.violations: list[str] = []
        """Forbidden calls of the engine: a second sync after a failed one."""
        self.process = ""
        """The calling process, if several share the disk."""
        self.loses_syncs = False
        """A control: fdatasync succeeds and does nothing."""
        self.loses_directories = False
        """A control: sync_directory succeeds and does nothing."""
        self._fault_at = 0
        self._fault_kind = ""
        self._fault_method = ""
        self._fault_name = ""
        self.kept_share_badly = 0.5
        """The share of a failed sync's changes that reaches the platter."""
        self._names_durable: dict[str, SimulatedFile] = {}
        self._names_now: dict[str, SimulatedFile] = {}
        self._journals: dict[str, list[_Renaming]] = {}
        self._directories: set[str] = set()
        self._fds: dict[int, SimulatedFile] = {}
        self._rng = random.Random(0)

    # -- faults ---------------------------------------------------------------------------------

    def fail_at(self, number: int, kind: str) -> None:
        """The call with this number (of `calls_all`) fails: EIO, ENOSPC, EMFILE, or "short" after half of it.

        A kind that this call cannot have does nothing; `fault_hit` shows whether the fault occurred.
        """
        self._fault_at = number
        self._fault_kind = kind
        self.fault_hit = ""

    def fail_when(self, method: str, name: str, kind: str = "EIO") -> None:
        """As `fail_at`, at the next call of this method on a file with this in its name."""
        self._fault_method = method
        self._fault_name = name
        self._fault_kind = kind
        self.fault_hit = ""

    def make_room(self) -> None:
        """Ends ENOSPC and every other fault."""
        self.is_full = False
        self._fault_method = ""
        self._fault_at = 0

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Damages a byte on the platter."""
        file = self._names_now[self._key(path)]
        for target in (file.durable, file.now):
            if offset < len(target):
                target[offset] ^= 1 << bit

    def after_power_cut(self, seed: int) -> SimulatedDisk:
        """One of the states in which the next boot may find the disk."""
        disk = SimulatedDisk(capacity_bytes=self.capacity_bytes)
        self._cut_into(disk, seed)
        return disk

    def _cut_into(self, disk: SimulatedDisk, seed: int) -> None:
        rng = random.Random(seed)
        names = dict(self._names_durable)
        for directory in sorted(self._journals):
            journal = self._journals[directory]
            for renaming in journal[: rng.randint(0, len(journal))]:
                renaming.apply(names)
        kept_share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for path, file in names.items():
            if all(parent not in self._directories or parent in names for parent in _parents(path)):
                survivor = file.survivor(rng, kept_share)
                disk._names_durable[path] = disk._names_now[path] = survivor
        disk._directories = {path for path in self._directories if path in disk._names_now}
        disk.loses_syncs, disk.loses_directories = self.loses_syncs, self.loses_directories

    def after_kill(self) -> SimulatedDisk:
        """The disk for the next process after only this one was killed: nothing is lost, no lock is held."""
        disk = SimulatedDisk(capacity_bytes=self.capacity_bytes)
        self._kill_into(disk)
        return disk

    def _kill_into(self, disk: SimulatedDisk) -> None:
        for file in self._names_now.values():
            file.owner = 0
            file.suspected_by.clear()
        disk._names_durable = self._names_durable
        disk._names_now = self._names_now
        disk._journals = self._journals
        disk._directories = self._directories
        disk.loses_syncs, disk.loses_directories = self.loses_syncs, self.loses_directories

    def content(self, path: str) -> bytes:
        """The contents that a reader sees now."""
        file = self._names_now[self._key(path)]
        return file.read(0, file.size())

    def _key(self, path: str) -> str:
        """The name under which a path is known."""
        return path

    def _changing(self) -> bool:
        """Counts a call; False if the power fails during it."""
        self.calls += 1
        if self.cut_at and self.calls > self.cut_at:
            raise PowerCut(f"call {self.calls}")
        return self.calls != self.cut_at

    def enter(self, method: str, name: str, *, grows: bool = True) -> str:
        """Counts a call and fails it if the fault is for it; "short" if half of it must be done first."""
        if self.cut_at and self.calls >= self.cut_at:
            raise PowerCut(f"{method} after call {self.calls}")
        self.calls_all += 1
        if self.trace is not None:
            self.trace.append((method, name))
        if self._fault_method == method and self._fault_name in name:
            self._fault_method = ""
            self._fault_at = self.calls_all
        if self.calls_all == self._fault_at:
            number = self._number_of(self._fault_kind, method)
            if number:
                self.fault_hit = f"{method} {name}"
                self.is_full = self.is_full or number == errno.ENOSPC
                if self._fault_kind == "short":
                    return "short"
                if method == "fdatasync":
                    return "badly"
                self._raise(number, method, name)
        if self.is_full and (method in TAKES_ROOM or (method == "pwritev" and grows)):
            self._raise(errno.ENOSPC, method, name)
        return ""

    @staticmethod
    def _number_of(kind: str, method: str) -> int:
        """The errno that this call can have for this kind of fault; 0 if it cannot."""
        if kind == "short":
            return errno.ENOSPC if method == "pwritev" else 0
        if kind == "ENOSPC":
            return errno.ENOSPC if method in TAKES_ROOM or method in ("pwritev", "commit") else 0
        if kind == "EMFILE":
            return errno.EMFILE if method in TAKES_DESCRIPTOR else 0
        return errno.EIO

    def _raise(self, number: int, method: str, name: str) -> None:
        error = OSError(number, os.strerror(number), name)
        if method == "fdatasync" or (method == "sync_directory" and number != errno.EMFILE):
            raise_sync_error(error, method)
        if method in READS:
            raise error
        raise_write_error(error, f"{method} {name}")

    # -- names ----------------------------------------------------------------------------------

    def _name(self, renaming: _Renaming) -> None:
        directory = os.path.dirname(renaming.added or renaming.removed)
        self._journals.setdefault(directory, []).append(renaming)
        renaming.apply(self._names_now)

    def _use(self, fd: int) -> SimulatedFile:
        return self._fds[fd]

    def durable(self, path: str) -> bytes:
        """The contents on the platter."""
        return bytes(self._names_now[self._key(path)].durable)

    def files(self) -> list[tuple[str, SimulatedFile]]:
        """All files with a name now."""
        return [(path, file) for path, file in self._names_now.items() if not file.is_directory]

    @property
    def fault_armed(self) -> bool:
        """Whether a fault is set."""
        return bool(self.cut_at or self._fault_at or self.is_full)

    def name_of(self, file: SimulatedFile) -> str:
        """A name of an inode, for messages."""
        return next((path for path, found in self._names_now.items() if found is file), "(no name)")

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        key = self._key(path)
        self.enter("open", key)
        file = self._names_now.get(key)
        if file is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            whole = self._changing()
            file = SimulatedFile()
            self._name(_Renaming("", key, file))
            if not whole:
                raise PowerCut("open")
        elif flags & os.O_TRUNC:
            file.resize(0)
        return self._open_file(file)

    def _open_file(self, file: SimulatedFile) -> int:
        fd = next(_descriptors)
        self._fds[fd] = file
        return fd

    def create(self, path: str) -> int:
        key = self._key(path)
        self.enter("create", key)
        if key in self._names_now:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        whole = self._changing()
        file = SimulatedFile()
        self._name(_Renaming("", key, file))
        if not whole:
            raise PowerCut("create")
        return self._open_file(file)

    def close(self, fd: int) -> None:
        file = self._fds.pop(fd, None)
        if file is not None and file.owner == fd:
            file.owner = 0

    def lock(self, fd: int) -> bool:
        file = self._use(fd)
        if file.owner not in (0, fd):
            return False
        file.owner = fd
        return True

    def is_linked(self, fd: int) -> bool:
        return self._use(fd).links > 0

    def exists(self, path: str) -> bool:
        key = self._key(path)
        return key in self._names_now or (key not in self._directories and self._is_old(key))

    def _is_old(self, key: str) -> bool:
        """Whether a directory that was not made has entries."""
        return any(name.startswith(key + "/") for name in self._names_now)

    def identity(self, path: str) -> tuple[int, int] | None:
        file = self._names_now.get(self._key(path))
        return None if file is None else (id(file), file.version)

    def make_directory(self, path: str) -> None:
        key = self._key(path)
        self.enter("make_directory", key)
        if key in self._names_now:
            return
        whole = self._changing()
        self._directories.add(key)
        self._name(_Renaming("", key, SimulatedFile(is_directory=True)))
        if not whole:
            raise PowerCut("make_directory")

    def link(self, source: str, target: str) -> None:
        key = self._key(target)
        self.enter("link", key)
        if key in self._names_now:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        whole = self._changing()
        file = self._names_now[self._key(source)]
        file.links += 1
        self._name(_Renaming("", key, file))
        if not whole:
            raise PowerCut("link")

    def rename(self, source: str, target: str) -> None:
        key = self._key(target)
        self.enter("rename", key)
        whole = self._changing()
        file = self._names_now[self._key(source)]
        if key in self._names_now:
            self._names_now[key].links -= 1
        self._name(_Renaming(self._key(source), key, file))
        if not whole:
            raise PowerCut("rename")

    def unlink(self, path: str) -> None:
        key = self._key(path)
        self.enter("unlink", key)
        whole = self._changing()
        if key in self._names_now:
            file = self._names_now[key]
            file.links -= 1
            self._name(_Renaming(key))
            if file.size():
                self.is_full = False
        if not whole:
            raise PowerCut("unlink")

    def sync_directory(self, path: str) -> None:
        key = self._key(path)
        self.enter("sync_directory", key)
        if not self._changing():
            raise PowerCut("sync_directory")
        if not self.loses_directories:
            for renaming in self._journals.pop(key, []):
                renaming.apply(self._names_durable)

    def list_directory(self, path: str) -> list[str]:
        key = self._key(path)
        self.enter("list_directory", key)
        prefix = key.rstrip("/") + "/"
        return [
            name.removeprefix(prefix)
            for name in self._names_now
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        ]

    def free_bytes(self, path: str) -> int:
        self.enter("free_bytes", "")
        return 0 if self.is_full else self._free()

    def _free(self) -> int:
        return self.capacity_bytes - sum(file.size() for file in self._names_now.values())

    # -- bytes ----------------------------------------------------------------------------------

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, length: int = -1) -> None:
        data = b"".join(buffers)
        file = self._use(fd)
        grows = offset + len(data) - file.size()
        how = self.enter("pwritev", self.name_of(file), grows=grows > 0)
        whole = self._changing()
        if grows > 0 and grows > self._free():
            raise StorageFull("pwritev: simulated")
        file.write(offset, data[: len(data) // 2] if how else data)
        if not whole:
            raise PowerCut("pwritev")
        if how:
            self._raise(errno.ENOSPC, "pwritev", self.name_of(file))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        file = self._use(fd)
        self.enter("pread", self.name_of(file))
        return file.read(offset, length)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        file = self._use(fd)
        self.enter("preadv", self.name_of(file))
        done = 0
        for buffer in buffers:
            data = file.read(offset + done, buffer.nbytes)
            buffer[: len(data)] = data
            done += len(data)
        return done

    def preadv_cached(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return self.preadv(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        file = self._use(fd)
        if self.process in file.suspected_by:
            self.violations.append(f"{self.name_of(file)} is synced again after a sync that failed")
        how = self.enter("fdatasync", self.name_of(file))
        if not self._changing():
            raise PowerCut("fdatasync")
        if how:
            file.sync_badly(self._rng, self.kept_share_badly)
            file.suspected_by.add(self.process)
            self._raise(errno.EIO, "fdatasync", self.name_of(file))
        if not self.loses_syncs:
            file.sync()

    def sync_thread(self) -> SyncThread:
        return SyncAtOnce(self)

    def drop_cache(self, fd: int) -> None:
        self._use(fd).drop_cache()

    def drop_cache_range(self, fd: int, offset: int, length: int) -> None:
        self._use(fd).drop_cache()

    def write_back(self, fd: int, offset: int, length: int) -> None:
        self._use(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        file = self._use(fd)
        self.enter("allocate", self.name_of(file))
        if offset + length - file.size() > self._free():
            raise StorageFull("fallocate: simulated")
        if offset + length > file.size():
            self._truncate(file, offset + length)

    def keep_room(self, fd: int, offset: int, length: int) -> None:
        self.enter("keep_room", self.name_of(self._use(fd)))

    def write_zeros(self, path: str, offset: int, length: int) -> None:
        self.enter("write_zeros", self._key(path))
        file = self._names_now[self._key(path)]
        whole = self._changing()
        file.write(offset, bytes(length))
        if not whole:
            raise PowerCut("write_zeros")
        file.sync()

    def truncate(self, fd: int, length: int) -> None:
        file = self._use(fd)
        self.enter("truncate", self.name_of(file))
        self._truncate(file, length)

    def _truncate(self, file: SimulatedFile, length: int) -> None:
        whole = self._changing()
        file.resize(length)
        if not whole:
            raise PowerCut("truncate")

    def size(self, fd: int) -> int:
        return self._use(fd).size()

    def next_data(self, fd: int, offset: int) -> int:
        return offset

    def next_hole(self, fd: int, offset: int) -> int:
        return self.size(fd)

    def expect_random(self, fd: int) -> None:
        self._use(fd)


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
