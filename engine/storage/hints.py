"""The footer of a sealed segment: a copy of the heads of all its records, so that a rebuild reads no pixels.

    tail        +16                                  hint_end                    end of file
    +-----------+--------------------------+---------+---------------------------+
    | "FILMHINT"| record heads, one after  | damage  | trailer (128 bytes)       |    little endian
    | + 8 zeros | another, as in records,  | entries |                           |
    |           | encrypted ones too       |         |                           |
    +-----------+--------------------------+---------+---------------------------+

    damage entry: offset u64, length u64, flags u32 (1: was synced), text length u32, text (UTF-8)

    trailer  offset  bytes  field
             0       8      magic          "FILMSEAL"
             8       4      format         1
             12      4      layout         as in the segment header
             16      8      segment_id     as in the segment header, like the next two fields: a segment can be
                 24      16     archive_id     read with them if its header block is lost
             40      8      salt
             48      8      tail           start of the footer
                 56      8      hint_end       start of the trailer
             64      8      record_count
             72      8      payload_bytes  sum over the records
             80      4      damage_count
             84      4      hint_crc       crc32c of everything from tail to hint_end
             88      36     zeros
             124     4      crc32c         of the 124 bytes before

A segment is sealed if its file ends exactly with a valid trailer. The trailer is written only after all records are on
stable storage, so a sealed segment needs no recovery. The damage entries record what a recovery has found.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from engine.errors import CorruptRecord
from engine.storage.encryption import opened_heads
from engine.storage.files import Files
from engine.storage.record import Record, crc32c, unpack_head
from engine.storage.segment import FOOTER_MAGIC, Damage, SegmentHeader, read_segment_header
from engine.storage.segment_bytes import SegmentBytes

# These constants are part of the format.
TRAILER_MAGIC = b"FILMSEAL"
HINTS_FORMAT = 1
TRAILER_BYTES = 128
FOOTER_HEAD = FOOTER_MAGIC + bytes(8)
FOOTER_BYTES_MIN = len(FOOTER_HEAD) + TRAILER_BYTES
"""The length of the footer without the heads."""

TRAILER_FIELDS = (
    ("magic", "8s"),
    ("format", "I"),
    ("layout", "I"),
    ("segment_id", "Q"),
    ("archive_id", "16s"),
    ("salt", "Q"),
    ("tail", "Q"),
    ("hint_end", "Q"),
    ("record_count", "Q"),
    ("payload_bytes", "Q"),
    ("damage_count", "I"),
    ("hint_crc", "I"),
)
"""Name and struct code of each field before the zeros and the checksum."""

PIECE_BYTES = 1 << 20
"""Bytes of the footer that are written at once."""

_TRAILER = struct.Struct("<" + "".join(code for _, code in TRAILER_FIELDS) + "36x")
_DAMAGE = struct.Struct("<QQII")


@dataclass(frozen=True, slots=True)
class Trailer:
    """The end of a sealed segment."""

    segment_id: int
    archive_id: bytes
    salt: int
    layout: int
    tail: int
    hint_end: int
    record_count: int
    payload_bytes: int
    damage_count: int
    hint_crc: int

    def header(self) -> SegmentHeader:
        """The segment's header with the fields that the trailer has."""
        return SegmentHeader(self.segment_id, self.archive_id, self.salt, 0, "", self.layout)


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of a footer."""

    trailer: Trailer
    records: list[Record]
    damage: list[Damage]


def seal(
    files: Files,
    fd: int,
    header: SegmentHeader,
    tail: int,
    heads: Sequence[bytes | bytearray],
    payload_bytes: int,
    damage: Sequence[Damage] = (),
) -> int:
    """Writes the footer at `tail`, ends the file after it, makes it durable; returns the file's size.

    The records must be on stable storage already.
    """
    at, hint_crc, last = tail, 0, b""
    for piece in _pieces(heads, damage):
        if last:
            files.pwritev(fd, [last], at)
        at, last, hint_crc = at + len(last), piece, crc32c(piece, hint_crc)
    if at > tail:
        files.fdatasync(fd)  # after a power cut no trailer may be there without these pieces
    hint_end = at + len(last)
    fields = _TRAILER.pack(
        TRAILER_MAGIC,
        HINTS_FORMAT,
        header.layout,
        header.segment_id,
        header.archive_id,
        header.salt,
        tail,
        hint_end,
        len(heads),
        payload_bytes,
        len(damage),
        hint_crc,
    )
    files.pwritev(fd, [last, fields, struct.pack("<I", crc32c(fields))], at)
    files.truncate(fd, hint_end + TRAILER_BYTES)
    files.fdatasync(fd)
    return hint_end + TRAILER_BYTES


def _pieces(heads: Sequence[bytes | bytearray], damage: Sequence[Damage]) -> Iterator[bytes]:
    """The footer before its trailer, joined to pieces: the heads of small instances have as many bytes as a segment."""
    parts: list[bytes | bytearray] = [FOOTER_HEAD]
    length = len(FOOTER_HEAD)
    for part in chain(heads, map(_encode_damage, damage)):
        if length >= PIECE_BYTES:
            yield b"".join(parts)
            parts, length = [], 0
        parts.append(part)
        length += len(part)
    yield b"".join(parts)


def _encode_damage(damage: Damage) -> bytes:
    reason = damage.reason.encode("utf-8")[:1024]
    return _DAMAGE.pack(damage.offset, damage.length_bytes, int(damage.was_synced), len(reason)) + reason


def read_trailer(data: SegmentBytes, segment_id: int) -> Trailer | None:
    """The trailer of an open segment; None if it is not sealed. Raises CorruptRecord if it cannot be read."""
    size = data.size()
    if size < TRAILER_BYTES:
        return None
    try:
        block = data.read(TRAILER_BYTES, size - TRAILER_BYTES)
    except OSError as error:
        raise CorruptRecord(f"the trailer cannot be read: {error.strerror}", segment_id, size) from error
    if len(block) < TRAILER_BYTES or not block.startswith(TRAILER_MAGIC):
        return None
    (_, format_, layout, own_id, archive_id, salt, tail, hint_end,
     record_count, payload_bytes, damage_count, hint_crc) = _TRAILER.unpack_from(block)  # fmt: skip
    if int.from_bytes(block[-4:], "little") != crc32c(block[:-4]) or format_ != HINTS_FORMAT:
        return None
    if own_id != segment_id or hint_end + TRAILER_BYTES != size or not 0 <= tail <= hint_end:
        return None
    return Trailer(
        segment_id, archive_id, salt, layout, tail, hint_end, record_count, payload_bytes, damage_count, hint_crc
    )


@dataclass(frozen=True, slots=True)
class Heads:
    """The record heads of a sealed segment as they lie in its footer, checked, one after another."""

    trailer: Trailer
    data: bytes
    start: int = len(FOOTER_HEAD)
    """Start of the first one in `data`; the last one ends at the damage entries."""


def read_heads(data: SegmentBytes, segment_id: int, *, opens: bool = True) -> Heads | None:
    """The heads in the footer, for bulk readers; None when the segment is not sealed.

    `opens`: encrypted heads are decrypted, which raises KeyMissing if their key is missing; else as they lie there.
    Raises CorruptRecord when it is sealed and the footer is damaged: walk over the segment instead.
    """
    trailer = read_trailer(data, segment_id)
    if trailer is None:
        return None
    tail = trailer.tail
    try:
        hints = data.read(trailer.hint_end - tail, tail)
    except OSError as error:
        raise CorruptRecord(f"the footer cannot be read: {error.strerror}", segment_id, tail) from error
    computed = crc32c(hints)
    if computed != trailer.hint_crc or not hints.startswith(FOOTER_HEAD):
        raise CorruptRecord(f"footer: checksum {computed:08x}, expected {trailer.hint_crc:08x}", segment_id, tail)
    if opens:
        hints = opened_heads(hints, len(FOOTER_HEAD), trailer.record_count, segment_id)
    return Heads(trailer, hints)


def read_header_or_trailer(data: SegmentBytes, segment_id: int) -> SegmentHeader:
    """The header of an open segment; if it is lost and the segment is sealed, the trailer's part of it."""
    try:
        return read_segment_header(data, segment_id)
    except CorruptRecord:
        trailer = read_trailer(data, segment_id)
        if trailer is None:
            raise
        return trailer.header()


