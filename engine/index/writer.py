"""Applies what the log says to the index: instances, tombstones and how far each segment has come, a batch at a time.

Two ways through here. Steady: the UID is new and its series has been seen by this process with the same statement; four
puts. Everything else goes by way of `fold` (a UID that is there already) or `entities` (a series that is new or states
something new). What a process remembers of a series stays true until the epoch changes; every removal changes it.

Not here: the format of the tables (`keys`), and when the log is synced (nobody calls `apply` for a durable instance
before that).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from engine.dicom import charset
from engine.index import keys
from engine.index.entities import Entities, Remembered
from engine.index.entry import Entry, Tombstone
from engine.index.environment import Environment
from engine.index.fold import LIVE, OUTCOMES, State, Told, fold, pack_history, read_history, told_of
from engine.index.rows import Counts, Segment, pack_tail, read_name, unpack_tail
from engine.index.statements import canonical
from engine.index.types import Outcome, SegmentMark
from engine.storage.record import HEADER_BYTES, Kind, Position
from engine.storage.segment import FIRST_RECORD

REMEMBERED_SERIES_MAX = 2048
"""A process remembers so many series with their blobs: some 4 MiB."""
REMEMBERED_NAMES_MAX = 4096

_pair = keys.PAIR.pack
_order = keys.ORDER.pack
_instance = keys.INSTANCE.pack


class Writer:
    """Applies batches; one per process, any thread."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._entities = Entities(environment)
        self._lock = threading.Lock()
        self._series: dict[tuple[bytes, bytes, bytes, bytes], Remembered] = {}
        self._names: dict[bytes, int] = {}
        self._epoch: bytes | None = None
        self._segments: dict[int, Segment] = {}
        """Rows of `segments` that the running batch has loaded."""

    def apply(
        self,
        entries: Sequence[Entry],
        tombstones: Sequence[Tombstone] = (),
        marks: Mapping[int, SegmentMark] | None = None,
        covered: Mapping[int, int] | None = None,
    ) -> list[Outcome]:
        """See `Index.apply`."""
        with self._lock:
            outcomes: list[Outcome] = self._environment.write(
                lambda txn: self._apply(txn, entries, tombstones, marks, covered), self._forget
            )
            return outcomes

    def _forget(self) -> None:
        """After a failed transaction nothing that it told this process is true."""
        self._series.clear()
        self._names.clear()
        self._epoch = None
        self._entities.forget()

    def _apply(
        self,
        txn: Any,
        entries: Sequence[Entry],
        tombstones: Sequence[Tombstone],
        marks: Mapping[int, SegmentMark] | None,
        covered: Mapping[int, int] | None,
    ) -> list[Outcome]:
        environment = self._environment
        epoch = txn.get(keys.META_EPOCH, db=environment.meta)
        if epoch != self._epoch:
            self._series.clear()
            self._epoch = epoch
        segments = self._segments
        segments.clear()
        self._entities.counts.clear()
        outcomes = [self._add(txn, entry) for entry in entries]
        for tombstone in tombstones:
            self._bury(txn, tombstone)
        if self._entities.needs_refresh:
            self._entities.refresh(txn)
            self._series.clear()
        for counts_key, row in self._entities.counts.items():
            txn.put(counts_key, row.encode(), db=environment.counts)
        for segment_id, end in (covered or {}).items():
            self._segment(txn, segment_id).cover(FIRST_RECORD, end)
        for segment_id, mark in (marks or {}).items():
            if mark.sealed:
                self._segment(txn, segment_id).end = mark.indexed_bytes
        for segment_id, segment in segments.items():
            txn.put(keys.U64_KEY.pack(segment_id), segment.encode(), db=environment.segments)
        return outcomes

    # -- one record -----------------------------------------------------------------------------

    def _add(self, txn: Any, entry: Entry) -> Outcome:
        environment = self._environment
        position = entry.position
        segment_id, offset, key_length, meta_length, payload_length, _ = position
        order = _order(entry.stamp, segment_id, offset)
        sop_key = entry.sop_instance_uid
        if not 0 < len(sop_key) <= 128 or b"\0" in sop_key:
            sop_key = keys.bounded(sop_key)
        known = self._series.get((entry.character_set, entry.patient, entry.study, entry.series))
        if known is None or order < known.first:
            if txn.get(sop_key, db=environment.sop_uids) is not None:
                return self._tell(txn, sop_key, told_of(entry, order))
            known = self._settle(txn, entry, order)
        row = self._entities.counts.get(known.counts_key) or self._entities.load_counts(txn, known.counts_key)
        where = _pair(known.series_id, row.next)
        if not txn.put(sop_key, where, overwrite=False, db=environment.sop_uids):
            return self._tell(txn, sop_key, told_of(entry, order))
        self._insert(txn, entry, known, row, where)
        segment = self._segments.get(segment_id)
        if segment is None:
            segment = self._segment(txn, segment_id)
        record_bytes = (HEADER_BYTES + key_length + meta_length + payload_length + 7) & ~7
        segment.cover(offset, offset + record_bytes)
        segment.live_count += 1
        segment.live_bytes += record_bytes
        return Outcome.STORED

    def _settle(self, txn: Any, entry: Entry, order: bytes) -> Remembered:
        """Makes sure that the entry's series is there, and remembers it."""
        known = self._entities.settle(txn, entry, order)
        if len(self._series) >= REMEMBERED_SERIES_MAX:
            del self._series[next(iter(self._series))]
        self._series[(entry.character_set, entry.patient, entry.study, entry.series)] = known
        return known

    def _insert(self, txn: Any, entry: Entry, known: Remembered, row: Counts, where: bytes) -> None:
        """Puts the instance itself; the UID points there already."""
        segment_id, offset, key_length, meta_length, payload_length, payload_crc = entry.position
        names = self._names
        class_id = names.get(entry.sop_class_uid) or self._name(txn, entry.sop_class_uid)
        syntax_id = names.get(entry.transfer_syntax_uid) or self._name(txn, entry.transfer_syntax_uid)
        title_id = names.get(entry.calling_ae_title) or self._name(txn, entry.calling_ae_title)
        set_id = names.get(entry.character_set) or self._name(txn, entry.character_set)
        value = _instance(
            entry.stamp,
            segment_id,
            offset,
            payload_length,
            entry.pixel_data_offset,
            entry.received_ns,
            payload_crc,
            meta_length,
            key_length,
            entry.flags,
            class_id,
            syntax_id,
            title_id,
            set_id,
            known.digest,
        )
        txn.put(where, value + entry.instance, db=self._environment.instances)
        row.count += 1
        row.next += 1
        row.bytes += payload_length
        if row.tail != known.tail:
            known.tail = row.tail
            known.classes = frozenset(unpack_tail(row.tail, 0)[1])
        if class_id not in known.classes:
            modality, class_ids = unpack_tail(row.tail, 0)
            known.classes = frozenset((*class_ids, class_id))
            row.tail = known.tail = pack_tail(modality, known.classes)

    def _bury(self, txn: Any, tombstone: Tombstone) -> None:
        position = tombstone.position
        order = _order(tombstone.stamp, position.segment_id, position.offset)
        told = Told(order, None, Kind.TOMBSTONE, 0, position, b"", b"")
        self._tell(txn, keys.bounded(tombstone.sop_instance_uid), told)

    # -- several records of one UID -------------------------------------------------------------

    def _tell(self, txn: Any, sop_key: bytes, news: Told) -> Outcome:
        """Applies the fold rule to all that is known of a UID and to `news`."""
        environment = self._environment
        where = txn.get(sop_key, db=environment.sop_uids)
        told = list(read_history(txn, environment, sop_key))
        if where:
            told.append(self._current(txn, where))
        if any(record.order == news.order for record in told):
            state = next(record.state for record in told if record.order == news.order)
            self._cover(txn, news.position)
            return OUTCOMES[state or State.CURRENT]
        told.append(news)
        told.sort(key=lambda record: record.order)
        states = fold(told)
        self._move(txn, sop_key, where or b"", told, states)
        self._cover(txn, news.position)
        for record in told:
            self._account(txn, record, states[record.order])
        state = states[news.order]
        before = next((record for record in told if record.state == State.CURRENT), None)
        if state != State.CURRENT or before is None:
            return OUTCOMES[state]
        # The same bytes with an earlier stamp, from another process: its place changes and nothing else.
        return Outcome.DUPLICATE if news.same_bytes(before) else Outcome.REPLACED

    def _move(self, txn: Any, sop_key: bytes, where: bytes, told: Sequence[Told], states: dict[bytes, State]) -> None:
        """Brings tables from the states that the records have to those that they shall have."""
        environment = self._environment
        for record in told:
            if record.state == State.CURRENT and states[record.order] != State.CURRENT:
                self._remove(txn, where)
                where = b""
        for record in told:
            state = states[record.order]
            if state == record.state:
                continue
            history_key = sop_key + b"\0" + record.order
            if state == State.CURRENT:
                txn.delete(history_key, db=environment.history)
                where = self._promote(txn, record.entry(sop_key))
            else:
                txn.put(history_key, pack_history(record, state), db=environment.history)
        txn.put(sop_key, where, db=environment.sop_uids)

    def _promote(self, txn: Any, entry: Entry) -> bytes:
        order = _order(entry.stamp, entry.position.segment_id, entry.position.offset)
        known = self._settle(txn, entry, order)
        row = self._entities.load_counts(txn, known.counts_key)
        where = _pair(known.series_id, row.next)
        self._insert(txn, entry, known, row, where)
        return where

    def _remove(self, txn: Any, where: bytes) -> None:
        """Takes an instance out of its series; `Entities.refresh` sees to the rest."""
        environment = self._environment
        value = txn.get(where, db=environment.instances)
        self._entities.lost_instance(txn, where[:4], keys.INSTANCE.unpack_from(value)[3])
        txn.delete(where, db=environment.instances)

    def _current(self, txn: Any, where: bytes) -> Told:
        """The current record of a UID, with all that it would take to bring it back."""
        environment = self._environment
        row = txn.get(where, db=environment.instances)
        (stamp, segment_id, offset, payload_length, pixel_data_offset, received_ns, payload_crc, meta_length,
         key_length, flags, class_id, syntax_id, title_id, set_id, digest) = keys.INSTANCE.unpack_from(row)  # fmt: skip
        position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
        patient, study, series = self._entities.stated(txn, where[:4], digest)
        entry = Entry(
            position,
            flags,
            stamp,
            read_name(txn, environment, class_id),
            b"",
            read_name(txn, environment, syntax_id),
            read_name(txn, environment, title_id),
            received_ns,
            pixel_data_offset,
            charset.UTF_8,
            patient,
            study,
            series,
            canonical(row[keys.INSTANCE.size :], read_name(txn, environment, set_id)),
        )
        return Told(
            _order(stamp, segment_id, offset),
            State.CURRENT,
            Kind.INSTANCE,
            flags,
            position,
            entry.transfer_syntax_uid,
            entry.pack_meta(),
        )

    # -- small rows -----------------------------------------------------------------------------

    def _segment(self, txn: Any, segment_id: int) -> Segment:
        segment = self._segments.get(segment_id)
        if segment is None:
            segment = Segment(txn.get(keys.U64_KEY.pack(segment_id), db=self._environment.segments))
            self._segments[segment_id] = segment
        return segment

    def _cover(self, txn: Any, position: Position) -> None:
        self._segment(txn, position.segment_id).cover(position.offset, position.offset + position.record_bytes)

    def _account(self, txn: Any, record: Told, state: State) -> None:
        """Books the record's bytes as alive or dead, and counts versions."""
        before = record.state
        if before == state:
            return
        segment = self._segment(txn, record.position.segment_id)
        record_bytes = record.position.record_bytes
        if before is not None:
            segment.live_count -= before in LIVE
            if before in LIVE:
                segment.live_bytes -= record_bytes
            else:
                segment.dead_bytes -= record_bytes
        segment.live_count += state in LIVE
        if state in LIVE or state == State.TOMBSTONE:
            segment.live_bytes += record_bytes
        else:
            segment.dead_bytes += record_bytes
        self._entities.count(txn, keys.META_VERSIONS, (state == State.VERSION) - (before == State.VERSION))

    def _name(self, txn: Any, text: bytes) -> int:
        """The id that stands for a text; a new one if the text is new."""
        table = self._environment.names
        key = b"\x01" + keys.bounded(text)
        data = txn.get(key, db=table)
        if data is None:
            number = keys.ID.unpack(self._entities.next_id(txn, "name"))[0]
            txn.put(key, keys.U32.pack(number), db=table)
            txn.put(b"\0" + keys.U32.pack(number), text, db=table)
        else:
            number = keys.U32.unpack(data)[0]
        if len(self._names) >= REMEMBERED_NAMES_MAX:
            self._names.clear()
        self._names[text] = number
        return int(number)
