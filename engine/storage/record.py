"""One record of a segment: what `segment_log` appends and `storage.segment` walks over. The door to _ext.crc32c.

Pure functions: bytes in, bytes out. Key, meta and payload are opaque.

    offset  bytes  field            little endian
    0       4      magic            "FRec"
    4       1      format           1, or 2: encrypted
    5       1      kind             Kind
    6       2      flags            for the index
    8       2      key_length       K
    10      2      meta_unused      bytes at the end of the meta area that are not meta (streamed records)
    12      4      meta_length      M, the area; the meta itself is M - meta_unused
    16      8      payload_length   P
    24      8      stamp            orders the records of one key; opaque here
    32      8      sequence         running number in its segment, from 0
    40      8      offset           of this record in its segment
    48      8      synced_bytes     bytes of the segment on stable storage when this was written
    56      4      payload_crc      crc32c of the payload
    60      4      head_crc         crc32c of header, key and meta area, this field zero, from the segment's seed on
    64      K      key
    64+K    M      meta
    64+K+M  P      payload
            0-7    zeros, so that every record begins at a multiple of 8

Header, key and meta together are the record's *head*. The seed comes from a random number in the segment's header,
and the head names its own place, so no bytes inside a payload pass for a record: not those of another segment, not
those of this one at another place, not those that a peer made up. `synced_bytes` tells a hole that a power cut left in
unacknowledged writes (offset >= every later mark) from damage to bytes that were safe once. A correct head says nothing
about the payload: after a crash only payload_crc does.

Format 2 is the same header before an encrypted meta area and an encrypted payload (`storage.encryption` draws both).
There payload_length is the length of the plaintext, and payload_crc is that of the bytes on the disk, so that a walk, a
scrub or a backup needs no key. `decode_head` returns a record as it lies there; `encryption.opened` decrypts it, and
only then are `meta` and `payload_crc` those of format 1.

These numbers are on customers' disks: a change is a new format number beside these.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from engine._ext.crc32c import crc32c
from engine.errors import CorruptRecord

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "ALIGNMENT",
    "BLOCK_BYTES",
    "ENCRYPTED",
    "ENCRYPTED_FORMAT",
    "ENCRYPTED_META_MORE",
    "FORMAT",
    "HEADER_BYTES",
    "HEADER_FIELDS",
    "KEY_BYTES_MAX",
    "MAGIC",
    "META_BYTES_MAX",
    "SHREDDED",
    "TAG_BYTES",
    "Kind",
    "Position",
    "Record",
    "add_checksum",
    "crc32c",
    "decode_head",
    "encode_head",
    "encrypted_header",
    "head_length",
    "padded",
    "record_bytes_of",
    "stored_length",
    "unpack_head",
]

# These constants are part of the format.
MAGIC = b"FRec"
FORMAT = 1
ENCRYPTED_FORMAT = 2
BLOCK_BYTES = 64 << 10
"""Plaintext bytes of one block of an encrypted payload; each is followed by its tag."""
TAG_BYTES = 16
ENCRYPTED_META_MORE = 44
"""Bytes by which an encrypted meta area is longer: id of the key, salt, checksum of the payload, tag."""
HEADER_BYTES = 64
ALIGNMENT = 8
KEY_BYTES_MAX = 0xFFFF
META_BYTES_MAX = 1 << 20
"""Bounds what a reader fetches because of a damaged length; the metadata of one instance is some kilobytes."""

ENCRYPTED = 1 << 31
"""This bit of `Position.meta_length` is set for a record of format 2. Rows of the index keep it with that length."""
_LENGTH = ENCRYPTED - 1

HEADER_FIELDS = (
    ("magic", "4s"),
    ("format", "B"),
    ("kind", "B"),
    ("flags", "H"),
    ("key_length", "H"),
    ("meta_unused", "H"),
    ("meta_length", "I"),
    ("payload_length", "Q"),
    ("stamp", "Q"),
    ("sequence", "Q"),
    ("offset", "Q"),
    ("synced_bytes", "Q"),
    ("payload_crc", "I"),
    ("head_crc", "I"),
)
"""Name and struct code of each field, for the codec below and for tools that explain bytes."""

_HEADER = struct.Struct("<" + "".join(code for _, code in HEADER_FIELDS))
_HEAD_CRC = struct.Struct("<I")
_HEAD_CRC_OFFSET = HEADER_BYTES - 4


class Kind(IntEnum):
    """The kind of a record. 0 is none, so zeros are never a record."""

    INSTANCE = 1
    """The payload is the key's data set."""
    TOMBSTONE = 2
    """A deletion: of the instances in the meta block; the key is the UID of the study, series or instance."""
    HOLD = 3
    """A legal hold on the key's study, or its release."""
    QUARANTINED = 4
    """The payload was sent as the key's data set and could not be stored as an instance."""
    CORRECTION = 5
    """Changed attributes of the key's patient, study or series, which replace those of its instances."""
    TRASH = 6
    """Puts instances into the trash, restores them, or empties it; the key is the UID of the study or series."""
    EVENT = 7
    """A message of another system, or what it did; only in the journal (`journal.history`)."""
    STATE = 8
    """Changed rows of the registry of patients and orders; only in the log of `orders.state_log`."""


