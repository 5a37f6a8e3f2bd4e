"""Inspection: compares every byte of one segment with its checksums, in pieces, for a scrub.

It reports faults and repairs nothing. It does not know the index, nor whether a record is still needed.

    bytes                        verified by                                           if they are wrong
    header block                 both copies: checksum, and equal; zeros between        Part.HEADER
    head of a record             head_crc, and equal to the footer's copy               Part.RECORD
    payload                      payload_crc                                            Part.RECORD
    up to the next multiple of 8 zeros                                                  Part.PADDING: harmless
    between whole records        nothing: a recovery, or this walk, has skipped them    Part.GAP
    footer and trailer           hint_crc, the trailer's checksum                       Part.FOOTER

The records of a sealed segment are those of its footer, so a record with a damaged head still has its name. Without a
sound footer, they are the records that a walk finds up to the index's mark.

Each piece is read from the disk, not from the page cache, and is cached afterwards only if it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from engine.errors import CorruptRecord, KeyMissing
from engine.storage import hints
from engine.storage.encryption import is_shredded, opened
from engine.storage.record import HEADER_BYTES, Record, crc32c, decode_head
from engine.storage.segment import FIRST_RECORD, Damage, SegmentHeader, Walk, read_segment_header
from engine.storage.segment_bytes import SegmentBytes

PIECE_BYTES = 2 << 20
"""Bytes read at a time; the longest head, a little over 1 MiB, fits."""

_HEADER_COPY_BYTES = FIRST_RECORD // 2
_CHECKED_BYTES = 124
_KEY_LENGTH = slice(8, 10)
"""Offset of the key's length in a record header."""


class Part(Enum):
    """The part of a segment that a fault is in."""

    HEADER = "segment header"
    RECORD = "record"
    PADDING = "padding"
    GAP = "gap"
    FOOTER = "footer"
    INDEX = "index"
    """No part of a segment: a row of the index about one of its records (`archive.lifecycle.index_walk`)."""


class Fault(NamedTuple):
    """A part of a segment that is not as it was written."""

    part: Part
    offset: int
    length_bytes: int
    what: str
    record: Record | None = None
    """The record at that place; None if it is unknown."""
    key: bytes = b""
    """The record's key, if it is legible: unchecked if there is no `record`."""


class Step(NamedTuple):
    """One step of an inspection."""

    offset: int
    """Everything before this offset is done; an inspection can begin again here."""
    read_bytes: int
    faults: tuple[Fault, ...] = ()
    record_count: int = 0
    """Records that this step has finished: 1 or 0."""
    compared_bytes: int = 0
    """Other work than reading this segment, as the number of bytes that would take as long."""


