"""The hash chains that events are kept in: one for each process that writes at the same time.

    DATA/audit/chains/007/lock                          flock of the process that appends to this chain
    DATA/audit/chains/007/ended                         a sync failed: nobody appends to it any more
    DATA/audit/chains/007/000000000001.events           its records from number 1 on
    DATA/audit/chains/007/000000041234.events           the next file, from number 41234 on

    a line      HASH SPACE JSON \\n      HASH = SHA-256(the hash before, as 32 bytes | JSON), in 64 hex digits
    the first   the hash before it is SHA-256("filmroom audit chain 007")

A process takes the first chain whose lock is free and goes on where the last one stopped, so short commands leave no
files behind. Bytes behind the last line end are of a process that died while it wrote; nobody was answered for them,
and they are cut off. Whatever else is wrong with the end of a chain is evidence: the chain is left as it is, and the
process takes another one. Only `pruning` removes files, whole ones.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from engine import log
from engine.audit.event import encoded
from engine.errors import StorageError, StorageFailed
from engine.storage.files import Files, raise_write_error

logger = log.get("audit.chain")

FOLDER: Final = "audit"
CHAINS: Final = "chains"
SUFFIX: Final = ".events"
ENDED: Final = "ended"
HASH_BYTES: Final = 64
FILE_BYTES_MAX: Final = 16 << 20
FILE_AGE_S_MAX: Final = 30 * 86400.0
"""A file is closed after so long, so that pruning can remove it when all of its events are old."""
CHAINS_MAX: Final = 100_000
ROOM_BYTES: Final = 256 << 10
"""A chain reserves this much of the disk ahead, so that some hundred disclosures are recorded when it is full."""
TAIL_BYTES: Final = 256 << 10
"""The last lines of a file are within this: a record is shorter (`event.TEXT_MAX`)."""


def folder_of(data: Path) -> Path:
    """The folder of an archive's audit log."""
    return data / FOLDER


def first_hash(name: str) -> bytes:
    """The hash before the first record of a chain."""
    return hashlib.sha256(f"filmroom audit chain {name}".encode()).digest()


def next_hash(before: bytes, record: bytes) -> bytes:
    """The hash of a record."""
    return hashlib.sha256(before + record).digest()


def chain_names(data: Path) -> list[str]:
    """The names of all chains, in order."""
    try:
        entries = os.scandir(folder_of(data) / CHAINS)
    except FileNotFoundError:
        return []
    with entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and entry.name.isdecimal())


def chain_files(data: Path, name: str) -> list[Path]:
    """The files of a chain, in order."""
    folder = folder_of(data) / CHAINS / name
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / each for each in sorted(names) if each.endswith(SUFFIX)]


def first_number(path: Path) -> int:
    """The number of a file's first record, by its name. Raises ValueError."""
    return int(path.name.removesuffix(SUFFIX))


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain."""

    number: int
    """Of its last record; 0: none."""
    hash: bytes


def read_head(data: Path, name: str) -> Head | None:
    """The last whole record of a chain, as its file says; None if its end cannot be read."""
    paths = chain_files(data, name)
    for path in reversed(paths):
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")
        if len(lines) > 1:
            return parse_head(lines[-2])
        if path is not paths[-1]:
            return None  # the last file alone may be empty, or begin with a record that was never finished
    return Head(0, first_hash(name)) if len(paths) <= 1 else None


def parse_head(line: bytes) -> Head | None:
    """The number and hash of a record's line; None if it is none."""
    digits, _, record = line.partition(b" ")
    prefix, _, _ = record.partition(b",")
    if len(digits) != HASH_BYTES or not prefix.startswith(b'{"n":'):
        return None
    try:
        return Head(int(prefix[5:]), bytes.fromhex(digits.decode("ascii")))
    except ValueError:
        return None