SHREDDED = 0xFF
"""In place of the kind of a record whose study's key was destroyed: nobody can read it, so it counts as deleted. Only
in memory, never on the disk. Of such a record only key, stamp and position are known."""


class Position(NamedTuple):
    """The place of a record, and enough to read and check its payload without its header."""

    segment_id: int
    offset: int
    key_length: int
    meta_length: int
    """The length of the meta area, and ENCRYPTED."""
    payload_length: int
    """The length of the payload without encryption."""
    payload_crc: int
    """crc32c of the payload without encryption."""

    @property
    def is_encrypted(self) -> bool:
        """Whether the record has format 2."""
        return self.meta_length >= ENCRYPTED

    @property
    def head_bytes(self) -> int:
        """The length of header, key and meta area."""
        return HEADER_BYTES + self.key_length + (self.meta_length & _LENGTH)

    @property
    def payload_offset(self) -> int:
        """The offset of the payload in the segment file."""
        return self.offset + HEADER_BYTES + self.key_length + (self.meta_length & _LENGTH)

    @property
    def stored_length(self) -> int:
        """The length of the payload on the disk."""
        return stored_length(self.payload_length) if self.meta_length >= ENCRYPTED else self.payload_length

    @property
    def record_bytes(self) -> int:
        """The length of the record in its segment, with padding."""
        return record_bytes_of(self.key_length, self.meta_length, self.payload_length)

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self.offset + self.record_bytes


class Record(NamedTuple):
    """One record without its payload. A tuple, because a rebuild makes millions."""

    position: Position
    kind: int
    """A Kind, or a number of a later version."""
    flags: int
    stamp: int
    sequence: int
    synced_bytes: int
    key: bytes
    meta: bytes


def padded(length: int) -> int:
    """`length` rounded up to the alignment of records."""
    return (length + 7) & ~7


