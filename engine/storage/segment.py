"""One segment file: its header, its name, and the walk over its records. `segment_log` writes it, `hints` ends it.

    0        4096                                     tail                     end of file
    +--------+----------+----------+-- … --+----------+-----------------------+
    | header | record 0 | record 1 |       | record n | zeros, or the footer  |
    +--------+----------+----------+-- … --+----------+-----------------------+

    active    preallocated: zeros from the tail to the end. A streamed segment holds one record, whose head is
              written last, and is not preallocated.
    sealed    the footer of `storage.hints` follows the last record and ends the file

The header block holds the same 124 bytes twice, at 0 and at 2048, so that one damaged sector does not cost a segment:

    offset  bytes  field          little endian
    0       8      magic          "FILMSEG\\0"
    8       4      format         1
    12      4      layout         1 many records, 2 one streamed record
    16      8      segment_id     as in the file's name
    24      16     archive_id
    40      8      salt           random; with the two above it gives the seed of every record's head_crc
    48      8      created_ns
    56      64     writer         length byte, UTF-8 label
    120     4      crc32c         of the 120 bytes before

Preallocation grows the file at once (fallocate without KEEP_SIZE): then no sync has to write a new file size, no power
cut can leave a size short of synced bytes, and what was never written reads as zeros, which are no record. So:

    at a place where a record should begin            if a whole record follows        if none follows
    zeros, the footer, or the end of the file         damage                           the clean end
    anything else                                     damage                           a torn tail

A walk reports damage and continues after it. Cut nothing but bytes after the last whole record.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import CorruptRecord, StorageError, TornTail
from engine.storage.encryption import opened_or_shredded
from engine.storage.files import Files, raise_write_error
from engine.storage.record import HEADER_BYTES, MAGIC, Record, crc32c, decode_head, head_length
from engine.storage.segment_bytes import SegmentBytes

# These constants are part of the format.
SEGMENT_MAGIC = b"FILMSEG\0"
SEGMENT_FORMAT = 1
LAYOUT_LOG = 1
LAYOUT_STREAM = 2
FIRST_RECORD = 4096
"""The offset of the first record: the header has its own page."""
FOOTER_MAGIC = b"FILMHINT"
"""Follows the last record of a sealed segment; see `storage.hints`."""

SEGMENT_FIELDS = (
    ("magic", "8s"),
    ("format", "I"),
    ("layout", "I"),
    ("segment_id", "Q"),
    ("archive_id", "16s"),
    ("salt", "Q"),
    ("created_ns", "Q"),
    ("writer", "64p"),
)
"""Name and struct code of each field before the checksum."""

_HEADER = struct.Struct("<" + "".join(code for _, code in SEGMENT_FIELDS))
_SECOND_COPY = 2048
_WRITER_BYTES_MAX = 63
_NAME = re.compile(r"([0-9a-f]{16})\.seg")

_WINDOW_BYTES_MIN = 4096
_WINDOW_BYTES_MAX = 256 << 10
_CHUNK_BYTES = 256 << 10
_ZERO_CHUNK = bytes(_CHUNK_BYTES)
ZEROS_MAX = 32 << 20
"""The most zeros that the search for a record after a bad one reads."""
_PAYLOAD_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The header of a segment."""

    segment_id: int
    archive_id: bytes
    salt: int
    created_ns: int
    writer: str
    layout: int = LAYOUT_LOG

    @property
    def seed(self) -> int:
        """The start value for the checksum of every record head of this segment."""
        return crc32c(struct.pack("<16sQQ", self.archive_id, self.segment_id, self.salt))

    def encode(self) -> bytes:
        """The header block, FIRST_RECORD bytes."""
        label = self.writer.encode("utf-8")[:_WRITER_BYTES_MAX]
        fields = _HEADER.pack(
            SEGMENT_MAGIC,
            SEGMENT_FORMAT,
            self.layout,
            self.segment_id,
            self.archive_id,
            self.salt,
            self.created_ns,
            label,
        )
        copy = (fields + struct.pack("<I", crc32c(fields))).ljust(_SECOND_COPY, b"\0")
        return copy + copy


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a segment, between whole records, that is not as it was written."""

    segment_id: int
    offset: int
    length_bytes: int
    reason: str
    was_synced: bool = True
    """False: a hole that a power cut left in writes that were never synced; no sender was told that they are stored
    (in durable mode). True: bytes that were on stable storage and are lost: an alarm."""

    def __str__(self) -> str:
        return f"segment {self.segment_id:016x} offset {self.offset}: {self.reason}"

    def error(self) -> CorruptRecord:
        """The damage as an error to raise or to report."""
        return CorruptRecord(self.reason, self.segment_id, self.offset)


def segment_path(directory: str, segment_id: int) -> str:
    """The path of a segment."""
    return f"{directory}/{segment_id:016x}.seg"


def list_segments(directory: str, files: Files) -> list[int]:
    """The ids of all segments in a directory, ascending; ignores other files.

    Raises StorageFull if this process lacks descriptors or memory, else StorageFailed.
    """
    try:
        names = files.list_directory(directory)
    except OSError as error:
        raise_write_error(error, f"list {directory}")
    matches = map(_NAME.fullmatch, names)
    return sorted(int(match[1], 16) for match in matches if match)


def read_segment_header(data: SegmentBytes, segment_id: int) -> SegmentHeader:
    """The header of an open segment, from whichever copy is whole. Raises CorruptRecord."""
    try:
        block = data.read(FIRST_RECORD, 0)
    except OSError as error:
        raise CorruptRecord(f"the segment header cannot be read: {error.strerror}", segment_id, 0) from error
    reason = "no segment header"
    for at in (0, _SECOND_COPY):
        copy = block[at : at + _HEADER.size + 4]
        if len(copy) < _HEADER.size + 4 or not copy.startswith(SEGMENT_MAGIC):
            continue
        if int.from_bytes(copy[-4:], "little") != crc32c(copy[:-4]):
            reason = "wrong checksum in the segment header"
            continue
        _, format_, layout, own_id, archive_id, salt, created_ns, label = _HEADER.unpack_from(copy)
        if format_ != SEGMENT_FORMAT or layout not in (LAYOUT_LOG, LAYOUT_STREAM):
            reason = f"segment format {format_}, layout {layout}: written by another version"
            continue
        if own_id != segment_id:
            reason = f"this file is segment {own_id:016x}"
            continue
        return SegmentHeader(own_id, archive_id, salt, created_ns, label.decode("utf-8", "replace"), layout)
    raise CorruptRecord(reason, segment_id, 0)


def own_id(data: SegmentBytes) -> int | None:
    """The number in a file's header, whatever its name; None without a whole header. Raises StorageError."""
    try:
        block = data.read(FIRST_RECORD, 0)
    except OSError as error:
        raise StorageError(f"a segment header cannot be read: {error.strerror}") from error
    for at in (0, _SECOND_COPY):
        copy = block[at : at + _HEADER.size + 4]
        is_copy = len(copy) == _HEADER.size + 4 and copy.startswith(SEGMENT_MAGIC)
        if is_copy and int.from_bytes(copy[-4:], "little") == crc32c(copy[:-4]):
            return int(_HEADER.unpack_from(copy)[3])
    return None


