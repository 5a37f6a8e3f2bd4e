"""Puts the heads of a sealed segment into the index, thousands in a transaction. Nearly all of a rebuild happens here.

Only this module imports _ext.heads, which makes the rows of one more instance of a series that it has seen. This module
handles everything else one at a time, with the functions of `writer`: the first instance of a series or statement, and
other kinds of records. An instance whose UID is already in the batch or in the index goes through the writer after the
batch. The result is the same as if the records were applied one after another.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine._ext.heads import Counter, Gatherer, HeadGroup, texts_of
from engine.errors import CorruptRecord, IndexError_
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.entry import Entry, LedgerItem, Quarantined, unpack_record
from engine.index.format.rows import Counts
from engine.storage.hints import Heads
from engine.storage.record import HEADER_BYTES, SHREDDED, Record, unpack_head
from engine.storage.segment import Damage

if TYPE_CHECKING:
    from engine.index.apply.writer import Writer

BATCH = 16_384
"""Instances in one transaction: some 50 ms in which no other process can write."""


@dataclass(slots=True)
class LoadResult:
    """The result of loading the heads of a segment."""

    records: int = 0
    """Records applied, including those that were in the index before."""
    findings: list[Damage] = field(default_factory=list)
    """Records that cannot be decoded."""


def load(writer: Writer, heads: Heads, start_offset: int) -> LoadResult:
    """Applies the records of a segment from `start_offset` on. Raises CorruptRecord when heads are missing."""
    loaded = LoadResult()
    trailer = heads.trailer
    at, count = _skip(heads, start_offset)
    while count:
        batch = _Batch(writer, heads, at, count)
        with _without_collection():
            writer.batch(batch.run)
        loaded.records += count - batch.count - len(batch.findings)
        loaded.findings += batch.findings
        at, count = batch.at, batch.count
    writer.batch(lambda txn: _end(writer, txn, trailer.segment_id, trailer.tail))
    return loaded


@contextmanager
def _without_collection() -> Iterator[None]:
    """Switches the garbage collector off: it would scan a batch's rows again and again, and they have no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _skip(heads: Heads, start_offset: int) -> tuple[int, int]:
    """Where the first head from `start_offset` on begins, and how many there are from there."""
    at = heads.start
    for number in range(heads.trailer.record_count):
        record = _unpack(heads, at)
        if record.position.offset >= start_offset:
            return at, heads.trailer.record_count - number
        at += _length(record)
    return at, 0


def _end(writer: Writer, txn: ReadTxn, segment_id: int, tail: int) -> None:
    segment = writer.accounts.segment(txn, segment_id)
    segment.cover(0, tail)
    segment.end = tail


def _unpack(heads: Heads, at: int) -> Record:
    segment_id = heads.trailer.segment_id
    if at + HEADER_BYTES > len(heads.data):
        raise CorruptRecord("the footer has fewer heads than it says", segment_id, heads.trailer.tail)
    return unpack_head(heads.data, at, segment_id)


def _length(record: Record) -> int:
    return record.position.head_bytes