def stored_length(payload_length: int) -> int:
    """The length of an encrypted payload on the disk."""
    return payload_length + TAG_BYTES * -(-payload_length // BLOCK_BYTES)


def record_bytes_of(key_length: int, meta_length: int, payload_length: int) -> int:
    """The length of a record with padding, from the three lengths of its position."""
    if meta_length >= ENCRYPTED:
        meta_length &= _LENGTH
        payload_length = stored_length(payload_length)
    return (HEADER_BYTES + key_length + meta_length + payload_length + 7) & ~7


def encode_head(
    seed: int,
    offset: int,
    kind: int,
    flags: int,
    stamp: int,
    sequence: int,
    synced_bytes: int,
    key: Buffer,
    meta: Buffer,
    payload_length: int,
    payload_crc: int,
    meta_unused: int = 0,
) -> bytearray:
    """Header, key and meta of a record at `offset`. `meta` is the whole area, its unused end included."""
    key = bytes(key)
    meta = bytes(meta)
    fields = (kind, flags, len(key), meta_unused, len(meta), payload_length, stamp, sequence, offset, synced_bytes)
    head = bytearray(_HEADER.pack(MAGIC, FORMAT, *fields, payload_crc, 0))
    head += key
    head += meta
    _HEAD_CRC.pack_into(head, _HEAD_CRC_OFFSET, crc32c(head, seed))
    return head


def encrypted_header(
    offset: int,
    kind: int,
    flags: int,
    stamp: int,
    sequence: int,
    synced_bytes: int,
    key_length: int,
    area_length: int,
    payload_length: int,
    stored_crc: int,
    meta_unused: int,
) -> bytearray:
    """The header of a record of format 2 without its checksum, for `storage.encryption`, which adds `head_checksum`."""
    fields = (kind, flags, key_length, meta_unused, area_length, payload_length, stamp, sequence, offset, synced_bytes)
    return bytearray(_HEADER.pack(MAGIC, ENCRYPTED_FORMAT, *fields, stored_crc, 0))


def add_checksum(head: bytearray, seed: int) -> None:
    """Writes head_crc into a whole head whose head_crc is zero."""
    _HEAD_CRC.pack_into(head, _HEAD_CRC_OFFSET, crc32c(head, seed))


def head_length(header: bytes, segment_id: int, offset: int) -> int:
    """The length of the head that begins with these 64 bytes.

    Raises CorruptRecord if they cannot be the header of a record at `offset`. Do not trust the length before
    `decode_head`.
    """
    if len(header) < HEADER_BYTES:
        raise CorruptRecord("the file ends inside a record header", segment_id, offset)
    fields = _HEADER.unpack_from(header)
    if fields[0] != MAGIC or fields[1] not in (FORMAT, ENCRYPTED_FORMAT):
        raise CorruptRecord("no record header", segment_id, offset)
    key_length, meta_unused, meta_length, own_offset = fields[4], fields[5], fields[6], fields[10]
    meta_max = META_BYTES_MAX if fields[1] == FORMAT else META_BYTES_MAX + ENCRYPTED_META_MORE
    if own_offset != offset or meta_length > meta_max or meta_unused > meta_length:
        raise CorruptRecord("impossible numbers in a record header", segment_id, offset)
    return HEADER_BYTES + int(key_length) + int(meta_length)


def decode_head(head: bytes, seed: int, segment_id: int, offset: int) -> Record:
    """The record whose head begins `head`, as it lies there. Raises CorruptRecord unless its checksum is right."""
    length = head_length(head, segment_id, offset)
    if len(head) < length:
        raise CorruptRecord("the file ends inside a record's key or meta", segment_id, offset)
    expected = _HEAD_CRC.unpack_from(head, _HEAD_CRC_OFFSET)[0]
    computed = crc32c(b"".join((head[:_HEAD_CRC_OFFSET], b"\0\0\0\0", head[HEADER_BYTES:length])), seed)
    if computed != expected:
        raise CorruptRecord(f"record head: checksum {computed:08x}, expected {expected:08x}", segment_id, offset)
    return unpack_head(head, 0, segment_id)


def unpack_head(data: bytes, at: int, segment_id: int) -> Record:
    """The record whose head lies at `at` in checked bytes: the hints of a sealed segment."""
    (_, record_format, kind, flags, key_length, meta_unused, meta_length, payload_length,
     stamp, sequence, offset, synced_bytes, payload_crc, _) = _HEADER.unpack_from(data, at)  # fmt: skip
    key_at = at + HEADER_BYTES
    meta_at = key_at + key_length
    area_length = meta_length | ENCRYPTED if record_format == ENCRYPTED_FORMAT else meta_length
    return Record(
        Position(segment_id, offset, key_length, area_length, payload_length, payload_crc),
        kind,
        flags,
        stamp,
        sequence,
        synced_bytes,
        data[key_at:meta_at],
        data[meta_at : meta_at + meta_length - meta_unused],
    )
