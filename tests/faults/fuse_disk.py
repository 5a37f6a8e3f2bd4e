"""A disk that loses power: one file `disk` in a FUSE file system of its own, to be loop-mounted.

Speaks the kernel's FUSE protocol (7.31) on /dev/fuse itself, so that it needs no library. It models a drive with a
volatile write cache that keeps what it promises and nothing else:

    write ──► volatile image, and the list of what is not flushed ──FUSE_FSYNC──► durable image (a plain file)
                                         └── cut: each sector of each write is kept by a coin, in order; or gone

The loop driver sends the flush of the file system above as FSYNC of the file, so what ext4 or XFS believe to be durable
is in the durable image and nothing else need be. After the cut everything is EIO, until the machine is taken apart; the
durable image is then what a reboot would find. A cut comes at once, or armed: right before the n-th write or flush from
now, or n milliseconds from now.

Program: `python -m tests.faults.fuse_disk MOUNT_POINT IMAGE`; one command a line on stdin, one answer a line on stdout:

    cut SEED SECTOR_BYTES                    cut now                          → cut WRITES KEPT DROPPED
    arm writes|flushes N SEED SECTOR_BYTES   cut right before that one        → armed
    fail HEX                                 writes that contain these bytes are EIO; nothing: heal  → failing
    state                                                                     → on|off WRITES FLUSHES UNFLUSHED ERRORS
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import select
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.system.mounts import unmount

ROOT = Path(__file__).resolve().parents[2]

ROOT_NODE, DISK_NODE = 1, 2
MAX_WRITE = 1 << 20

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 1, 2, 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH, INIT, OPENDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 20, 25, 26, 27, 29, 36, 38, 42

ASYNC_READ, BIG_WRITES, MAX_PAGES = 1 << 0, 1 << 5, 1 << 22
FOPEN_DIRECT_IO = 1

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_ATTR = struct.Struct("<6Q10I")
_OPEN_OUT = struct.Struct("<QII")
_IO_IN = struct.Struct("<QQIIQII")
_STATFS_OUT = struct.Struct("<5Q4I24x")


class Cut(NamedTuple):
    """What a power cut did."""

    writes: int
    """Writes that had not been flushed."""
    kept_sectors: int
    dropped_sectors: int


class Disk:
    """The two images and what lies between them."""

    def __init__(self, image: Path) -> None:
        self._durable = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self.size = os.fstat(self._durable).st_size
        self._volatile = mmap.mmap(self._durable, self.size, mmap.MAP_PRIVATE)
        self._pending: list[tuple[int, bytes]] = []
        self._armed: tuple[str, int, int, int] | None = None
        self.is_on = True
        self.failing = b""
        """Writes that contain this fail; empty: none."""
        self.writes = 0
        self.flushes = 0
        self.errors = 0

    def arm(self, what: str, count: int, seed: int, sector_bytes: int) -> None:
        """The power goes right before the `count`-th write or flush from now."""
        self._armed = (what, (self.writes if what == "writes" else self.flushes) + count, seed, sector_bytes)

    def read(self, offset: int, length: int) -> bytes:
        """What the file system sees."""
        self._need_power()
        return self._volatile[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Takes a write into the cache."""
        self._count("writes")
        self._need_power()
        if self.failing and self.failing in data:
            self.errors += 1
            raise OSError(errno.EIO, "a bad region")
        self._volatile[offset : offset + len(data)] = data
        self._pending.append((offset, data))

    def flush(self) -> None:
        """Everything written so far becomes durable."""
        self._count("flushes")
        self._need_power()
        for offset, data in self._pending:
            os.pwrite(self._durable, data, offset)
        self._pending.clear()

    def cut(self, seed: int, sector_bytes: int) -> Cut:
        """Half of what was not flushed is lost, sector by sector."""
        rng = random.Random(seed)
        kept = dropped = 0
        for offset, data in self._pending if self.is_on else ():
            for at in range(0, len(data), sector_bytes):
                if rng.getrandbits(1):
                    os.pwrite(self._durable, data[at : at + sector_bytes], offset + at)
                    kept += 1
                else:
                    dropped += 1
        done = Cut(len(self._pending), kept, dropped)
        self.is_on = False
        return done

    def state(self) -> str:
        """For the control channel."""
        return f"{'on' if self.is_on else 'off'} {self.writes} {self.flushes} {len(self._pending)} {self.errors}"

    def _count(self, what: str) -> None:
        count = self.writes = self.writes + (what == "writes")
        if what == "flushes":
            count = self.flushes = self.flushes + 1
        if self._armed is not None and self._armed[0] == what and count >= self._armed[1] and self.is_on:
            self.cut(*self._armed[2:])

    def _need_power(self) -> None:
        if not self.is_on:
            raise OSError(errno.EIO, "the power is gone")


