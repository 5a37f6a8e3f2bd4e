"""The accounts of a batch: how far each segment has been applied, its live and dead bytes, and counters.

    share    live_count  live_bytes  dead_bytes
    ALIVE    +1          +           .            current instances, versions, what is in trash or quarantine, holds
                                                  that count
    NEEDED   .           +           .            tombstones, records of the trash
    DEAD     .           .           +            everything else: what a compaction would win

Rows are loaded at the first use in a batch and written at its end. Other modules decide the state of each record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from engine.index.apply.versions import KILLED, LIVE, State, UidRecord
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.rows import Segment, read_count
from engine.storage.record import Position


class Share(Enum):
    """How a record counts in its segment."""

    ALIVE = "alive"
    NEEDED = "needed"
    DEAD = "dead"


def share_of(state: State) -> Share:
    """How a record in this state counts."""
    if state in LIVE:
        return Share.ALIVE
    return Share.NEEDED if state == State.TOMBSTONE else Share.DEAD


class Accounts:
    """The accounts of one batch."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.segments: dict[int, Segment] = {}
        """Rows of `segments` that the batch has loaded."""
        self._counts: dict[bytes, int] = {}
        self._trash: dict[int, list[int]] = {}
        """By the stamp of a PUT: the change of its instances and of their bytes."""

    def begin(self) -> None:
        """Forgets the rows of the batch before."""
        self.segments.clear()
        self._counts.clear()
        self._trash.clear()

    def write(self, txn: WriteTxn) -> None:
        """Ends a batch."""
        environment = self._environment
        for segment_id, segment in self.segments.items():
            txn.put(keys.U64_KEY.pack(segment_id), segment.encode(), db=environment.segments)
        for word, change in self._counts.items():
            if change:
                total = read_count(txn, environment, word) + change
                txn.put(word, keys.U64.pack(total), db=environment.meta)
        for stamp, (instances, data_bytes) in self._trash.items():
            row_key = keys.TRASH_ENTRY + keys.U64_KEY.pack(stamp)
            row = txn.get(row_key, db=environment.trash_table)
            before = (0, 0) if row is None else keys.TRASH.unpack(row)
            total, total_bytes = before[0] + instances, before[1] + data_bytes
            if total:
                txn.put(row_key, keys.TRASH.pack(total, total_bytes), db=environment.trash_table)
            else:
                txn.delete(row_key, db=environment.trash_table)

    def segment(self, txn: ReadTxn, segment_id: int) -> Segment:
        """The row of a segment, to be changed."""
        segment = self.segments.get(segment_id)
        if segment is None:
            segment = Segment(txn.get(keys.U64_KEY.pack(segment_id), db=self._environment.segments))
            self.segments[segment_id] = segment
        return segment

    def cover(self, txn: ReadTxn, position: Position) -> None:
        """Notes that a record has been applied."""
        self.segment(txn, position.segment_id).cover(position.offset, position.offset + position.record_bytes)

    def count(self, word: bytes, change: int) -> None:
        """Adds to a number of `meta`."""
        self._counts[word] = self._counts.get(word, 0) + change

    def count_trash(self, records: Sequence[UidRecord], put_stamps: Mapping[bytes, int]) -> None:
        """Notes under which PUTs the records of a UID wait from now on; all of its records that may be in the trash."""
        before: dict[int, int] = {}
        after: dict[int, int] = {}
        for record in records:
            for stamp, data_bytes in ((record.put_stamp, before), (put_stamps.get(record.key, 0), after)):
                if stamp:
                    data_bytes[stamp] = data_bytes.get(stamp, 0) + record.position.payload_length
        for stamps, sign in ((before, -1), (after, 1)):
            for stamp, length in stamps.items():
                total = self._trash.setdefault(stamp, [0, 0])
                total[0] += sign
                total[1] += sign * length

    def move(self, txn: ReadTxn, position: Position, before: Share | None, after: Share) -> None:
        """Accounts for a record whose share changes; before is None for a new record."""
        if before is after:
            return
        segment = self.segment(txn, position.segment_id)
        record_bytes = position.record_bytes
        if before is Share.DEAD:
            segment.dead_bytes -= record_bytes
        elif before is not None:
            segment.live_count -= before is Share.ALIVE
            segment.live_bytes -= record_bytes
        if after is Share.DEAD:
            segment.dead_bytes += record_bytes
        else:
            segment.live_count += after is Share.ALIVE
            segment.live_bytes += record_bytes

    def kill(self, txn: ReadTxn, segment_id: int, count: int, record_bytes: int) -> None:
        """Accounts for current instances of one segment that a tombstone has deleted."""
        segment = self.segment(txn, segment_id)
        segment.live_count -= count
        segment.live_bytes -= record_bytes
        segment.dead_bytes += record_bytes
        self.count(keys.META_DELETED, count)

    def change(self, txn: ReadTxn, position: Position, before: State | None, after: State) -> None:
        """Accounts for a record whose state changes; before is None for a new record."""
        if before == after:
            return
        self.move(txn, position, None if before is None else share_of(before), share_of(after))
        self.count(keys.META_VERSIONS, (after == State.VERSION) - (before == State.VERSION))
        self.count(keys.META_DELETED, (after in KILLED) - (before in KILLED))
        trashed = (after == State.TRASHED) - (before == State.TRASHED)
        self.count(keys.META_TRASHED, trashed)
        self.count(keys.META_TRASHED_BYTES, trashed * position.record_bytes)
        difference = (after == State.QUARANTINED) - (before == State.QUARANTINED)
        self.count(keys.META_QUARANTINED, difference)
        self.count(keys.META_QUARANTINED_BYTES, difference * position.record_bytes)