class ChainWriter:
    """Appends to one chain; for one thread. Every method raises StorageFull or StorageFailed."""

    def __init__(self, data: Path, files: Files) -> None:
        """Takes a chain."""
        self._files = files
        self._fd = -1
        self._length = 0
        self._room_end = 0
        """Up to where blocks are reserved."""
        self._opened_s = 0.0
        self.cut_bytes = 0
        """Bytes of an unfinished record that were cut off."""
        audit = folder_of(data)
        for folder in (audit, audit / CHAINS):
            make_private(folder, files)
        self._lock_fd, self._folder, self._head = self._take(data)
        self.name = self._folder.name

    @property
    def head(self) -> Head:
        """Its last record."""
        return self._head

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes records; they are durable after `sync`."""
        if self._fd < 0 or self._length >= FILE_BYTES_MAX or time.monotonic() - self._opened_s > FILE_AGE_S_MAX:
            self._begin_file()
        self._keep_room()
        number, before = self._head.number, self._head.hash
        lines: list[bytes] = []
        for fields in records:
            number += 1
            record = encoded({"n": number, **fields})
            before = next_hash(before, record)
            lines.append(b"%s %s\n" % (before.hex().encode(), record))
        block = b"".join(lines)
        try:
            self._files.pwritev(self._fd, [block], self._length, len(block))
        except StorageError:
            self._take_back()
            raise
        self._length += len(block)
        self._head = Head(number, before)

    def sync(self) -> None:
        """Makes everything durable. After StorageFailed the chain must not be used any more."""
        self._files.fdatasync(self._fd)

    def close(self) -> None:
        """Gives the chain back."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                self._files.close(fd)
        self._fd = self._lock_fd = -1

    def end(self) -> None:
        """Ends the chain for good: nobody knows what the disk has of it. Its last records may be missing one day."""
        self._files.close(self._fd)
        self._fd = -1
        try:
            self._files.close(self._files.create(str(self._folder / ENDED)))
        except (StorageError, OSError):
            return  # this process keeps the lock, so that only a later one could take it
        self.close()

    def _keep_room(self) -> None:
        if self._room_end - self._length >= ROOM_BYTES // 2:
            return
        try:
            self._files.keep_room(self._fd, self._length, ROOM_BYTES)
        except StorageError:
            return  # what was reserved before is still there; the next record tries again
        self._room_end = self._length + ROOM_BYTES

    def _take_back(self) -> None:
        """Cuts off what a failed write has left."""
        try:
            self._files.truncate(self._fd, self._length)
            self._room_end = self._length
        except StorageError as error:
            raise StorageFailed(f"the audit log cannot be continued: {error}") from error

    def _begin_file(self) -> None:
        path = self._folder / f"{self._head.number + 1:012}{SUFFIX}"
        if self._fd >= 0:
            self.sync()
            self._files.close(self._fd)
            self._fd = -1
        try:
            self._fd = self._files.open(str(path), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        self._files.sync_directory(str(self._folder))
        self._length, self._opened_s = self._files.size(self._fd), time.monotonic()
        self._room_end = self._length

    # -- taking a chain -----------------------------------------------------------------------------

    def _take(self, data: Path) -> tuple[int, Path, Head]:
        for index in range(CHAINS_MAX):
            folder = folder_of(data) / CHAINS / f"{index:03}"
            make_private(folder, self._files)
            fd = self._open_lock(folder / "lock")
            try:
                if not self._files.exists(str(folder / ENDED)) and self._files.lock(fd):
                    head = self._continue(data, folder)
                    if head is not None:
                        return fd, folder, head
                    logger.error("the end of an audit chain is damaged: it is left as it is", chain=folder.name)
            except BaseException:
                self._leave()
                self._files.close(fd)
                raise
            self._files.close(fd)
        raise StorageFailed("the audit log has too many chains")

    def _open_lock(self, path: Path) -> int:
        try:
            return self._files.open(str(path), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise_write_error(error, f"open {path}")

    def _continue(self, data: Path, folder: Path) -> Head | None:
        """Opens the last file behind its last whole record; None if the end of the chain is damaged."""
        try:
            paths = chain_files(data, folder.name)
            head = read_head(data, folder.name)
            if head is None or not paths:
                return head
            self._fd = self._files.open(str(paths[-1]), os.O_RDWR)
            length = self._files.size(self._fd)
            tail = self._files.pread(self._fd, TAIL_BYTES, max(0, length - TAIL_BYTES))
        except OSError as error:
            raise_write_error(error, f"continue {folder}")
        self.cut_bytes = len(tail) - (tail.rfind(b"\n") + 1)
        if b"\n" not in tail and length > TAIL_BYTES:
            self._leave()
            return None
        if self.cut_bytes:
            self._files.truncate(self._fd, length - self.cut_bytes)
        self._room_end = self._length = length - self.cut_bytes
        lines = tail[: len(tail) - self.cut_bytes].split(b"\n")[:-1]
        if not _follow(lines[-2:]) or (not lines and first_number(paths[-1]) != head.number + 1):
            self._leave()
            return None
        self._opened_s = time.monotonic() - max(0.0, time.time() - _time_of_first(paths[-1]))
        return head

    def _leave(self) -> None:
        if self._fd >= 0:
            self._files.close(self._fd)
        self._fd = -1


def _follow(lines: Iterable[bytes]) -> bool:
    """Whether lines are records, each of which follows the one before."""
    before: Head | None = None
    for line in lines:
        head = parse_head(line)
        if head is None:
            return False
        record = line[HASH_BYTES + 1 :]
        if before is not None and (head.number != before.number + 1 or head.hash != next_hash(before.hash, record)):
            return False
        before = head
    return True


def _time_of_first(path: Path) -> float:
    """When the first record of a file was made, in seconds since 1970; now, if it cannot be read."""
    try:
        with path.open("rb") as file:
            record = orjson.loads(file.readline(TAIL_BYTES)[HASH_BYTES + 1 :])
        return datetime.fromisoformat(record["t"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return time.time()


def make_private(folder: Path, files: Files) -> None:
    """Makes a folder that only its owner may read."""
    if files.exists(str(folder)):
        return
    files.make_directory(str(folder))
    try:
        os.chmod(folder, 0o700)
    except OSError as error:
        raise_write_error(error, f"chmod {folder}")
    files.sync_directory(str(folder.parent))