class _Batch:
    """One transaction."""

    def __init__(self, writer: Writer, heads: Heads, at: int, count: int) -> None:
        self._writer = writer
        self._heads = heads
        self._start = at
        self._start_count = count
        self.at = at
        self.count = count
        """Heads still to apply."""
        self.findings: list[Damage] = []

    def run(self, txn: WriteTxn) -> None:
        """Applies the heads of one transaction. May be run again from the start."""
        self.at, self.count = self._start, self._start_count
        self._gatherer = Gatherer()
        self._counters: dict[bytes, tuple[Counter, Counts]] = {}
        self._late: list[Entry] = []
        self._others: list[LedgerItem | Quarantined] = []
        self.findings = []
        self._gather(txn)
        self._write(txn)

    def _gather(self, txn: WriteTxn) -> None:
        heads, gatherer = self._heads, self._gatherer
        end = len(heads.data)
        segment_id = heads.trailer.segment_id
        stopped_at = -1
        while self.count and self._start_count - self.count < BATCH:
            before = len(gatherer.rows)
            self.at = gatherer.run(heads.data, self.at, end, segment_id, min(BATCH, before + self.count))
            self.count -= len(gatherer.rows) - before
            if not self.count or len(gatherer.rows) >= BATCH:
                return
            record = _unpack(heads, self.at)
            if self._handle(txn, record, self.at == stopped_at):
                self.at += _length(record)
                self.count -= 1
            else:
                stopped_at = self.at

    def _handle(self, txn: WriteTxn, record: Record, is_repeated: bool) -> bool:
        """Handles a head at which the gatherer stopped. False: the gatherer can handle it now."""
        if record.kind == SHREDDED:
            position = record.position
            segment = self._writer.accounts.segment(txn, position.segment_id)
            if not segment.is_covered(position.offset):
                segment.dead_bytes += position.record_bytes
            return True
        try:
            item = unpack_record(record)
        except IndexError_ as error:
            position = record.position
            self.findings.append(Damage(position.segment_id, position.offset, position.record_bytes, str(error)))
            return True
        if not isinstance(item, Entry):
            self._others.append(item)
            return True
        environment = self._writer.environment
        sop_key = keys.bounded(record.key)
        if is_repeated or sop_key in self._gatherer.places or txn.get(sop_key, db=environment.sop_uids) is not None:
            self._late.append(item)
            return True
        series, row, end = self._writer.place_for(txn, item)
        counter, _ = self._counters.setdefault(series.counts_key, (Counter(series.series_id, row.next), row))
        stamp, tie = keys.ORDER.unpack(series.first)
        if (stamp, tie) != (item.stamp, keys.tie_of(item.position.payload_length, item.position.payload_crc)):
            tie = min(tie + 1, keys.TIE_MAX)  # of two senders' instances with the first order, either may be the first
        self._gatherer.groups[texts_of(record.meta)] = HeadGroup(counter, stamp, tie, end)
        return False

    def _write(self, txn: WriteTxn) -> None:
        writer, gatherer = self._writer, self._gatherer
        environment = writer.environment
        with txn.cursor(db=environment.sop_uids) as cursor:
            places = sorted(gatherer.places.items())
            consumed, added = cursor.putmulti(places, overwrite=False)
            conflicts = {}
            if added != consumed:
                ours = gatherer.places
                conflicts = {key: ours[key] for key, where in cursor.getmulti(ours) if where != ours[key]}
        rows = gatherer.rows
        record_bytes = gatherer.record_bytes
        if conflicts:
            removed = set(conflicts.values())
            offsets = {keys.INSTANCE.unpack_from(value)[2] for where, value in rows if where in removed}
            rows = [row for row in rows if row[0] not in removed]
            counters = {counter.series_id: counter for counter, _ in self._counters.values()}
            for entry in self._entries_at(offsets):
                counter = counters[keys.PAIR.unpack(conflicts[entry.sop_instance_uid])[0]]
                counter.count -= 1
                counter.payload_bytes -= entry.position.payload_length
                record_bytes -= entry.position.record_bytes
                self._late.append(entry)
        rows.sort()
        with txn.cursor(db=environment.instances) as cursor:
            cursor.putmulti(rows)
        for counter, counts in self._counters.values():
            counts.next = counter.next_id
            counts.count += counter.count
            counts.bytes += counter.payload_bytes
        self._account(txn, len(rows), record_bytes)
        self._apply_late(txn)
        self._writer.add_items(txn, self._others)

    def _apply_late(self, txn: WriteTxn) -> None:
        """Applies instances whose UID has other records: all of one UID at once, since there may be thousands."""
        writer = self._writer
        by_uid: dict[bytes, list[Entry]] = {}
        for entry in self._late:
            by_uid.setdefault(keys.bounded(entry.sop_instance_uid), []).append(entry)
        for sop_key, entries in by_uid.items():
            if txn.get(sop_key, db=writer.environment.sop_uids) is None:
                writer.add(txn, entries.pop(0))
            if entries:
                writer.apply_records(txn, sop_key, entries)

    def _entries_at(self, offsets: set[int]) -> Iterator[Entry]:
        """The instances of this batch at these offsets of the segment."""
        at = self._start
        while at < self.at:
            record = _unpack(self._heads, at)
            at += _length(record)
            if record.position.offset in offsets:
                yield Entry.unpack(record)

    def _account(self, txn: ReadTxn, count: int, record_bytes: int) -> None:
        first = _unpack(self._heads, self._start).position.offset
        end = _unpack(self._heads, self.at).position.offset if self.count else self._heads.trailer.tail
        segment = self._writer.accounts.segment(txn, self._heads.trailer.segment_id)
        segment.cover(first, end)
        segment.live_count += count
        segment.live_bytes += record_bytes
