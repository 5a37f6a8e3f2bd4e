"""Announcement: what a node tells the others of its log, as the message of one row of the cluster's feed.

A row has the number of a segment, its salt, and where in it the records begin and end; its message says what they are.
Little endian:

    offset  bytes  field
    0       1      kind          1 GROUP: records that are in a group of the tail in the bucket (`objects.bucket`)
                                 2 PUBLISHED: the whole segment is in the bucket, sealed; its hint has all heads
                                 3 REMOVED: a compaction has moved what was needed of it; its object goes

    of a GROUP
    1       4      epoch         the group's place in the bucket; its slot is the segment's
    5       8      number
    13      4      data_crc      crc32c of the group's bytes
    17      8      records_end   where the last record ends that is whole with this group: a record may go on in the
                                 next one, and behind the last record of a segment there is its footer
    25      4      header_bytes  H
    29      4      heads         n
    33      H      header        the segment's header block without the zeros at its end
    33+H    12n    offset u64, length u32 of each head in the segment
            …      the heads, one after another, as they lie there: encrypted ones too

So a node applies a group without a byte of its payloads, and knows where to read them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, cast

from engine.errors import CorruptRecord
from engine.objects.bucket import Group, Place, SegmentName
from engine.storage.record import crc32c
from engine.storage.segment import FIRST_RECORD, Damage, SegmentHeader, Walk, read_segment_header
from engine.storage.segment_bytes import SegmentBytes
from engine.storage.segment_ids import slot_of

GROUP: Final = 1
PUBLISHED: Final = 2
REMOVED: Final = 3

_GROUP: Final = struct.Struct("<BIQIQII")
_HEAD: Final = struct.Struct("<QI")
HEADS_MAX: Final = 1 << 20
"""A group of 256 MiB has fewer records."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One row of the feed, as this module understands it."""

    kind: int
    name: SegmentName
    start: int = 0
    end: int = 0
    place: Place | None = None
    """Of a GROUP: where its bytes are."""
    data_crc: int = 0
    records_end: int = 0
    """Of a GROUP: up to where it has told of all records."""
    header: bytes = b""
    """Of a GROUP: the header block, without the zeros at its end."""
    heads: tuple[tuple[int, bytes], ...] = ()
    """Of a GROUP: offset and bytes of the head of each record."""

    @property
    def slot(self) -> int:
        """The slot of the node whose log it is."""
        return slot_of(self.name.segment_id)

    def segment_header(self) -> SegmentHeader:
        """The header of the segment of a GROUP. Raises CorruptRecord."""
        block = _Block(self.header.ljust(FIRST_RECORD, b"\0"))
        return read_segment_header(cast("SegmentBytes", block), self.name.segment_id)

    def message(self) -> bytes:
        """The message of the row."""
        if self.kind != GROUP:
            return bytes([self.kind])
        assert self.place is not None
        fields = (
            self.place.epoch,
            self.place.number,
            self.data_crc,
            self.records_end,
            len(self.header),
            len(self.heads),
        )
        table = b"".join(_HEAD.pack(offset, len(head)) for offset, head in self.heads)
        return b"".join((_GROUP.pack(self.kind, *fields), self.header, table, *(head for _, head in self.heads)))

    @classmethod
    def of_row(cls, segment_id: int, salt: int, start: int, end: int, message: bytes) -> Announcement:
        """What a row says. Raises CorruptRecord when the message is none of this version."""
        name = SegmentName(segment_id, salt)
        if message[:1] in (bytes([PUBLISHED]), bytes([REMOVED])):
            return cls(message[0], name, start, end)
        try:
            kind, epoch, number, data_crc, records_end, header_bytes, count = _GROUP.unpack_from(message)
            at = _GROUP.size + header_bytes
            if kind != GROUP or count > HEADS_MAX or end < start or records_end > max(end, FIRST_RECORD):
                raise CorruptRecord(f"an announcement of kind {kind}", segment_id, start)
            header = message[_GROUP.size : at]
            heads = []
            table = message[at : at + count * _HEAD.size]
            at += len(table)
            for offset, length in _HEAD.iter_unpack(table):
                heads.append((offset, message[at : at + length]))
                at += length
        except struct.error:
            raise CorruptRecord("an announcement is cut off", segment_id, start) from None
        if at != len(message) or len(table) != count * _HEAD.size or len(header) != header_bytes:
            raise CorruptRecord("an announcement is cut off", segment_id, start)
        place = Place(slot_of(segment_id), epoch, number)
        return cls(GROUP, name, start, end, place, data_crc, records_end, header, tuple(heads))


class _Block:
    """The header block as `read_segment_header` reads it."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    def read(self, length: int, offset: int, /) -> bytes:
        return self._block[offset : offset + length]


def of_group(group: Group, log: SegmentBytes, walked: int) -> tuple[Announcement, int]:
    """The announcement of a group of the tail, and where the next group's records begin.

    A group may end inside of a record that is larger than a group: its head is announced with the group in which it
    ends. `log`: the segment. `walked`: where the records begin that no group before has announced. Raises
    CorruptRecord, SegmentGone.
    """
    block = log.read(FIRST_RECORD, 0)
    header = read_segment_header(log, group.name.segment_id)
    walk = Walk(log, header, walked, end=group.end, opens=False)
    heads = tuple((item.position.offset, walk.head) for item in walk if not isinstance(item, Damage))
    crc, block = crc32c(group.data), block.rstrip(b"\0")
    announcement = Announcement(GROUP, group.name, group.start, group.end, group.place, crc, walk.tail, block, heads)
    return announcement, walk.tail
