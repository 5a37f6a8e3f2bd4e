"""The source's end of what `shipped_audit` describes: brings the audit logs in a replica up to those here.

The logs are looked at checkpoints first, and shipped chains first: at any moment, the replica has all that a checkpoint
there has signed. Only whole lines are shipped, once they are durable here. They are sealed if the archive encrypts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from engine import log
from engine.archive.copies import sealed_file
from engine.archive.copies.shipped_audit import (
    JOIN_BYTES,
    KEY_BYTES_MAX,
    NO_LINEAGE,
    PIECE_BYTES,
    AuditDestination,
    AuditFile,
    HeldFile,
    Kind,
    Piece,
    files_of,
)
from engine.archive.unlocking import let_go, unlock
from engine.audit.logs import source_roots
from engine.errors import KeyMissing
from engine.storage.keyring import KEYRING
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.archive.layout import Layout
    from engine.rate_limiter import RateLimiter
    from engine.storage.files import Files
    from engine.storage.keyring import DataKey

logger = log.get("archive.replication")

COMMIT_BYTES: Final = 16 << 20

_Stamp = tuple[int, int, int]


class _Look(NamedTuple):
    """A file here, and how it was when it was looked at."""

    file: AuditFile
    path: Path
    stamp: _Stamp
    size: int


class AuditShipping:
    """What one destination has of the audit logs. For one thread."""

    def __init__(self, files: Files, rate_limiter: RateLimiter) -> None:
        self._files = files
        self._rate_limiter = rate_limiter
        self._held: dict[AuditFile, HeldFile] = {}
        self._joined: set[AuditFile] = set()
        """Files whose ends have been compared since the destination was opened."""
        self._shipped: dict[AuditFile, _Stamp] = {}
        """Files of which nothing is missing there while they are like this."""
        self._data_key: Callable[[], DataKey] | None = None
        self._is_unlocked = False

    def begin(self, destination: AuditDestination) -> None:
        """Begins anew, for a destination that was opened. Raises ReplicationFailed, OSError."""
        self._held = destination.held()
        self._joined.clear()
        self._shipped.clear()

    def key(self, layout: Layout) -> DataKey | None:
        """What the logs are sealed with; None: they are not. Raises KeyStoreError. The destination needs its wrapping
        before what is sealed."""
        if not layout.is_encrypted:
            return None
        if not self._is_unlocked:
            unlocked = unlock(layout, self._files)
            let_go(unlocked)
            self._data_key, self._is_unlocked = unlocked.data_key, True
        return self._data_key() if self._data_key is not None else None

    def ship(self, layout: Layout, destination: AuditDestination, key: DataKey | None) -> int:
        """Ships what is missing; returns the bytes. Raises what the destination does, and OSError."""
        looks = [look for look in self._looks(layout) if self._shipped.get(look.file) != look.stamp]
        done: list[_Look] = []
        shipped = committed = 0
        for look in sorted(looks, key=lambda look: look.file.kind == Kind.CHECKPOINTS):
            try:
                for piece in self._pieces(look, key):
                    destination.write(piece)
                    shipped += len(piece.data)
                    self._rate_limiter.spent(len(piece.data))
            except FileNotFoundError:
                continue  # it was removed because of its age
            done.append(look)
            if shipped - committed >= COMMIT_BYTES:
                destination.commit()
                committed = shipped
        if shipped > committed:
            destination.commit()
        self._shipped |= {look.file: look.stamp for look in done}
        return shipped

    def _looks(self, layout: Layout) -> Iterator[_Look]:
        logs = {layout.lineage or NO_LINEAGE: layout.data, **source_roots(layout.data)}
        for lineage, root in logs.items():
            for file in files_of(root, lineage):
                path = file.path_below(root)
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue
                yield _Look(file, path, (status.st_ino, status.st_mtime_ns, status.st_size), status.st_size)

    def _pieces(self, look: _Look, key: DataKey | None) -> Iterator[Piece]:
        """What the destination lacks of a file."""
        file = look.file
        fd = self._files.open(str(look.path), os.O_RDONLY)
        try:
            self._files.fdatasync(fd)
            if file.kind == Kind.VERIFY_KEY:
                yield from self._key_file(fd, file)
                return
            held = self._held.get(file)
            continues = held is None or self._continues(fd, look, held, key)
            if held is not None and held.is_sealed == (key is not None) and not continues:
                logger.error("the audit log is another one than in the replica, which keeps both", file=file.name)
            at, is_new = (held.end, False) if held is not None and continues else (0, not continues)
            while lines := self._lines(fd, at, look.size):
                data = lines if key is None else sealed_file.sealed(lines, at, file.name, key)
                yield Piece(file, key is not None, is_new, at, data)
                at, is_new = at + len(lines), False
                self._held[file] = HeldFile(key is not None, at, b"", 0)
                self._joined.add(file)
        finally:
            self._files.close(fd)

    def _key_file(self, fd: int, file: AuditFile) -> Iterator[Piece]:
        content = self._files.pread(fd, KEY_BYTES_MAX, 0)
        now = HeldFile(False, len(content), b"", crc32c(content))
        if content and now != self._held.get(file):
            yield Piece(file, False, False, 0, content)
            self._held[file] = now

    def _lines(self, fd: int, at: int, end: int) -> bytes:
        """Whole lines of a file from a place on."""
        length = min(self._rate_limiter.piece(PIECE_BYTES), end - at)
        data = self._files.pread(fd, length, at) if length > 0 else b""
        if b"\n" not in data and length > 0:
            data = self._files.pread(fd, min(PIECE_BYTES, end - at), at)
        return data[: data.rfind(b"\n") + 1]

    def _continues(self, fd: int, look: _Look, held: HeldFile, key: DataKey | None) -> bool:
        """Whether the copy is a beginning of the file."""
        if held.is_sealed != (key is not None) or held.end > look.size:
            return False
        if look.file in self._joined or not held.end:
            return True
        if not held.is_sealed:
            at = max(0, held.end - JOIN_BYTES)
            return crc32c(self._files.pread(fd, held.end - at, at)) == held.crc
        piece = sealed_file.Piece.parse(held.head)
        if piece.content_end != held.end or piece.length > sealed_file.PIECE_BYTES:
            return False
        try:
            own = KEYRING.get(piece.key_id)
        except KeyMissing:
            return False
        data = self._files.pread(fd, piece.length, piece.at)
        again = sealed_file.sealed(data, piece.at, look.file.name, own, piece.salt)
        return crc32c(again[len(piece.head) :]) == held.crc