class FileSystem:
    """The FUSE requests of a directory with one file."""

    def __init__(self, fd: int, disk: Disk) -> None:
        self._fd = fd
        self._disk = disk

    def serve_one(self) -> bool:
        """Answers the next request; False when the file system was unmounted."""
        try:
            request = os.read(self._fd, MAX_WRITE + 4096)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                return True
            if error.errno == errno.ENODEV:
                return False
            raise
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return True
        try:
            body, number = self._answer(opcode, node, memoryview(request)[_IN.size :]), 0
        except OSError as error:
            body, number = b"", error.errno or errno.EIO
        try:
            os.write(self._fd, _OUT.pack(_OUT.size + len(body), -number, unique) + body)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the request was interrupted meanwhile
                raise
        return opcode != DESTROY

    def _answer(self, opcode: int, node: int, body: memoryview) -> bytes:
        match opcode:
            case 26:
                flags = ASYNC_READ | BIG_WRITES | MAX_PAGES
                return _INIT_OUT.pack(7, 31, 1 << 17, flags, 16, 12, MAX_WRITE, 1, MAX_WRITE // 4096, 0, 0)
            case 1:
                if node != ROOT_NODE or bytes(body).rstrip(b"\0") != b"disk":
                    raise OSError(errno.ENOENT, "no such file")
                return struct.pack("<QQQQII", DISK_NODE, 0, 3600, 3600, 0, 0) + self._attributes(DISK_NODE)
            case 3 | 4:
                return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
            case 14:
                return _OPEN_OUT.pack(0, FOPEN_DIRECT_IO, 0)
            case 27:
                return _OPEN_OUT.pack(0, 0, 0)
            case 15:
                _, offset, size, *_ = _IO_IN.unpack_from(body)
                return self._disk.read(offset, size)
            case 16:
                _, offset, size, *_ = _IO_IN.unpack_from(body)
                self._disk.write(offset, bytes(body[_IO_IN.size : _IO_IN.size + size]))
                return struct.pack("<II", size, 0)
            case 20:
                self._disk.flush()
                return b""
            case 17:
                return _STATFS_OUT.pack(self._disk.size >> 12, 0, 0, 2, 0, 4096, 255, 4096, 0)
            case 18 | 25 | 29 | 38:
                return b""
        raise OSError(errno.ENOSYS, "not needed for a disk")

    def _attributes(self, node: int) -> bytes:
        if node == ROOT_NODE:
            return _ATTR.pack(node, 0, 0, 0, 0, 0, 0, 0, 0, stat.S_IFDIR | 0o700, 2, 0, 0, 0, 4096, 0)
        return _ATTR.pack(
            *(node, self._disk.size, self._disk.size >> 9, 0, 0, 0, 0, 0, 0),
            *(stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0),
        )


def _mount(mount_point: str, fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,max_read={MAX_WRITE}"
    if libc.mount(b"filmroom-disk", mount_point.encode(), b"fuse", 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount: {os.strerror(number)}")


def _serve(mount_point: str, image: Path) -> None:
    """The program: the file system, and the control channel on stdin and stdout."""
    disk = Disk(image)
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    _mount(mount_point, fd)
    file_system = FileSystem(fd, disk)
    os.write(1, b"mounted\n")
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == fd and not file_system.serve_one():
                return
            if ready == 0:
                words = os.read(0, 4096).decode().split()
                if not words:
                    # Whoever started this is gone: without power nothing waits for an answer, and umount comes through.
                    disk.is_on = False
                    poll.unregister(0)
                else:
                    os.write(1, _obey(disk, words).encode() + b"\n")


def _obey(disk: Disk, words: list[str]) -> str:
    match words:
        case ["cut", seed, sector_bytes]:
            return "cut " + " ".join(map(str, disk.cut(int(seed), int(sector_bytes))))
        case ["arm", what, count, seed, sector_bytes]:
            disk.arm(what, int(count), int(seed), int(sector_bytes))
            return "armed"
        case ["fail", *what]:
            disk.failing = bytes.fromhex("".join(what))
            return "failing"
    return disk.state()


class State(NamedTuple):
    """How the disk is."""

    is_on: bool
    writes: int
    flushes: int
    unflushed: int
    errors: int
    """Writes that were made to fail."""


class FuseDisk:
    """The program from outside, mounted for as long as the object lives."""

    def __init__(self, mount_point: Path, image: Path) -> None:
        mount_point.mkdir(parents=True, exist_ok=True)
        self.mount_point = mount_point
        self.file = mount_point / "disk"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fuse_disk", str(mount_point), str(image)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "mounted\n":
            self._process.wait()
            raise OSError(errno.EIO, f"the FUSE disk could not be mounted at {mount_point}")

    def cut(self, seed: int, sector_bytes: int = 4096) -> Cut:
        """The power goes now."""
        _, *numbers = self._ask(f"cut {seed} {sector_bytes}").split()
        return Cut(*map(int, numbers))

    def arm(self, what: str, count: int, seed: int, sector_bytes: int = 4096) -> None:
        """The power goes right before that many more "writes" or "flushes"."""
        self._ask(f"arm {what} {count} {seed} {sector_bytes}")

    def fail(self, content: bytes) -> None:
        """Writes that contain these bytes fail from now on; with b"" all succeed again."""
        self._ask(f"fail {content.hex()}")

    def state(self) -> State:
        """See `State`."""
        on, *numbers = self._ask("state").split()
        return State(on == "on", *map(int, numbers))

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        """Unmounts it and waits for the program's end."""
        try:
            unmount(self.mount_point)
            self._process.wait(60)
        finally:
            self._process.kill()
            self._process.communicate()


@contextmanager
def fuse_disk(mount_point: Path, image: Path) -> Iterator[FuseDisk]:
    """The disk for the length of a block."""
    disk = FuseDisk(mount_point, image)
    try:
        yield disk
    finally:
        disk.close()


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