def read_summary(data: SegmentBytes, segment_id: int, *, opens: bool = True) -> Summary | None:
    """Everything in the footer; None when the segment is not sealed. `opens` as in `read_heads`.

    Raises CorruptRecord when it is sealed and the footer is damaged: walk over the segment instead.
    """
    heads = read_heads(data, segment_id, opens=opens)
    if heads is None:
        return None
    trailer, hints = heads.trailer, heads.data
    at = len(FOOTER_HEAD)
    records: list[Record] = []
    try:
        for _ in range(trailer.record_count):
            record = unpack_head(hints, at, segment_id)
            records.append(record)
            at += record.position.head_bytes
        damage: list[Damage] = []
        for _ in range(trailer.damage_count):
            offset, length_bytes, flags, text_length = _DAMAGE.unpack_from(hints, at)
            at += _DAMAGE.size + text_length
            reason = hints[at - text_length : at].decode("utf-8", "replace")
            damage.append(Damage(segment_id, offset, length_bytes, reason, bool(flags & 1)))
    except struct.error as error:
        raise CorruptRecord("the footer ends too early", segment_id, trailer.tail) from error
    return Summary(trailer, records, damage)


def read_hints(data: SegmentBytes, segment_id: int) -> list[Record] | None:
    """The records of a sealed segment without walking over it; None when it is not sealed. Raises CorruptRecord."""
    summary = read_summary(data, segment_id)
    return None if summary is None else summary.records
