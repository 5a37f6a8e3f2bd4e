"""Intake: reads the records that have become visible since the last look, in order, from all writers' segments.

One look takes the marks of all segments from one read transaction: everything below them is visible, so a record that
rests on another one (a deletion on what it deletes) never comes without it. Within a look records are merged by their
stamps, which are in order within a segment (`ingest.entry.StampClock`); a segment is opened when the merge comes to the
time at which it was made, so that a long absence opens few at once.

A compaction waits for the feed and copies only records that the feed has read, so its segments are skipped; their
headers name it as their writer. Unreadable places are skipped and counted too: keeper and scrub report damage, and a
feed that stops helps nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from engine import log
from engine.archive.feed.progress import Progress
from engine.errors import CorruptRecord, SegmentGone
from engine.storage.hints import read_heads
from engine.storage.record import HEADER_BYTES, Record, decode_head, head_length, unpack_head
from engine.storage.segment import FIRST_RECORD, Damage, SegmentHeader, Walk, read_segment_header
from engine.storage.segment_bytes import SegmentBytes
from engine.storage.segment_store import SegmentStore

if TYPE_CHECKING:
    from engine.index.catalog import Catalog
    from engine.index.format.types import SegmentMark

logger = log.get("archive.feed")

BATCH = 2000
"""Records that are given at a time."""
COMPACTION = "compaction-"
"""How the writer of a compaction's segments calls itself."""
_FOOTER_BYTES_MIN = 1 << 20
"""When more than this is left of a sealed segment its footer is read, else its records one by one."""
_HEADERS_MAX = 1024
_HEAD_BYTES = 2048
"""More than the head of a record has as a rule: header, key and what the index is told."""

_Source = Iterator[Record]


