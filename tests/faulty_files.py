"""Twins of engine.storage.files.Files that fail on purpose.

FaultyFiles     the real file system, with a fault at the n-th call of a kind, a bound on every single read or write,
                and a count of all calls
SimulatedDisk   a disk in memory that forgets: nothing is durable before its sync. `after_power_cut(seed)` is the disk
                as the next boot finds it, one of the many states that a real one may be left in

What the simulated disk may lose or reorder, per file: each 512-byte sector written since the last fdatasync is there or
not, on its own; a change of size is there or not, in order, and bytes after the size are gone. Per directory:
creations, removals and renames since the last sync_directory are kept up to some point. What it does not do: damage
bytes that were synced.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import StorageFull
from engine.storage.files import Files, raise_sync_error, raise_write_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

SECTOR_BYTES = 512

WRITING = ("create", "pwritev", "allocate", "truncate", "rename", "unlink")
SYNCING = ("fdatasync", "sync_directory", "write_back")
READING = ("open", "pread", "preadv", "preadv_cached", "list_directory", "free_bytes")


class PowerCut(Exception):
    """The machine is gone; not an error of the engine, so nothing may swallow it."""


@dataclass
class Fault:
    """What happens at one call."""

    number: int
    """The errno that the call fails with."""
    partial_bytes: int = 0
    """How much a pwritev writes before it fails."""
    repeat: bool = False
    """Whether every later call fails as well."""


class FaultyFiles(Files):
    """The real thing until told otherwise. Faults count calls from 1."""

    __slots__ = ("_faults", "before", "calls", "read_bytes_max", "write_bytes_max")

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """How often each method has been called."""
        self.read_bytes_max = 0
        """A bound on one system call's read, 0 for none: short reads."""
        self.write_bytes_max = 0
        """A bound on one system call's write: short writes."""
        self.before: Callable[[str], None] | None = None
        """Called with the method's name before each call, on its thread: a place to wait in."""
        self._faults: dict[tuple[str, int], Fault] = {}

    def fail(self, method: str, number: int, *, at: int = 1, partial_bytes: int = 0, repeat: bool = False) -> None:
        """The `at`-th call of `method` from now on fails with this errno."""
        self._faults[method, self.calls[method] + at] = Fault(number, partial_bytes, repeat)

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()

    def _enter(self, method: str) -> Fault | None:
        self.calls[method] += 1
        if self.before is not None:
            self.before(method)
        for (name, at), fault in self._faults.items():
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
        return super().pread(fd, min(length, self.read_bytes_max), offset)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._enter("preadv")
        if not self.read_bytes_max:
            return super().preadv(fd, buffers, offset)
        return os.preadv(fd, [buffers[0][: self.read_bytes_max]], offset)

    def preadv_cached(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._enter("preadv_cached")
        return super().preadv_cached(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        self._enter("fdatasync")
        super().fdatasync(fd)

    def write_back(self, fd: int, offset: int, length: int) -> None:
        self._enter("write_back")
        super().write_back(fd, offset, length)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        self._enter("allocate")
        super().allocate(fd, offset, length)

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


@dataclass
class _File:
    """One inode: what is on the platter, and what happened since its last sync."""

    durable: bytearray = field(default_factory=bytearray)
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    """In order: (offset, bytes of one sector or less), or a new size."""
    links: int = 0
    owner: int = 0
    """The descriptor that has the lock, 0 for none."""

    def sync(self) -> None:
        self.durable[:] = self.now
        self.pending.clear()


def _write(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset + len(data):
        target.extend(bytes(offset + len(data) - len(target)))
    target[offset : offset + len(data)] = data


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))


class SimulatedDisk(Files):
    """Files and directories in memory; one directory level is enough for us, so a path is a plain name."""

    __slots__ = ("_fds", "_journal", "_names_durable", "_names_now", "_next_fd", "calls", "capacity_bytes", "cut_at")

    def __init__(self, *, capacity_bytes: int = 1 << 40, cut_at: int = 0) -> None:
        self.calls = 0
        """Calls that change something, so far."""
        self.cut_at = cut_at
        """The power goes at this call: it may happen half, then it and all later ones raise PowerCut. 0: never."""
        self.capacity_bytes = capacity_bytes
        self._names_durable: dict[str, _File] = {}
        self._names_now: dict[str, _File] = {}
        self._journal: list[tuple[str, str, _File | None]] = []
        # (name removed, name added, its file); empty for neither
        self._fds: dict[int, _File] = {}
        self._next_fd = 1000

    def after_power_cut(self, seed: int) -> SimulatedDisk:
        """One of the states in which the next boot may find the disk."""
        rng = random.Random(seed)
        names = dict(self._names_durable)
        for removed, added, renamed in self._journal[: rng.randint(0, len(self._journal))]:
            self._apply_name(names, removed, added, renamed)
        kept_share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        disk = SimulatedDisk(capacity_bytes=self.capacity_bytes)
        for path, file in names.items():
            survivor = _File(links=1)
            survivor.durable[:] = file.durable
            resizes = [index for index, change in enumerate(file.pending) if isinstance(change, int)]
            kept_resizes = set(resizes[: rng.randint(0, len(resizes))])
            size = len(file.durable)
            for index, change in enumerate(file.pending):
                if isinstance(change, int):
                    if index in kept_resizes:
                        _resize(survivor.durable, change)
                        size = change
                elif rng.random() < kept_share:
                    _write(survivor.durable, *change)
            # Appending lengthens a file implicitly; without its new size on the platter the bytes are not reachable.
            if rng.random() < 0.5:
                size = max(size, len(survivor.durable))
            _resize(survivor.durable, size)
            survivor.now[:] = survivor.durable
            disk._names_durable[path] = disk._names_now[path] = survivor
        return disk

    def after_kill(self) -> SimulatedDisk:
        """The disk as the next process finds it when only this one was killed: nothing is lost, no lock is held."""
        disk = SimulatedDisk(capacity_bytes=self.capacity_bytes)
        for file in self._names_now.values():
            file.owner = 0
        disk._names_durable = self._names_durable
        disk._names_now = self._names_now
        disk._journal = self._journal
        return disk

    def content(self, path: str) -> bytes:
        """What a reader sees now."""
        return bytes(self._names_now[path].now)

    def _changing(self) -> bool:
        """Counts a call; False when the power goes during it."""
        self.calls += 1
        if self.cut_at and self.calls > self.cut_at:
            raise PowerCut(f"call {self.calls}")
        return self.calls != self.cut_at

    @staticmethod
    def _apply_name(names: dict[str, _File], removed: str, added: str, file: _File | None) -> None:
        names.pop(removed, None)
        if file is not None:
            names[added] = file

    def _name(self, removed: str, added: str = "", file: _File | None = None) -> None:
        self._journal.append((removed, added, file))
        self._apply_name(self._names_now, removed, added, file)

    def _use(self, fd: int) -> _File:
        return self._fds[fd]

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        if path not in self._names_now:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._open_file(self._names_now[path])

    def _open_file(self, file: _File) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = file
        return self._next_fd

    def create(self, path: str) -> int:
        if path in self._names_now:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        whole = self._changing()
        file = _File(links=1)
        self._name("", path, file)
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

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, length: int = -1) -> None:
        whole = self._changing()
        data = b"".join(buffers)
        file = self._use(fd)
        grows = offset + len(data) - len(file.now)
        if grows > 0 and grows > self.free_bytes(""):
            raise StorageFull("pwritev: simulated")
        _write(file.now, offset, data)
        at = 0
        while at < len(data):
            size = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
            file.pending.append((offset + at, data[at : at + size]))
            at += size
        if not whole:
            raise PowerCut("pwritev")

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return bytes(self._use(fd).now[offset : offset + length])

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        done = 0
        for buffer in buffers:
            data = self.pread(fd, buffer.nbytes, offset + done)
            buffer[: len(data)] = data
            done += len(data)
        return done

    def preadv_cached(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return self.preadv(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        if not self._changing():
            raise PowerCut("fdatasync")
        self._use(fd).sync()

    def write_back(self, fd: int, offset: int, length: int) -> None:
        self._use(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        file = self._use(fd)
        if offset + length - len(file.now) > self.free_bytes(""):
            raise StorageFull("fallocate: simulated")
        if offset + length > len(file.now):
            self.truncate(fd, offset + length)

    def write_zeros(self, path: str, offset: int, length: int) -> None:
        fd = self.open(path, 0)
        self.pwritev(fd, [bytes(length)], offset)
        self.fdatasync(fd)
        self.close(fd)

    def truncate(self, fd: int, length: int) -> None:
        whole = self._changing()
        file = self._use(fd)
        _resize(file.now, length)
        file.pending.append(length)
        if not whole:
            raise PowerCut("truncate")

    def size(self, fd: int) -> int:
        return len(self._use(fd).now)

    def next_data(self, fd: int, offset: int) -> int:
        return offset

    def next_hole(self, fd: int, offset: int) -> int:
        return self.size(fd)

    def expect_random(self, fd: int) -> None:
        self._use(fd)

    def rename(self, source: str, target: str) -> None:
        whole = self._changing()
        file = self._names_now[source]
        self._name(source, target, file)
        if not whole:
            raise PowerCut("rename")

    def unlink(self, path: str) -> None:
        whole = self._changing()
        if path in self._names_now:
            self._names_now[path].links -= 1
            self._name(path)
        if not whole:
            raise PowerCut("unlink")

    def sync_directory(self, path: str) -> None:
        if not self._changing():
            raise PowerCut("sync_directory")
        self._names_durable = dict(self._names_now)
        self._journal.clear()

    def list_directory(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        return [name.removeprefix(prefix) for name in self._names_now if name.startswith(prefix)]

    def free_bytes(self, path: str) -> int:
        return self.capacity_bytes - sum(len(file.now) for file in self._names_now.values())