def scan(
    data: SegmentBytes,
    segment_id: int,
    start_offset: int,
    *,
    end: int | None = None,
    verify_payload: bool = False,
) -> Iterator[Record]:
    """The records from `start_offset` (the start of one, or 0) to `end`, or to the clean end.

    Raises CorruptRecord at the first damage, and TornTail at an incomplete last record.
    """
    header = read_segment_header(data, segment_id)
    walk = Walk(data, header, start_offset, end=end, verify_payload=verify_payload)
    for item in walk:
        if isinstance(item, Damage):
            raise item.error()
        yield item
    if walk.torn:
        raise TornTail(walk.torn, segment_id, walk.tail)


class Walk:
    """Walks over a segment once, past damage. Iterate, then read how and where it ended.

    Reads each head with a few preads, and payloads only to verify them.
    """

    def __init__(
        self,
        data: SegmentBytes,
        header: SegmentHeader,
        start_offset: int = 0,
        *,
        end: int | None = None,
        verify_payload: bool = False,
        verify_from: int = 0,
        opens: bool = True,
    ) -> None:
        """With `verify_payload`, verifies the payloads of records from `verify_from` on.

        `opens`: yields encrypted records decrypted, and raises KeyMissing if their key is missing; else as they lie on
        the disk, which needs no key.
        """
        self._opens = opens
        self._data = data
        self._segment_id = header.segment_id
        self._seed = header.seed
        self._alone = header.layout == LAYOUT_STREAM
        size = data.size()
        self._end = size if end is None else min(end, size)
        self._verify = verify_payload
        self._verify_from = verify_from
        data.expect_random()
        self._window = _Window(data, self._end)
        self._sequence = -1
        self._payload_buffer: memoryview | None = None
        self.tail = max(start_offset, FIRST_RECORD)
        """The end of the last whole record, after the walk."""
        self.torn = ""
        """The fault of the bytes at the tail; empty at a clean end."""
        self.unreadable = ""
        """The read error, if there was one: the bytes may be whole, and readable later."""
        self.head = b""
        """Header, key and meta of the last yielded record, as they are in the file."""

    def __iter__(self) -> Iterator[Record | Damage]:
        while self.tail < self._end:
            record, reason, resume = self._whole_record(self.tail)
            if record is None:
                record = self._next_whole_record(resume)
                if record is None:
                    self.torn = "" if self._is_clean_end(self.tail) else reason
                    return
                offset = self.tail
                yield Damage(self._segment_id, offset, record.position.offset - offset, reason)
            self.tail = record.position.end
            self._sequence = record.sequence
            yield record

    def _whole_record(self, offset: int) -> tuple[Record | None, str, int]:
        """The record at `offset`; or None, the fault, and the offset from which to search for another one."""
        try:
            header = self._window.read(offset, HEADER_BYTES)
            head = self._window.read(offset, head_length(header, self._segment_id, offset))
            record = decode_head(head, self._seed, self._segment_id, offset)
        except CorruptRecord as error:
            return None, str(error), offset + 8
        except OSError as error:
            self.unreadable = f"a record head cannot be read: {error.strerror}"
            return None, self.unreadable, offset + 8
        if record.sequence <= self._sequence:
            return None, f"record number {record.sequence} after {self._sequence}", offset + 8
        position = record.position
        if position.end > self._end:
            return None, "the file ends inside a record", offset + 8
        if self._verify and offset >= self._verify_from:
            reason = self._payload_fault(record)
            if reason:
                return None, reason, position.end
        self.head = head
        if self._opens and position.is_encrypted:
            try:
                record = opened_or_shredded(record, head)
            except CorruptRecord as error:
                return None, str(error), position.end
        return record, "", position.end

    def _payload_fault(self, record: Record) -> str:
        """The fault of a payload; empty if there is none."""
        position = record.position
        if self._payload_buffer is None:
            self._payload_buffer = memoryview(bytearray(_PAYLOAD_CHUNK_BYTES))
        crc = 0
        at = position.payload_offset
        end = at + position.stored_length
        while at < end:
            piece = self._payload_buffer[: min(_PAYLOAD_CHUNK_BYTES, end - at)]
            try:
                count = self._data.read_into([piece], at)
            except OSError as error:
                self.unreadable = f"a payload cannot be read: {error.strerror}"
                return self.unreadable
            if count < len(piece):
                return "the file ends inside a payload"
            crc = crc32c(piece, crc)
            at += count
        if crc != position.payload_crc:
            return f"payload: checksum {crc:08x}, expected {position.payload_crc:08x}"
        return ""

    def _next_whole_record(self, offset: int) -> Record | None:
        """The first whole record from `offset` on. If there is one, bytes before it are damage, else a torn tail."""
        if self._alone:
            return None
        for candidate in self._candidates(offset):
            if candidate < offset:
                continue
            record, _, offset = self._whole_record(candidate)
            if record is not None:
                return record
        return None

    def _candidates(self, offset: int) -> Iterator[int]:
        """Places that begin with a record's magic and their own offset; skips holes in the file.

        Gives up after ZEROS_MAX written zeros in a row, since a prewritten segment has half a gigabyte of them: records
        that far behind were never synced either, as a sync covers everything before them.
        """
        zeros = 0
        while offset < self._end and zeros < ZEROS_MAX:
            offset = max(offset, self._data.next_data(offset) & -8)
            if offset >= self._end:
                return
            chunk = self._chunk(offset, self._data.next_hole(offset))
            at = chunk.find(MAGIC)
            while at >= 0:
                if at % 8 == 0:
                    own_offset = chunk[at + 40 : at + 48]
                    if len(own_offset) < 8 or int.from_bytes(own_offset, "little") == offset + at:
                        yield offset + at
                at = chunk.find(MAGIC, at + 4)
            zeros = zeros + len(chunk) if chunk == _ZERO_CHUNK[: len(chunk)] else 0
            offset += max(len(chunk) & -8, 8)

    def _chunk(self, offset: int, hole: int) -> bytes:
        """Bytes to search, up to a hole; zeros in place of a block that cannot be read."""
        # Read no byte of the next block: pages of a preallocated file that were read count as data from then on.
        block_end = (offset // _BLOCK_BYTES + 1) * _BLOCK_BYTES
        length = min(_CHUNK_BYTES, max(hole, block_end) - offset, self._end - offset)
        try:
            return self._data.read(length, offset)
        except OSError:
            length = min(length, _BLOCK_BYTES - offset % _BLOCK_BYTES)
        try:
            return self._data.read(length, offset)
        except OSError as error:
            self.unreadable = f"a block cannot be read: {error.strerror}"
            return bytes(length)

    def _is_clean_end(self, offset: int) -> bool:
        try:
            start = self._window.read(offset, HEADER_BYTES)
        except OSError as error:
            self.unreadable = f"the end cannot be read: {error.strerror}"
            return False
        if len(start) < HEADER_BYTES:
            return not start.strip(b"\0")
        return start.startswith((b"\0\0\0\0", FOOTER_MAGIC))


class _Window:
    """Reads small pieces in ascending order; combines them into larger reads while they lie close together."""

    def __init__(self, source: SegmentBytes, end: int) -> None:
        self._source = source
        self._end = end
        self._data = b""
        self._offset = 0
        self._length = _WINDOW_BYTES_MIN

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes, or those up to the end."""
        at = offset - self._offset
        if at < 0 or at + length > len(self._data):
            close = 0 <= at <= len(self._data) + _WINDOW_BYTES_MIN
            self._length = min(2 * self._length, _WINDOW_BYTES_MAX) if close else _WINDOW_BYTES_MIN
            count = min(max(self._length, length), self._end - offset)
            self._data = self._source.read(count, offset) if count > 0 else b""
            self._offset = offset
            at = 0
        return self._data[at : at + length]