class Inspection:
    """The inspection of one segment: iterate over its steps."""

    def __init__(
        self, data: SegmentBytes, segment_id: int, *, start_offset: int, mark_bytes: int, is_sealed: bool
    ) -> None:
        """`mark_bytes` and `is_sealed` are the segment's mark in the index."""
        self.segment_id = segment_id
        self.start_offset = start_offset
        self._data = data
        self._mark_bytes = mark_bytes
        self._is_sealed = is_sealed
        self._from_disk = False
        """Whether to read past the page cache: not while a writer's pages are still dirty."""
        self._seed = 0
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    def is_gone(self) -> bool:
        """Whether the segment has been removed meanwhile."""
        return self._data.is_gone()

    def steps(self) -> Iterator[Step]:
        """The steps from `start_offset` to the end."""
        trailer = self._trailer()
        self._from_disk = trailer is not None or self._is_sealed
        faults: list[Fault] = []
        header, read_bytes = self._header(trailer, faults)
        if header is None:
            yield Step(self._mark_bytes, read_bytes, tuple(faults))
            return
        self._seed = header.seed
        records, gaps = self._plan(trailer, header, faults)
        if trailer is not None:
            read_bytes += trailer.hint_end + hints.TRAILER_BYTES - trailer.tail
        yield Step(max(self.start_offset, FIRST_RECORD), read_bytes, tuple(faults))
        items: list[tuple[int, Record | Damage]] = [(record.position.offset, record) for record in records]
        items += [(gap.offset, gap) for gap in gaps]
        items.sort(key=lambda item: item[0])
        for offset, item in items:
            if offset < self.start_offset:
                continue
            if isinstance(item, Damage):
                yield Step(offset + item.length_bytes, 0, (self._gap(item),))
            else:
                yield from self._record(item)

    # -- inside ---------------------------------------------------------------------------------

    def _trailer(self) -> hints.Trailer | None:
        """The trailer; None if it is missing or unreadable, which is a fault of a sealed segment."""
        try:
            return hints.read_trailer(self._data, self.segment_id)
        except CorruptRecord:
            return None

    def _header(self, trailer: hints.Trailer | None, faults: list[Fault]) -> tuple[SegmentHeader | None, int]:
        """The header, from either copy or the trailer; None if all are lost."""
        header: SegmentHeader | None = None
        try:
            block = bytes(self._read(0, FIRST_RECORD))
            header = read_segment_header(self._data, self.segment_id)
            first, second = block[:_HEADER_COPY_BYTES], block[_HEADER_COPY_BYTES:]
            if first != second or first[_CHECKED_BYTES:].strip(b"\0"):
                faults.append(
                    Fault(Part.HEADER, 0, FIRST_RECORD, "one of the two copies of the segment header is damaged")
                )
        except (CorruptRecord, OSError) as error:
            faults.append(Fault(Part.HEADER, 0, FIRST_RECORD, _reason(error)))
        if header is None and trailer is not None:
            header = trailer.header()
        if header is None:
            length = max(self._mark_bytes - FIRST_RECORD, 0)
            faults.append(Fault(Part.GAP, FIRST_RECORD, length, "no record can be read without the segment header"))
        return header, FIRST_RECORD

    def _plan(
        self, trailer: hints.Trailer | None, header: SegmentHeader, faults: list[Fault]
    ) -> tuple[list[Record], list[Damage]]:
        """The records to verify, and the gaps between them."""
        if trailer is None:
            if self._is_sealed:
                faults.append(Fault(Part.FOOTER, self._mark_bytes, 0, "the trailer of the segment cannot be read"))
            return self._walk(header, self._mark_bytes)
        self._data.forget(trailer.tail, trailer.hint_end + hints.TRAILER_BYTES - trailer.tail)
        try:
            summary = hints.read_summary(self._data, self.segment_id, opens=False)
        except CorruptRecord as error:
            faults.append(Fault(Part.FOOTER, trailer.tail, trailer.hint_end - trailer.tail, str(error)))
            return self._walk(header, trailer.tail)
        if summary is None:
            faults.append(Fault(Part.FOOTER, trailer.tail, 0, "the trailer of the segment changes"))
            return self._walk(header, trailer.tail)
        return summary.records, [gap for gap in summary.damage if gap.was_synced]

    def _walk(self, header: SegmentHeader, end: int) -> tuple[list[Record], list[Damage]]:
        walk = Walk(self._data, header, end=end, opens=False)
        records: list[Record] = []
        gaps: list[Damage] = []
        for item in walk:
            if isinstance(item, Damage):
                gaps.append(item)
            else:
                records.append(item)
        if walk.tail < end:
            reason = walk.torn or "records are missing"
            gaps.append(Damage(self.segment_id, walk.tail, end - walk.tail, reason))
        return records, gaps

    def _gap(self, gap: Damage) -> Fault:
        """The fault for a gap, with the key of the record that began there if it is legible."""
        try:
            head = self._data.read(min(PIECE_BYTES, gap.length_bytes), gap.offset)
        except OSError:
            return Fault(Part.GAP, gap.offset, gap.length_bytes, gap.reason)
        try:
            record = decode_head(head, self._seed, self.segment_id, gap.offset)
        except CorruptRecord:
            key_length = int.from_bytes(head[_KEY_LENGTH], "little")
            return Fault(
                Part.GAP, gap.offset, gap.length_bytes, gap.reason, key=head[HEADER_BYTES : HEADER_BYTES + key_length]
            )
        return Fault(Part.GAP, gap.offset, gap.length_bytes, gap.reason, _known(record, head), record.key)

    def _record(self, record: Record) -> Iterator[Step]:
        """Head, payload and padding of one record."""
        position = record.position
        head_bytes = position.head_bytes
        payload_end = head_bytes + position.stored_length
        known: Record | None = record
        at = crc = 0
        reasons: list[str] = []
        padding = b""
        while at < position.record_bytes:
            length = min(position.record_bytes - at, PIECE_BYTES)
            try:
                piece = self._read(position.offset + at, length)
            except (CorruptRecord, OSError) as error:
                fault = Fault(Part.RECORD, position.offset, position.record_bytes, _reason(error), known, record.key)
                yield Step(position.end, length, (fault,), 1)
                return
            if at == 0:
                head = bytes(piece[:head_bytes])
                reasons += self._head_fault(head, record)
                if position.is_encrypted:
                    known = _known(record, head)
                    if known is None and not is_shredded(record):
                        reasons.append("the head was not written here with its key, or the key is missing")
            crc = crc32c(piece[max(head_bytes - at, 0) : max(payload_end - at, 0)], crc)
            padding += bytes(piece[max(payload_end - at, 0) :])
            at += length
            if at < position.record_bytes:
                yield Step(position.offset, length)
        if crc != position.payload_crc:
            reasons.append(f"payload: checksum {crc:08x}, expected {position.payload_crc:08x}")
        faults: tuple[Fault, ...] = ()
        if reasons:
            reason = "; ".join(reasons)
            faults = (Fault(Part.RECORD, position.offset, position.record_bytes, reason, known, record.key),)
        elif padding.strip(b"\0"):
            reason = "padding that is not zero"
            faults = (Fault(Part.PADDING, position.offset, position.record_bytes, reason, known, record.key),)
        yield Step(position.end, length, faults, 1)

    def _head_fault(self, head: bytes, record: Record) -> list[str]:
        try:
            record_read = decode_head(head, self._seed, self.segment_id, record.position.offset)
        except CorruptRecord as error:
            return [str(error)]
        return [] if record_read == record else ["the head differs from its copy in the footer"]

    def _read(self, offset: int, length: int) -> memoryview:
        """These bytes from the disk, in a buffer that the next call overwrites. Raises OSError, CorruptRecord."""
        data = self._data
        piece = self._buffer[:length]
        was_cached = not self._from_disk or data.try_read_into([piece], offset) == length
        if self._from_disk:
            data.forget(offset, length)
        count = data.read_into([piece], offset)
        if not was_cached:
            data.forget(offset, length)
        if count != length:
            raise CorruptRecord(f"the file ends after {count} of {length} bytes", self.segment_id, offset)
        return piece


def _known(record: Record, head: bytes) -> Record | None:
    """The record as the index has it, decrypted; None if that is not possible."""
    try:
        return opened(record, head)
    except (CorruptRecord, KeyMissing):
        return None


def _reason(error: CorruptRecord | OSError) -> str:
    return str(error) if isinstance(error, CorruptRecord) else f"cannot be read: {error.strerror}"
