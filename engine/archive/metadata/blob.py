"""The metadata of one series as one file: all its instances as DICOM JSON, compressed together, ready to be sent.

Together they take a thirteenth of their size when compressed one by one. The text is the instances' objects with commas
between, without the brackets of an array, so a study's series can be joined without inflating them (`gzip_pieces`).

    0        8        12                     …
    +--------+--------+--------+-- … --------+-- … --+-- … -------+-- … ---+-- … --+
    | magic  | crc32c | HEAD                 | key   | identities | window | piece |
    +--------+--------+--------+-- … --------+-- … --+-- … -------+-- … ---+-- … --+

Little endian; the checksum covers everything after it. HEAD: instances u32, of them unreadable u32, crc32 of the text
u32, its length u64, corrections 16 bytes, state 16 bytes, lengths of key, identities, window and piece u32. Key: names
the series, to detect colliding digests. Identities: as in `SeriesRevision`. State: a digest of identities and
corrections, to check by the head alone. Window: the end of the text, compressed.

Derived and disposable: a damaged file counts as missing.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from engine.archive.metadata.gzip_pieces import EMPTY, Piece
from engine.storage.record import crc32c

MAGIC: Final = b"FRmeta\0\1"
"""The last byte is the version of the format and of the output of `dicom.json_model`."""

_CHECK: Final = struct.Struct("<8sI")
_HEAD: Final = struct.Struct("<IIIQ16s16sIIII")
_CORRECTIONS_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Blob:
    """The metadata of a series."""

    key: bytes
    identities: bytes = b""
    """The identities of the instances in the text and of the unreadable ones, in ascending order."""
    corrections: bytes = b""
    """As in `SeriesRevision`."""
    count: int = 0
    """Number of instances in the text."""
    unreadable: int = 0
    """Number of stored instances whose data sets cannot be read."""
    piece: Piece = EMPTY


def encode(blob: Blob) -> bytes:
    """The content of a blob's file."""
    window = zlib.compress(blob.piece.window, 1)
    parts = (blob.key, blob.identities, window, blob.piece.data)
    head = _HEAD.pack(
        blob.count,
        blob.unreadable,
        blob.piece.crc,
        blob.piece.length,
        blob.corrections.ljust(_CORRECTIONS_BYTES, b"\0"),
        state_of(blob.identities, blob.corrections),
        *map(len, parts),
    )
    content = b"".join((head, *parts))
    return _CHECK.pack(MAGIC, crc32c(content)) + content


def decode(data: bytes, key: bytes) -> Blob | None:
    """The blob of a file; None if the file is damaged, of another version, or has another key."""
    if len(data) < _CHECK.size + _HEAD.size:
        return None
    magic, check = _CHECK.unpack_from(data)
    content = memoryview(data)[_CHECK.size :]
    if magic != MAGIC or crc32c(content) != check:
        return None
    count, unreadable, crc, length, corrections, _, *lengths = _HEAD.unpack_from(content)
    at = _HEAD.size
    parts = []
    for part_length in lengths:
        parts.append(bytes(content[at : at + part_length]))
        at += part_length
    own_key, identities, window, piece = parts
    if own_key != key:
        return None
    corrections = corrections if any(corrections) else b""
    return Blob(key, identities, corrections, count, unreadable, Piece(piece, length, crc, zlib.decompress(window)))


def head_of(data: bytes) -> tuple[bytes, bytes]:
    """Key and state from the first bytes of a file, unchecked; b"" if they are not there."""
    start = _CHECK.size + _HEAD.size
    if len(data) < start or not data.startswith(MAGIC):
        return b"", b""
    fields = _HEAD.unpack_from(data, _CHECK.size)
    key = data[start : start + fields[6]]
    return (key, fields[5]) if len(key) == fields[6] else (b"", b"")


def state_of(identities: bytes, corrections: bytes) -> bytes:
    """A digest of a revision, in 16 bytes."""
    return blake2b(identities + corrections.ljust(_CORRECTIONS_BYTES, b"\0"), digest_size=16).digest()
