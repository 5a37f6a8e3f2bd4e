"""How far a segment can be copied while its writer appends to it: for backups and replicas.

Needs no index, no lock and no role in the archive: the log alone shows which records are whole. Every acknowledged
instance is a whole record of some segment, in both durabilities; a record that is being written does not count yet.

    sealed                    all of the file
    streamed, not sealed      its one record, once the head is there: it is written last
    anything else             from a known end on, head after head; the last record's payload is compared with its
                              checksum, for a reader may see a record's head before the rest of it

Zeros in the place of a head mean the end: nothing acknowledged lies behind the zeros of a preallocated segment, and the
keeper judges whatever a power cut has left there. Bytes that are neither zeros nor a head are passed over if a whole
record follows, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from engine.errors import CorruptRecord
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.hints import read_header_or_trailer
from engine.storage.record import HEADER_BYTES, Record, crc32c, decode_head, head_length
from engine.storage.segment import (
    FIRST_RECORD,
    FOOTER_MAGIC,
    LAYOUT_STREAM,
    Damage,
    SegmentHeader,
    Walk,
    list_segments,
)
from engine.storage.segment_bytes import SegmentBytes

LOOK_BYTES = 4096
"""Bytes read to find a head: most heads fit."""
PIECE_BYTES = 1 << 20


class Extent(NamedTuple):
    """The part of one segment that can be copied."""

    salt: int
    """Names the segment together with its id, since an id comes again when the newest segment has been removed."""
    end: int
    """The bytes before it will not change any more."""
    is_sealed: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is no record in it."""
        return self.end <= FIRST_RECORD


def look(
    data: SegmentBytes, segment_id: int, known_end: Callable[[int], int] = lambda salt: FIRST_RECORD
) -> Extent | None:
    """The extent of an open segment; `known_end` says, by its salt, up to where its whole records are known.

    None when its header is not written yet. Raises CorruptRecord when there is none that can be read, OSError.
    """
    data.expect_random()
    trailer = hints.read_trailer(data, segment_id)
    if trailer is not None:
        return Extent(trailer.salt, data.size(), True)
    try:
        header = read_header_or_trailer(data, segment_id)
    except CorruptRecord:
        if not data.read(FIRST_RECORD, 0).strip(b"\0"):
            return None
        raise
    return Extent(header.salt, _whole_end(data, header, max(known_end(header.salt), FIRST_RECORD)), False)


def stable_segments(directory: str, files: Files) -> list[int]:
    """The ids of a directory's segments, listed until two lists in a row agree.

    A compaction makes new segments before it removes old ones: one list alone may have missed both.
    """
    before = list_segments(directory, files)
    while True:
        now = list_segments(directory, files)
        if now == before:
            return now
        before = now


def _whole_end(data: SegmentBytes, header: SegmentHeader, start: int) -> int:
    """Where the whole records from `start` on end."""
    size = data.size()
    last: Record | None = None
    offset = start
    while offset < size:
        record = record_at(data, header, offset)
        if record is None or record.position.end > size:
            if _is_clean_end(data, offset):
                break
            followed = _behind_damage(data, header, offset)
            if followed is None:
                break
            record = followed
        last = record
        offset = record.position.end
        if header.layout == LAYOUT_STREAM:
            return offset
    if last is not None and not _is_whole(data, last):
        return last.position.offset
    return offset


def record_at(data: SegmentBytes, header: SegmentHeader, offset: int) -> Record | None:
    """The record whose head lies whole at a place; its payload may be anything."""
    try:
        head = data.read(LOOK_BYTES, offset)
        length = head_length(head[:HEADER_BYTES], header.segment_id, offset)
        if length > len(head):
            head = data.read(length, offset)
        return decode_head(head, header.seed, header.segment_id, offset)
    except CorruptRecord:
        return None


def _is_clean_end(data: SegmentBytes, offset: int) -> bool:
    return data.read(len(FOOTER_MAGIC), offset).startswith((b"\0\0\0\0", FOOTER_MAGIC))


def _behind_damage(data: SegmentBytes, header: SegmentHeader, offset: int) -> Record | None:
    """The first whole record behind bytes that are none; None when they are a torn tail, or being written."""
    return next((item for item in Walk(data, header, offset, opens=False) if not isinstance(item, Damage)), None)


def _is_whole(data: SegmentBytes, record: Record) -> bool:
    position = record.position
    crc = 0
    at, end = position.payload_offset, position.payload_offset + position.stored_length
    while at < end:
        piece = data.read(min(PIECE_BYTES, end - at), at)
        if not piece:
            return False
        crc = crc32c(piece, crc)
        at += len(piece)
    return crc == position.payload_crc
