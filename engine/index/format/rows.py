"""The rows of the index's tables as objects, and the reads that its modules share. Writes nothing.

`keys` draws the formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.errors import IndexDamaged
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, Table
from engine.index.format import keys
from engine.index.format.statements import PART_COUNT_SERIES, Facts
from engine.index.format.types import SegmentMark
from engine.storage.segment import FIRST_RECORD


class Counts:
    """The row of a series in `counts`, while a batch changes it."""

    __slots__ = ("bytes", "count", "next", "tail")

    def __init__(self, count: int, next_id: int, payload_bytes: int, tail: bytes) -> None:
        self.count = count
        self.next = next_id
        self.bytes = payload_bytes
        self.tail = tail
        """Modality and SOP classes, encoded."""

    @classmethod
    def decode(cls, data: bytes) -> Counts:
        count, next_id, payload_bytes = keys.COUNTS.unpack_from(data)
        return cls(count, next_id, payload_bytes, data[keys.COUNTS.size :])

    def encode(self) -> bytes:
        return keys.COUNTS.pack(self.count, self.next, self.bytes) + self.tail


class Segment:
    """The row of a segment, while a batch changes it."""

    __slots__ = ("dead_bytes", "end", "extents", "indexed", "live_bytes", "live_count")

    def __init__(self, data: bytes | None) -> None:
        self.extents: list[tuple[int, int]] = []
        if data is None:
            self.indexed = FIRST_RECORD
            self.end = self.live_count = self.live_bytes = self.dead_bytes = 0
        else:
            head = keys.SEGMENT.size
            self.indexed, self.end, self.live_count, self.live_bytes, self.dead_bytes = keys.SEGMENT.unpack_from(data)
            if len(data) > head:
                self.extents = [keys.EXTENT.unpack_from(data, at) for at in range(head, len(data), keys.EXTENT.size)]

    def encode(self) -> bytes:
        data = keys.SEGMENT.pack(self.indexed, self.end, self.live_count, self.live_bytes, self.dead_bytes)
        return data if not self.extents else data + b"".join([keys.EXTENT.pack(*extent) for extent in self.extents])

    def cover(self, start: int, end: int) -> None:
        """Notes that the records from `start` to `end` have been applied, perhaps out of order."""
        if start <= self.indexed and not self.extents:
            if end > self.indexed:
                self.indexed = end
            return
        self.extents.append((start, end))
        self.extents.sort()
        remaining: list[tuple[int, int]] = []
        for start, end in self.extents:
            if start <= self.indexed:
                self.indexed = max(self.indexed, end)
            elif remaining and start <= remaining[-1][1]:
                remaining[-1] = (remaining[-1][0], max(remaining[-1][1], end))
            else:
                remaining.append((start, end))
        self.extents = remaining

    def is_covered(self, offset: int) -> bool:
        """Whether the record at an offset has been applied."""
        return offset < self.indexed or any(start <= offset < end for start, end in self.extents)

    def mark(self) -> SegmentMark:
        complete = 0 < self.end <= self.indexed
        return SegmentMark(self.indexed, complete, self.live_count, self.live_bytes, self.dead_bytes)


def decode_mark(data: bytes) -> SegmentMark:
    """The mark in a row of `segments`."""
    return Segment(data).mark()


def pack_tail(modality: bytes, class_ids: Iterable[int]) -> bytes:
    """Modality and SOP classes as they end a row of `counts`."""
    modality = modality[:255]
    return bytes((len(modality),)) + modality + b"".join([keys.U32.pack(class_id) for class_id in sorted(class_ids)])


def unpack_tail(data: bytes, at: int) -> tuple[bytes, tuple[int, ...]]:
    """Modality and name ids of the SOP classes, from the end of a row of `counts`."""
    end = at + 1 + data[at]
    return data[at + 1 : end], struct.unpack_from(f"<{(len(data) - end) // 4}I", data, end)


@dataclass(slots=True)
class UidRow:
    """A row of `studies` or `series`."""

    owner: int
    """The patient's or study's id."""
    statements: int
    uid: bytes
    facts: Facts

    @classmethod
    def decode(cls, data: bytes, part_count: int = PART_COUNT_SERIES) -> UidRow:
        owner, statements, uid_length = keys.UID_HEAD.unpack_from(data)
        at = keys.UID_HEAD.size + uid_length
        facts = Facts.decode(data, at)
        if len(facts.parts) != part_count:
            raise IndexDamaged(
                f"a row has {len(facts.parts)} parts, not {part_count}: the index is damaged;"
                " run `filmroom rebuild-index`"
            )
        return cls(owner, statements, data[keys.UID_HEAD.size : at], facts)

    def encode(self) -> bytes:
        uid = self.uid[:0xFFFF]
        return keys.UID_HEAD.pack(self.owner, self.statements, len(uid)) + uid + self.facts.encode()


@dataclass(slots=True)
class PatientRow:
    """A row of `patients`."""

    key: bytes
    facts: Facts

    @classmethod
    def decode(cls, data: bytes) -> PatientRow:
        (length,) = keys.KEY_HEAD.unpack_from(data)
        at = keys.KEY_HEAD.size + length
        return cls(data[keys.KEY_HEAD.size : at], Facts.decode(data, at))

    def encode(self) -> bytes:
        return keys.KEY_HEAD.pack(len(self.key)) + self.key + self.facts.encode()


def scan_prefix(txn: ReadTxn, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows whose key begins with `prefix`, in key order. Do not write to the table meanwhile."""
    with txn.cursor(db=table) as cursor:
        if not cursor.set_range(prefix):
            return
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key, value


def read_name(txn: ReadTxn, environment: Environment, number: int) -> bytes:
    """The text that a name id stands for."""
    text = txn.get(b"\0" + keys.U32.pack(number), db=environment.names)
    if text is None:
        raise IndexDamaged(f"name {number} is missing: the index is damaged; run `filmroom rebuild-index`")
    return bytes(text)


def read_count(txn: ReadTxn, environment: Environment, word: bytes) -> int:
    """A number of `meta`."""
    data = txn.get(word, db=environment.meta)
    return int(keys.U64.unpack(data)[0]) if data else 0
