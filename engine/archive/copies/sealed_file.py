"""A file that only grows, copied in encrypted pieces: of the audit log, to backups and replicas of encrypted archives.

    NAME.sealed      pieces, one behind the other, each of what the file had more than its copy

    offset  bytes  field
    0       8      key_id      of the data key
    8       16     salt        random, of this piece only
    24      8      at          where its bytes begin in the file, u64
    32      4      length      of its bytes, u32
    36      L      ciphertext  AES-256-GCM, key HKDF(data key, "filmroom audit copy", archive, salt), nonce zero;
                               authenticated with it: the file's name in the log, and these 36 bytes
    36 + L  16     tag

A salt is used once, so the nonce may be zero. A piece that is not whole is of a backup that was killed: it is cut off.
Whoever has the key and the file can make a piece again from its head, and so compare a copy that is elsewhere.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.archive.copies import growing_copy
from engine.errors import BackupError
from engine.storage.keyring import KEY_ID_BYTES, KEYRING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.storage.files import Files
    from engine.storage.keyring import DataKey

SUFFIX: Final = ".sealed"
PIECE_BYTES: Final = 1 << 20
SALT_BYTES: Final = 16
_HEAD: Final = struct.Struct(f"<{KEY_ID_BYTES}s{SALT_BYTES}sQI")
HEAD_BYTES: Final = _HEAD.size
_TAG_BYTES: Final = 16
_NONCE: Final = bytes(12)
_PURPOSE: Final = b"filmroom audit copy"


class Piece(NamedTuple):
    """A piece, by its header."""

    offset: int
    """In the copy."""
    head: bytes
    key_id: bytes
    salt: bytes
    at: int
    length: int

    @property
    def end(self) -> int:
        """Where the next piece begins."""
        return self.offset + _HEAD.size + self.length + _TAG_BYTES

    @property
    def content_end(self) -> int:
        """Where its bytes end in the file."""
        return self.at + self.length

    @classmethod
    def parse(cls, head: bytes, offset: int = 0) -> Piece:
        """A piece by its HEAD_BYTES."""
        key_id, salt, at, length = _HEAD.unpack(head)
        return cls(offset, head, key_id, salt, at, length)


def seal(source: Path, target: Path, name: str, key: DataKey, files: Files) -> int:
    """Brings a copy up to its file; returns the bytes that were added.

    A copy of another file is renamed, and stays beside the new one: it is evidence. Raises StorageFull, StorageFailed,
    OSError.
    """
    source_fd = files.open(str(source), os.O_RDONLY)
    try:
        end = files.size(source_fd)
        fd = growing_copy.open_copy(target, files)
        try:
            copied = list(pieces(fd, files))
            if not _continues(source_fd, fd, name, copied, files):
                fd, copied = growing_copy.begin_anew(fd, target, files), []
            offset, start = (copied[-1].end, copied[-1].content_end) if copied else (0, 0)
            if files.size(fd) > offset:
                files.truncate(fd, offset)
            for at in range(start, end, PIECE_BYTES):
                data = files.pread(source_fd, min(PIECE_BYTES, end - at), at)
                piece = sealed(data, at, name, key)
                files.pwritev(fd, [piece], offset)
                offset += len(piece)
            if end > start:
                files.fdatasync(fd)
        finally:
            files.close(fd)
    finally:
        files.close(source_fd)
    files.sync_directory(str(target.parent))
    return max(0, end - start)


def unseal(source: Path, name: str, files: Files) -> Iterator[bytes]:
    """The bytes of the file, piece by piece. Raises BackupError for a damaged copy, KeyMissing, OSError."""
    fd = files.open(str(source), os.O_RDONLY)
    try:
        expected_at = 0
        for piece in pieces(fd, files):
            if piece.at != expected_at:
                raise BackupError(f"{source} is damaged: a piece is missing")
            try:
                data = _opened(fd, piece, name, files)
            except InvalidTag as error:
                raise BackupError(f"{source} is damaged or was changed") from error
            expected_at += len(data)
            yield data
    finally:
        files.close(fd)


def pieces(fd: int, files: Files) -> Iterator[Piece]:
    """The whole pieces of a copy, in order."""
    size, offset = files.size(fd), 0
    while offset + _HEAD.size <= size:
        head = files.pread(fd, _HEAD.size, offset)
        piece = Piece.parse(head, offset)
        if piece.length > PIECE_BYTES or piece.end > size:
            return
        yield piece
        offset = piece.end


def _continues(source_fd: int, fd: int, name: str, copied: list[Piece], files: Files) -> bool:
    """Whether the copy is a beginning of the file, by its last piece."""
    if not copied:
        return True
    last = copied[-1]
    try:
        return _opened(fd, last, name, files) == files.pread(source_fd, last.length, last.at)
    except InvalidTag:
        return False


def sealed(data: bytes, at: int, name: str, key: DataKey, salt: bytes = b"") -> bytes:
    """A piece. `salt`: only to make again one that exists, of the same bytes."""
    salt = salt or os.urandom(SALT_BYTES)
    head = _HEAD.pack(key.key_id, salt, at, len(data))
    return head + AESGCM(key.derive(_PURPOSE, salt)).encrypt(_NONCE, data, name.encode() + head)


def _opened(fd: int, piece: Piece, name: str, files: Files) -> bytes:
    """Raises InvalidTag, KeyMissing."""
    stored = files.pread(fd, piece.length + _TAG_BYTES, piece.offset + _HEAD.size)
    key = KEYRING.get(piece.key_id)
    return AESGCM(key.derive(_PURPOSE, piece.salt)).decrypt(_NONCE, stored, name.encode() + piece.head)
