"""Intake: reads new visible records from all writers' segments, in order.

One pass takes the marks of all segments from one read transaction: everything below them is visible, so a record that
depends on another one (a deletion on its instances) never comes without it. Within a pass records are merged by their
stamps, which are in order within a segment (`ingest.stamp_clock`); a segment is opened when the merge reaches its
creation time, so that few are open at once after a long absence.

A compaction waits for the feed and copies only records that the feed has read, so its segments are skipped; their
headers name it as their writer. Unreadable places are skipped and counted too: the feed must not stop, and keeper and
scrub report the damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from engine import log
from engine.archive.feed.progress import Progress
from engine.errors import CorruptRecord, SegmentGone
from engine.storage.encryption import opened_or_shredded
from engine.storage.hints import read_heads
from engine.storage.record import Record, decode_head, head_length, unpack_head
from engine.storage.segment import FIRST_RECORD, Damage, SegmentHeader, Walk, read_segment_header
from engine.storage.segment_bytes import SegmentBytes
from engine.storage.segment_store import SegmentStore

if TYPE_CHECKING:
    from engine.index.catalog import Catalog
    from engine.index.format.types import SegmentMark

logger = log.get("archive.feed")

BATCH = 2000
"""Records yielded at a time."""
COMPACTION = "compaction-"
"""The beginning of the writer label in a compaction's segments."""
_FOOTER_BYTES_MIN = 1 << 20
"""If more than this is left of a sealed segment, its footer is read, else its records one by one."""
_HEADERS_MAX = 1024
_HEAD_BYTES = 2048
"""Longer than most record heads: header, key and meta."""

_Source = Iterator[Record]


class Intake:
    """Reads the log of one archive; one thread at a time."""

    def __init__(
        self,
        index: Catalog,
        store: SegmentStore,
        progress: Progress,
        is_own: Callable[[int], bool] = lambda segment_id: True,
    ) -> None:
        """`is_own`: whether a segment is of this node's log. Others' records are in the feeds of those nodes: what goes
        to receivers would go to them once from each node."""
        self._index = index
        self._store = store
        self._is_own = is_own
        self.progress = progress
        self.unreadable = 0
        """Number of skipped places in the log."""
        self._headers: dict[int, SegmentHeader] = {}

    def forget_replaced(self) -> None:
        """Forgets the progress in segments that no longer exist, or whose number another one has."""
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
        """The records of one pass, some at a time; `progress` is after each yielded one."""
        marks = self._index.marks_between(self.progress.gaps())
        unopened: list[tuple[int, int]] = []
        for segment_id, mark in marks.items():
            header = self._worth_reading(segment_id, mark)
            if header is not None:
                unopened.append((header.created_ns, segment_id))
        unopened.sort(reverse=True)
        batch: list[Record] = []
        for record in self._merged(unopened, marks):
            batch.append(record)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _worth_reading(self, segment_id: int, mark: SegmentMark) -> SegmentHeader | None:
        """The header of a segment with new records; None without any."""
        if not self._is_own(segment_id):
            if mark.sealed:
                self.progress.finish(segment_id)
            return None
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

    def _merged(self, unopened: list[tuple[int, int]], marks: dict[int, SegmentMark]) -> Iterator[Record]:
        """The records of all segments by their stamps; `waiting`: unopened segments, the oldest last."""
        heap: list[tuple[int, int, Record, _Source]] = []
        while heap or unopened:
            while unopened and (not heap or unopened[-1][0] <= heap[0][0]):
                segment_id = unopened.pop()[1]
                source = self._records(segment_id, marks[segment_id])
                record = next(source, None)
                if record is not None:
                    heappush(heap, (record.stamp, segment_id, record, source))
            if not heap:
                return
            _, segment_id, record, source = heap[0]
            if len(heap) == 1 and not unopened:  # usually there is one writer
                yield from _one_ahead(record, source)
                return
            # Fetch the next record first, so that progress is after this one when it is yielded.
            following = next(source, None)
            if following is None:
                heappop(heap)
            else:
                heapreplace(heap, (following.stamp, segment_id, following, source))
            yield record

    def _records(self, segment_id: int, mark: SegmentMark) -> _Source:
        """The new records of a segment. Advances `progress` when the next one is requested."""
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
            self._skip(segment_id, start, str(error))
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
                self._skip(segment_id, item.offset, item.reason)
            else:
                yield item

    def _whole_records(self, data: SegmentBytes, header: SegmentHeader, start: int, end: int) -> Iterator[Record]:
        """Consecutive records up to the first damaged or unfinished one: one read and few objects each."""
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
        """The records from the segment's footer; None if that cannot be read."""
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
                at += record.position.head_bytes
                if record.position.offset >= start:
                    yield record

        return records()

    def _header(self, segment_id: int) -> SegmentHeader | None:
        """The header of a segment; None if it cannot be read."""
        header = self._headers.get(segment_id)
        if header is not None:
            return header
        try:
            header = read_segment_header(self._store.open(segment_id), segment_id)
        except SegmentGone:
            return None
        except CorruptRecord as error:
            self._skip(segment_id, 0, str(error))
            return None
        if len(self._headers) >= _HEADERS_MAX:
            del self._headers[next(iter(self._headers))]
        self._headers[segment_id] = header
        return header

    def _skip(self, segment_id: int, offset: int, reason: str) -> None:
        self.unreadable += 1
        logger.about("feed").warning(
            "a place in the log is skipped", segment=f"{segment_id:016x}", offset=offset, reason=reason
        )


def _record_at(data: SegmentBytes, seed: int, segment_id: int, at: int) -> Record:
    """A whole record. Raises CorruptRecord or OSError."""
    head = data.read(_HEAD_BYTES, at)
    try:
        return opened_or_shredded(decode_head(head, seed, segment_id, at), head)
    except CorruptRecord:
        length = head_length(head, segment_id, at)
        if length <= len(head):
            raise
        head = data.read(length, at)
        return opened_or_shredded(decode_head(head, seed, segment_id, at), head)


def _one_ahead(record: Record, source: _Source) -> _Source:
    """Yields a record and its successors, each after the next one has been fetched."""
    for following in source:
        yield record
        record = following
    yield record