class Intake:
    """Reads the log of one archive; one thread at a time."""

    def __init__(self, index: Catalog, store: SegmentStore, progress: Progress) -> None:
        self._index = index
        self._store = store
        self.progress = progress
        self.unreadable = 0
        """Places in the log that were passed over."""
        self._headers: dict[int, SegmentHeader] = {}

    def forget_replaced(self) -> None:
        """Forgets places in segments that are not there any more, or whose number another one has."""
        for segment_id, salt in self.progress.begun():
            header = self._header(segment_id)
            if header is None or header.salt != salt:
                self.progress.forget(segment_id)

    def begin_now(self) -> None:
        """Starts at the present end of the log, as if everything had been read."""
        for segment_id, mark in self._index.segment_marks().items():
            header = None if mark.sealed else self._header(segment_id)
            if header is None:
                self.progress.finish(segment_id)
            else:
                self.progress.move(segment_id, header.salt, mark.indexed_bytes)

    def read(self) -> Iterator[list[Record]]:
        """The records of one look, some at a time; `progress` has moved on behind each."""
        marks = self._index.marks_between(self.progress.gaps())
        waiting: list[tuple[int, int]] = []
        for segment_id, mark in marks.items():
            header = self._worth_reading(segment_id, mark)
            if header is not None:
                waiting.append((header.created_ns, segment_id))
        waiting.sort(reverse=True)
        batch: list[Record] = []
        for record in self._merged(waiting, marks):
            batch.append(record)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _worth_reading(self, segment_id: int, mark: SegmentMark) -> SegmentHeader | None:
        """The header of a segment that has something new."""
        place = self.progress.of(segment_id)
        if place is not None and place[1] >= mark.indexed_bytes:
            if mark.sealed:
                self.progress.finish(segment_id)
            return None
        header = self._header(segment_id)
        if header is not None and not header.writer.startswith(COMPACTION):
            return header
        if mark.sealed:
            self.progress.finish(segment_id)
        return None

    def _merged(self, waiting: list[tuple[int, int]], marks: dict[int, SegmentMark]) -> Iterator[Record]:
        """The records of all segments by their stamps; `waiting`: those not opened yet, the one made first last."""
        heap: list[tuple[int, int, Record, _Source]] = []
        while heap or waiting:
            while waiting and (not heap or waiting[-1][0] <= heap[0][0]):
                segment_id = waiting.pop()[1]
                source = self._records(segment_id, marks[segment_id])
                record = next(source, None)
                if record is not None:
                    heappush(heap, (record.stamp, segment_id, record, source))
            if not heap:
                return
            _, segment_id, record, source = heap[0]
            if len(heap) == 1 and not waiting:  # one writer stores, as a rule
                yield from _one_ahead(record, source)
                return
            # Asked for first, so that progress is behind the record when it is given.
            following = next(source, None)
            if following is None:
                heappop(heap)
            else:
                heapreplace(heap, (following.stamp, segment_id, following, source))
            yield record

    def _records(self, segment_id: int, mark: SegmentMark) -> _Source:
        """The new records of a segment. Moves on in `progress` when the next one is asked for."""
        header = self._header(segment_id)
        place = self.progress.of(segment_id)
        if header is None:
            return
        end = mark.indexed_bytes
        start = FIRST_RECORD if place is None else place[1]
        for record in self._read(segment_id, header, start, mark):
            yield record
            self.progress.move(segment_id, header.salt, record.position.end)
        self.progress.move(segment_id, header.salt, max(start, end))
        if mark.sealed:
            self.progress.finish(segment_id)
            self._headers.pop(segment_id, None)

    def _read(self, segment_id: int, header: SegmentHeader, start: int, mark: SegmentMark) -> _Source:
        try:
            data = self._store.open(segment_id)
        except CorruptRecord as error:
            self._pass_over(segment_id, start, str(error))
            return
        if mark.sealed and mark.indexed_bytes - start >= _FOOTER_BYTES_MIN:
            records = self._footer(data, segment_id, start)
            if records is not None:
                yield from records
                return
        at = start
        for record in self._whole_records(data, header, start, mark.indexed_bytes):
            at = record.position.end
            yield record
        if at >= mark.indexed_bytes:
            return
        for item in Walk(data, header, at, end=mark.indexed_bytes):
            if isinstance(item, Damage):
                self._pass_over(segment_id, item.offset, item.reason)
            else:
                yield item

    def _whole_records(self, data: SegmentBytes, header: SegmentHeader, start: int, end: int) -> Iterator[Record]:
        """The records one behind the other, up to the first that is not whole: one read and few objects each."""
        seed, segment_id = header.seed, header.segment_id
        at = start
        while at < end:
            try:
                record = _record_at(data, seed, segment_id, at)
            except (CorruptRecord, OSError):
                return
            at = record.position.end
            if at > end:
                return
            yield record

    def _footer(self, data: SegmentBytes, segment_id: int, start: int) -> Iterator[Record] | None:
        """The records by the segment's footer; None when that cannot be read."""
        try:
            heads = read_heads(data, segment_id)
        except CorruptRecord:
            return None
        if heads is None or heads.trailer.damage_count:
            return None

        def records() -> Iterator[Record]:
            at = heads.start
            for _ in range(heads.trailer.record_count):
                record = unpack_head(heads.data, at, segment_id)
                at += HEADER_BYTES + record.position.key_length + record.position.meta_length
                if record.position.offset >= start:
                    yield record

        return records()

    def _header(self, segment_id: int) -> SegmentHeader | None:
        """What a segment says of itself; None when nobody can tell."""
        header = self._headers.get(segment_id)
        if header is not None:
            return header
        try:
            header = read_segment_header(self._store.open(segment_id), segment_id)
        except SegmentGone:
            return None
        except CorruptRecord as error:
            self._pass_over(segment_id, 0, str(error))
            return None
        if len(self._headers) >= _HEADERS_MAX:
            del self._headers[next(iter(self._headers))]
        self._headers[segment_id] = header
        return header

    def _pass_over(self, segment_id: int, offset: int, why: str) -> None:
        self.unreadable += 1
        logger.about("feed").warning(
            "a place in the log is passed over", segment=f"{segment_id:016x}", offset=offset, why=why
        )


def _record_at(data: SegmentBytes, seed: int, segment_id: int, at: int) -> Record:
    """A whole record. Raises CorruptRecord or OSError."""
    head = data.read(_HEAD_BYTES, at)
    try:
        return decode_head(head, seed, segment_id, at)
    except CorruptRecord:
        length = head_length(head, segment_id, at)
        if length <= len(head):
            raise
        return decode_head(data.read(length, at), seed, segment_id, at)


def _one_ahead(record: Record, source: _Source) -> _Source:
    """A record and what follows it, each given when the next one has been asked for."""
    for following in source:
        yield record
        record = following
    yield record
