"""Applies what the log says to the index: instances, tombstones and how far each segment has come, one batch a transaction.

The *fold rule* says what several records of one SOP Instance UID come to. In the order of (stamp, segment id, offset):

    the first one                                            current
    same bytes (length, checksum, transfer syntax) as the
      current one, or with keep-first as a kept version      duplicate, dead
    other bytes, keep-first                                  a version; the current one stays
    other bytes, replace                                     current; the one before is dead
    other bytes, keep-both                                   current; the one before is a version
    a tombstone                                              all before it are dead; the next one is the first again

The records of a UID are remembered until a rebuild, so the rule can be applied again when one arrives out of order, and
a record that is applied twice changes nothing. That is why a live index and a rebuilt one agree.

Two ways through here. Steady: the UID is new and its series has been seen by this process with the same statement; four
puts. Settled: everything else. What a process remembers of a series stays true until the epoch changes, and every
removal or move changes it. Attributes, Modality and SOP classes of what lost an instance are made anew from what is left
(`_refresh`), once a batch.

Not here: the format of the tables (`keys`), what facts are (`statements`), when the log is synced (nobody calls `apply`
for a durable instance before).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine.dicom import charset, tags
from engine.errors import IndexError_
from engine.index import keys, matching
from engine.index.entry import POLICY_KEEP_FIRST, POLICY_MASK, POLICY_REPLACE, Entry, Tombstone
from engine.index.environment import Environment
from engine.index.statements import (
    PART_COUNT_PATIENT,
    PART_COUNT_SERIES,
    PART_COUNT_STUDY,
    Facts,
    Statement,
    canonical,
    pack_content,
    unpack_content,
)
from engine.index.types import Outcome, SegmentMark
from engine.storage.record import HEADER_BYTES, Kind, Position
from engine.storage.segment import FIRST_RECORD

REMEMBERED_SERIES_MAX = 2048
"""A process remembers so many series with their blobs: some 4 MiB."""
REMEMBERED_NAMES_MAX = 4096

_pair = keys.PAIR.pack
_order = keys.ORDER.pack
_instance = keys.INSTANCE.pack


class State(IntEnum):
    """What the fold rule makes of a record."""

    CURRENT = 0
    VERSION = 1
    DUPLICATE = 2
    SUPERSEDED = 3
    DELETED = 4
    TOMBSTONE = 5


_LIVE = frozenset((State.CURRENT, State.VERSION))

_OUTCOMES = {
    State.CURRENT: Outcome.STORED,
    State.VERSION: Outcome.KEPT_ASIDE,
    State.DUPLICATE: Outcome.DUPLICATE,
    State.SUPERSEDED: Outcome.REPLACED,
    State.DELETED: Outcome.STORED,
    State.TOMBSTONE: Outcome.STORED,
}


@dataclass(slots=True)
class Told:
    """One record of a SOP Instance UID that has more than one."""

    order: bytes
    state: State | None
    """None: not applied yet."""
    kind: int
    flags: int
    position: Position
    transfer_syntax_uid: bytes
    meta: bytes
    """The record's meta block; text may have become UTF-8."""

    def same_bytes(self, other: Told) -> bool:
        """Whether both carry the same data set, as far as length and checksum can tell."""
        return (
            self.position.payload_length == other.position.payload_length
            and self.position.payload_crc == other.position.payload_crc
            and self.transfer_syntax_uid == other.transfer_syntax_uid
        )

    def entry(self, sop_instance_uid: bytes) -> Entry:
        """The instance, for one that is none of a tombstone."""
        stamp = keys.ORDER.unpack(self.order)[0]
        return Entry.unpack_meta(self.position, self.flags, stamp, sop_instance_uid, self.meta)


def fold(told: Sequence[Told]) -> dict[bytes, State]:
    """Order → state, for all records of one UID in their order. The rule in the module's head."""
    states: dict[bytes, State] = {}
    current: Told | None = None
    versions: list[Told] = []
    for record in told:
        if record.kind == Kind.TOMBSTONE:
            for order, state in states.items():
                if state != State.TOMBSTONE:
                    states[order] = State.DELETED
            states[record.order] = State.TOMBSTONE
            current = None
            versions = []
            continue
        policy = record.flags & POLICY_MASK
        if current is None:
            states[record.order] = State.CURRENT
            current = record
        elif record.same_bytes(current):
            states[record.order] = State.DUPLICATE
        elif policy == POLICY_KEEP_FIRST:
            is_known = any(record.same_bytes(version) for version in versions)
            states[record.order] = State.DUPLICATE if is_known else State.VERSION
            versions.append(record)
        else:
            states[current.order] = State.SUPERSEDED if policy == POLICY_REPLACE else State.VERSION
            if policy != POLICY_REPLACE:
                versions.append(current)
            states[record.order] = State.CURRENT
            current = record
    return states


class _Counts:
    """The row of a series in `counts`, while a batch changes it."""

    __slots__ = ("bytes", "count", "next", "tail")

    def __init__(self, count: int, next_id: int, payload_bytes: int, tail: bytes) -> None:
        self.count = count
        self.next = next_id
        self.bytes = payload_bytes
        self.tail = tail
        """Modality and SOP classes, encoded."""


class _Segment:
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
        """Notes that the records from `start` to `end` have been applied; writers may come to it out of order."""
        if start <= self.indexed and not self.extents:
            if end > self.indexed:
                self.indexed = end
            return
        self.extents.append((start, end))
        self.extents.sort()
        left: list[tuple[int, int]] = []
        for start, end in self.extents:
            if start <= self.indexed:
                self.indexed = max(self.indexed, end)
            elif left and start <= left[-1][1]:
                left[-1] = (left[-1][0], max(left[-1][1], end))
            else:
                left.append((start, end))
        self.extents = left

    def mark(self) -> SegmentMark:
        complete = 0 < self.end <= self.indexed
        return SegmentMark(self.indexed, complete, self.live_count, self.live_bytes, self.dead_bytes)


def decode_mark(data: bytes) -> SegmentMark:
    """The mark that a row of `segments` says."""
    return _Segment(data).mark()


def pack_tail(modality: bytes, class_ids: Iterable[int]) -> bytes:
    """Modality and SOP classes as they end a row of `counts`."""
    modality = modality[:255]
    return bytes((len(modality),)) + modality + b"".join([keys.U32.pack(class_id) for class_id in sorted(class_ids)])


def unpack_tail(data: bytes, at: int) -> tuple[bytes, tuple[int, ...]]:
    """Modality and name ids of the SOP classes."""
    end = at + 1 + data[at]
    return data[at + 1 : end], struct.unpack_from(f"<{(len(data) - end) // 4}I", data, end)


class _Remembered:
    """What this process knows of a series and one statement in it."""

    __slots__ = ("classes", "counts_key", "digest", "first", "prefix", "series_id", "tail")

    def __init__(self, study_id: bytes, series_id: bytes, digest: bytes, first: bytes) -> None:
        self.counts_key = study_id + series_id
        self.prefix = series_id
        self.series_id = keys.ID.unpack(series_id)[0]
        self.digest = digest
        self.first = first
        """The statement's order is this one or an earlier one."""
        self.tail = b""
        self.classes: frozenset[int] = frozenset()


class Writer:
    """Applies batches; one per process, any thread."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._series: dict[tuple[bytes, bytes, bytes, bytes], _Remembered] = {}
        self._names: dict[bytes, int] = {}
        self._epoch: bytes | None = None
        # Of the running batch:
        self._counts: dict[bytes, _Counts] = {}
        self._segments: dict[int, _Segment] = {}
        self._dirty_series: dict[bytes, bytes] = {}
        self._dirty_studies: set[bytes] = set()
        self._dirty_patients: set[bytes] = set()

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
        self._dirty_series.clear()
        self._dirty_studies.clear()
        self._dirty_patients.clear()

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
        counts = self._counts
        segments = self._segments
        counts.clear()
        segments.clear()
        outcomes = [self._add(txn, entry) for entry in entries]
        for tombstone in tombstones:
            self._bury(txn, tombstone)
        if self._dirty_series or self._dirty_patients:
            self._refresh(txn)
        for counts_key, row in counts.items():
            txn.put(counts_key, keys.COUNTS.pack(row.count, row.next, row.bytes) + row.tail, db=environment.counts)
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
        segment_id, offset, key_length, meta_length, payload_length, payload_crc = position
        order = _order(entry.stamp, segment_id, offset)
        sop_key = entry.sop_instance_uid
        if not 0 < len(sop_key) <= 128 or b"\0" in sop_key:
            sop_key = keys.bounded(sop_key)
        known = self._series.get((entry.character_set, entry.patient, entry.study, entry.series))
        if known is None or order < known.first:
            if txn.get(sop_key, db=environment.sop_uids) is not None:
                return self._tell(txn, sop_key, _told_of(entry, order))
            known = self._settle(txn, entry, order)
        row = self._counts.get(known.counts_key)
        if row is None:
            row = self._load_counts(txn, known.counts_key)
        where = _pair(known.series_id, row.next)
        if not txn.put(sop_key, where, overwrite=False, db=environment.sop_uids):
            return self._tell(txn, sop_key, _told_of(entry, order))
        self._insert(txn, entry, known, row, where)
        segment = self._segments.get(segment_id)
        if segment is None:
            segment = self._segment(txn, segment_id)
        record_bytes = (HEADER_BYTES + key_length + meta_length + payload_length + 7) & ~7
        segment.cover(offset, offset + record_bytes)
        segment.live_count += 1
        segment.live_bytes += record_bytes
        return Outcome.STORED

    def _insert(self, txn: Any, entry: Entry, known: _Remembered, row: _Counts, where: bytes) -> None:
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
            return _OUTCOMES[state or State.CURRENT]
        told.append(news)
        told.sort(key=lambda record: record.order)
        states = fold(told)
        self._move(txn, sop_key, where or b"", told, states)
        self._cover(txn, news.position)
        for record in told:
            self._account(txn, record, states[record.order])
        state = states[news.order]
        return Outcome.REPLACED if state == State.CURRENT and where else _OUTCOMES[state]

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
                txn.put(history_key, _pack_history(record, state), db=environment.history)
        txn.put(sop_key, where, db=environment.sop_uids)

    def _promote(self, txn: Any, entry: Entry) -> bytes:
        order = _order(entry.stamp, entry.position.segment_id, entry.position.offset)
        known = self._settle(txn, entry, order)
        row = self._load_counts(txn, known.counts_key)
        where = _pair(known.series_id, row.next)
        self._insert(txn, entry, known, row, where)
        return where

    def _remove(self, txn: Any, where: bytes) -> None:
        """Takes an instance out of its series; `_refresh` sees to the rest."""
        environment = self._environment
        value = txn.get(where, db=environment.instances)
        series_id = where[:4]
        study_id = txn.get(series_id, db=environment.series)[:4]
        study_id = keys.ID.pack(keys.U32.unpack(study_id)[0])
        row = self._load_counts(txn, study_id + series_id)
        row.count -= 1
        row.bytes -= keys.INSTANCE.unpack_from(value)[3]
        txn.delete(where, db=environment.instances)
        self._dirty_series[series_id] = study_id

    def _current(self, txn: Any, where: bytes) -> Told:
        """The current record of a UID, with all that it would take to bring it back."""
        environment = self._environment
        value = txn.get(where, db=environment.instances)
        (stamp, segment_id, offset, payload_length, pixel_data_offset, received_ns, payload_crc, meta_length,
         key_length, flags, class_id, syntax_id, title_id, set_id, digest) = keys.INSTANCE.unpack_from(value)  # fmt: skip
        position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
        patient, study, series = self._stated(txn, where[:4], digest)
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
            canonical(value[keys.INSTANCE.size :], read_name(txn, environment, set_id)),
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

    def _stated(self, txn: Any, series_id: bytes, digest: bytes) -> tuple[bytes, bytes, bytes]:
        """The three blobs of a series statement."""
        environment = self._environment
        row = txn.get(series_id, db=environment.series)
        statement = txn.get(series_id + digest, db=environment.series_statements)
        content = statement[keys.ORDER_BYTES + keys.DIGEST_BYTES :]
        series = unpack_content(content)[0] if content else _uid_row_facts(row).blobs()[0]
        study_id = keys.ID.pack(keys.U32.unpack_from(row)[0])
        study_digest = statement[keys.ORDER_BYTES : keys.ORDER_BYTES + keys.DIGEST_BYTES]
        content = txn.get(study_id + study_digest, db=environment.study_statements)[keys.ORDER_BYTES :]
        if content:
            patient, study = unpack_content(content)
        else:
            patient, study = _uid_row_facts(txn.get(study_id, db=environment.studies), PART_COUNT_STUDY).blobs()
        return patient, study, series

    # -- what is new above the instance ---------------------------------------------------------

    def _settle(self, txn: Any, entry: Entry, order: bytes) -> _Remembered:
        """Makes sure that patient, study, series and both statements are there, and remembers the series."""
        environment = self._environment
        stated = Statement.of(entry)
        study_id = self._settle_study(txn, stated, order)
        series_key = keys.bounded(stated.series_instance_uid) + b"\0" + study_id
        series_id = txn.get(series_key, db=environment.series_uids)
        if series_id is None:
            series_id = self._next_id(txn, "series")
            txn.put(series_key, series_id, db=environment.series_uids)
            row = _UidRow(keys.ID.unpack(study_id)[0], 0, stated.series_instance_uid, Facts.empty(PART_COUNT_SERIES))
            self._counts[study_id + series_id] = _Counts(0, 1, 0, pack_tail(b"", ()))
        else:
            row = _UidRow.decode(txn.get(series_id, db=environment.series))
        before = row.facts.values(0)
        if self._state(
            txn,
            environment.series_statements,
            series_id,
            stated.series_digest,
            row,
            order,
            stated.study_digest,
            [stated.series],
        ):
            txn.put(series_id, row.encode(), db=environment.series)
            self._series_changed(txn, study_id, series_id, before, row.facts.values(0))
        known = _Remembered(study_id, series_id, stated.series_digest, order)
        if len(self._series) >= REMEMBERED_SERIES_MAX:
            del self._series[next(iter(self._series))]
        self._series[(entry.character_set, entry.patient, entry.study, entry.series)] = known
        return known

    def _settle_study(self, txn: Any, stated: Statement, order: bytes) -> bytes:
        environment = self._environment
        study_key = keys.bounded(stated.study_instance_uid)
        study_id = txn.get(study_key, db=environment.study_uids)
        if study_id is None:
            study_id = self._next_id(txn, "study")
            txn.put(study_key, study_id, db=environment.study_uids)
            row = _UidRow(0, 0, stated.study_instance_uid, Facts.empty(PART_COUNT_STUDY))
        else:
            row = _UidRow.decode(txn.get(study_id, db=environment.studies), PART_COUNT_STUDY)
        before = _study_values(row.facts)
        conflicts = len(row.facts.conflicts)
        content = [stated.patient, stated.study]
        if self._state(
            txn, environment.study_statements, study_id, stated.study_digest, row, order, b"", content
        ):
            self._link_patient(txn, study_id, row)
            txn.put(study_id, row.encode(), db=environment.studies)
            self._search_changed(txn, study_id, before, _study_values(row.facts))
            self._count(txn, keys.META_CONFLICTS, len(row.facts.conflicts) - conflicts)
        return bytes(study_id)

    def _state(
        self,
        txn: Any,
        table: Any,
        owner: bytes,
        digest: bytes,
        row: _UidRow,
        order: bytes,
        above: bytes,
        content: list[bytes],
    ) -> bool:
        """Adds a statement to an entity, or gives it an earlier order; whether that changed the row."""
        statement_key = owner + digest
        known = txn.get(statement_key, db=table)
        if known is not None and known[: keys.ORDER_BYTES] <= order:
            return False
        if known is not None:
            txn.put(statement_key, order + known[keys.ORDER_BYTES :], db=table)
        else:
            if row.statements == 1:
                self._write_out(txn, table, owner, len(above), row.facts)
            row.statements += 1
            txn.put(statement_key, order + above + (pack_content(*content) if row.statements > 1 else b""), db=table)
        row.facts.observe(order, content)
        return True

    def _write_out(self, txn: Any, table: Any, owner: bytes, above_bytes: int, facts: Facts) -> None:
        """Gives the only statement its content, before it is no longer the only one."""
        for key, value in scan_prefix(txn, table, owner):
            txn.put(key, value[: keys.ORDER_BYTES + above_bytes] + pack_content(*facts.blobs()), db=table)
            return

    def _link_patient(self, txn: Any, study_id: bytes, row: _UidRow) -> None:
        """Puts the study under the patient that its facts name, and tells the patient what they say."""
        environment = self._environment
        values = row.facts.values(0)
        key = keys.patient_key(
            values.get(tags.PatientID, b"").strip(b" "), values.get(tags.IssuerOfPatientID, b"").strip(b" "), row.uid
        )
        patient_id = txn.get(key, db=environment.patient_keys)
        if patient_id is None:
            patient_id = self._next_id(txn, "patient")
            txn.put(key, patient_id, db=environment.patient_keys)
            patient = _PatientRow(key, Facts.empty(PART_COUNT_PATIENT))
            before = b""
        else:
            before = txn.get(patient_id, db=environment.patients)
            patient = _PatientRow.decode(before)
        number = keys.ID.unpack(patient_id)[0]
        if row.owner != number:
            if row.owner:
                self._unlink_patient(txn, study_id, row.owner)
            row.owner = number
            txn.put(patient_id + study_id, b"", db=environment.patient_studies)
        patient.facts.observe_facts(row.facts)
        after = patient.encode()
        if after != before:
            txn.put(patient_id, after, db=environment.patients)

    def _unlink_patient(self, txn: Any, study_id: bytes, patient: int) -> None:
        patient_id = keys.ID.pack(patient)
        txn.delete(patient_id + study_id, db=self._environment.patient_studies)
        self._dirty_patients.add(patient_id)

    def _series_changed(
        self, txn: Any, study_id: bytes, series_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]
    ) -> None:
        self._search_changed(txn, series_id, before, after)
        modality = after.get(tags.Modality, b"")
        row = self._load_counts(txn, study_id + series_id)
        known, class_ids = unpack_tail(row.tail, 0)
        if modality[:255] != known:
            row.tail = pack_tail(modality, class_ids)

    def _search_changed(
        self, txn: Any, owner: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]
    ) -> None:
        """Brings the keys of `search` from one set of facts to another."""
        table = self._environment.search
        old = matching.search_keys(before, owner)
        new = matching.search_keys(after, owner)
        for key in old - new:
            txn.delete(key, db=table)
        for key in new - old:
            txn.put(key, b"", db=table)

    # -- what is left after a removal -----------------------------------------------------------

    def _refresh(self, txn: Any) -> None:
        """Makes anew what depends on instances that are gone, from the series up; and ends what all remember."""
        for series_id, study_id in self._dirty_series.items():
            self._refresh_series(txn, series_id, study_id)
            self._dirty_studies.add(study_id)
        for study_id in self._dirty_studies:
            self._refresh_study(txn, study_id)
        for patient_id in self._dirty_patients:
            self._refresh_patient(txn, patient_id)
        self._dirty_series.clear()
        self._dirty_studies.clear()
        self._dirty_patients.clear()
        self._count(txn, keys.META_EPOCH, 1)
        self._series.clear()

    def _refresh_series(self, txn: Any, series_id: bytes, study_id: bytes) -> None:
        environment = self._environment
        firsts: dict[bytes, bytes] = {}
        class_ids = set()
        for _, value in scan_prefix(txn, environment.instances, series_id):
            fields = keys.INSTANCE.unpack_from(value)
            order = _order(*fields[:3])
            digest = fields[14]
            if digest not in firsts or order < firsts[digest]:
                firsts[digest] = order
            class_ids.add(fields[10])
        row = _UidRow.decode(txn.get(series_id, db=environment.series))
        before = row.facts.values(0)
        if not firsts:
            self._drop_prefix(txn, environment.series_statements, series_id)
            self._search_changed(txn, series_id, before, {})
            txn.delete(keys.bounded(row.uid) + b"\0" + study_id, db=environment.series_uids)
            txn.delete(series_id, db=environment.series)
            txn.delete(study_id + series_id, db=environment.counts)
            self._counts.pop(study_id + series_id, None)
            return
        self._restate(txn, environment.series_statements, series_id, row, firsts, keys.DIGEST_BYTES)
        txn.put(series_id, row.encode(), db=environment.series)
        counts = self._load_counts(txn, study_id + series_id)
        counts.tail = pack_tail(before.get(tags.Modality, b""), class_ids)
        self._series_changed(txn, study_id, series_id, before, row.facts.values(0))

    def _refresh_study(self, txn: Any, study_id: bytes) -> None:
        environment = self._environment
        row = _UidRow.decode(txn.get(study_id, db=environment.studies), PART_COUNT_STUDY)
        before = _study_values(row.facts)
        conflicts = len(row.facts.conflicts)
        firsts: dict[bytes, bytes] = {}
        for series_id in self._series_of(txn, study_id):
            for _, value in scan_prefix(txn, environment.series_statements, series_id):
                order = value[: keys.ORDER_BYTES]
                digest = value[keys.ORDER_BYTES : keys.ORDER_BYTES + keys.DIGEST_BYTES]
                if digest not in firsts or order < firsts[digest]:
                    firsts[digest] = order
        if not firsts:
            self._drop_prefix(txn, environment.study_statements, study_id)
            self._search_changed(txn, study_id, before, {})
            self._unlink_patient(txn, study_id, row.owner)
            txn.delete(keys.bounded(row.uid), db=environment.study_uids)
            txn.delete(study_id, db=environment.studies)
            self._count(txn, keys.META_CONFLICTS, -conflicts)
            return
        self._restate(txn, environment.study_statements, study_id, row, firsts, 0)
        self._dirty_patients.add(keys.ID.pack(row.owner))
        self._link_patient(txn, study_id, row)
        txn.put(study_id, row.encode(), db=environment.studies)
        self._search_changed(txn, study_id, before, _study_values(row.facts))
        self._count(txn, keys.META_CONFLICTS, len(row.facts.conflicts) - conflicts)

    def _series_of(self, txn: Any, study_id: bytes) -> list[bytes]:
        """The series ids of a study, those that this batch has added included."""
        found = {key[4:] for key, _ in scan_prefix(txn, self._environment.counts, study_id)}
        found.update(key[4:] for key in self._counts if key[:4] == study_id)
        return sorted(found)

    def _restate(
        self, txn: Any, table: Any, owner: bytes, row: _UidRow, firsts: Mapping[bytes, bytes], above_bytes: int
    ) -> None:
        """Leaves the statements of `firsts`, with their orders, and makes the facts from them."""
        head_bytes = keys.ORDER_BYTES + above_bytes
        part_count = len(row.facts.parts)
        only = row.facts.blobs()
        statements = list(scan_prefix(txn, table, owner))
        facts = Facts.empty(part_count)
        for key, value in statements:
            digest = key[len(owner) :]
            if digest not in firsts:
                txn.delete(key, db=table)
                continue
            content = unpack_content(value[head_bytes:]) if len(value) > head_bytes else only
            facts.observe(firsts[digest], content)
            kept = b"" if len(firsts) == 1 else pack_content(*content)
            txn.put(key, firsts[digest] + value[keys.ORDER_BYTES : head_bytes] + kept, db=table)
        row.statements = len(firsts)
        row.facts = facts

    def _refresh_patient(self, txn: Any, patient_id: bytes) -> None:
        environment = self._environment
        patient = _PatientRow.decode(txn.get(patient_id, db=environment.patients))
        patient.facts = Facts.empty(PART_COUNT_PATIENT)
        is_empty = True
        for key, _ in scan_prefix(txn, environment.patient_studies, patient_id):
            study = _UidRow.decode(txn.get(key[4:], db=environment.studies), PART_COUNT_STUDY)
            patient.facts.observe_facts(study.facts)
            is_empty = False
        if is_empty:
            txn.delete(patient_id, db=environment.patients)
            txn.delete(patient.key, db=environment.patient_keys)
        else:
            txn.put(patient_id, patient.encode(), db=environment.patients)

    def _drop_prefix(self, txn: Any, table: Any, prefix: bytes) -> None:
        for key, _ in list(scan_prefix(txn, table, prefix)):
            txn.delete(key, db=table)

    # -- small rows -----------------------------------------------------------------------------

    def _load_counts(self, txn: Any, counts_key: bytes) -> _Counts:
        row = self._counts.get(counts_key)
        if row is None:
            data = txn.get(counts_key, db=self._environment.counts)
            if data is None:
                raise IndexError_("a series has no counts: the index is damaged; rebuild it")
            row = _Counts(*keys.COUNTS.unpack_from(data), tail=data[keys.COUNTS.size :])
            self._counts[counts_key] = row
        return row

    def _segment(self, txn: Any, segment_id: int) -> _Segment:
        segment = self._segments.get(segment_id)
        if segment is None:
            segment = _Segment(txn.get(keys.U64_KEY.pack(segment_id), db=self._environment.segments))
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
            segment.live_count -= before in _LIVE
            if before in _LIVE:
                segment.live_bytes -= record_bytes
            else:
                segment.dead_bytes -= record_bytes
        segment.live_count += state in _LIVE
        if state in _LIVE or state == State.TOMBSTONE:
            segment.live_bytes += record_bytes
        else:
            segment.dead_bytes += record_bytes
        self._count(txn, keys.META_VERSIONS, (state == State.VERSION) - (before == State.VERSION))

    def _count(self, txn: Any, word: bytes, change: int) -> None:
        if change:
            table = self._environment.meta
            txn.put(word, keys.U64.pack(read_count(txn, self._environment, word) + change), db=table)

    def _next_id(self, txn: Any, what: str) -> bytes:
        word = keys.META_NEXT[what]
        table = self._environment.meta
        data = txn.get(word, db=table)
        number = keys.U32.unpack(data)[0] if data else 1
        if number == 0xFFFFFFFF:
            raise IndexError_(f"the index has given out every id of its kind ({what}): rebuild it")
        txn.put(word, keys.U32.pack(number + 1), db=table)
        return keys.ID.pack(number)

    def _name(self, txn: Any, text: bytes) -> int:
        """The id that stands for a text; a new one if the text is new."""
        table = self._environment.names
        key = b"\x01" + keys.bounded(text)
        data = txn.get(key, db=table)
        if data is None:
            number = keys.ID.unpack(self._next_id(txn, "name"))[0]
            txn.put(key, keys.U32.pack(number), db=table)
            txn.put(b"\0" + keys.U32.pack(number), text, db=table)
        else:
            number = keys.U32.unpack(data)[0]
        if len(self._names) >= REMEMBERED_NAMES_MAX:
            self._names.clear()
        self._names[text] = number
        return int(number)


# rows --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _UidRow:
    """A row of `studies` or `series`."""

    owner: int
    """The patient's or study's id."""
    statements: int
    uid: bytes
    facts: Facts

    @classmethod
    def decode(cls, data: bytes, part_count: int = PART_COUNT_SERIES) -> _UidRow:
        owner, statements, uid_length = keys.UID_HEAD.unpack_from(data)
        at = keys.UID_HEAD.size + uid_length
        facts = Facts.decode(data, at)
        if len(facts.parts) != part_count:
            raise IndexError_("a row has another number of parts than it should: the index is damaged; rebuild it")
        return cls(owner, statements, data[keys.UID_HEAD.size : at], facts)

    def encode(self) -> bytes:
        uid = self.uid[:0xFFFF]
        return keys.UID_HEAD.pack(self.owner, self.statements, len(uid)) + uid + self.facts.encode()


@dataclass(slots=True)
class _PatientRow:
    """A row of `patients`."""

    key: bytes
    facts: Facts

    @classmethod
    def decode(cls, data: bytes) -> _PatientRow:
        (length,) = keys.KEY_HEAD.unpack_from(data)
        at = keys.KEY_HEAD.size + length
        return cls(data[keys.KEY_HEAD.size : at], Facts.decode(data, at))

    def encode(self) -> bytes:
        return keys.KEY_HEAD.pack(len(self.key)) + self.key + self.facts.encode()


def _uid_row_facts(data: bytes, part_count: int = PART_COUNT_SERIES) -> Facts:
    return _UidRow.decode(data, part_count).facts


def _study_values(facts: Facts) -> dict[int, bytes]:
    return facts.values(0) | facts.values(1)


def _told_of(entry: Entry, order: bytes) -> Told:
    return Told(
        order, None, Kind.INSTANCE, entry.flags, entry.position, entry.transfer_syntax_uid, entry.pack_meta()
    )


def _pack_history(record: Told, state: State) -> bytes:
    position = record.position
    return (
        keys.HISTORY.pack(
            state,
            record.kind,
            record.flags,
            position.payload_length,
            position.payload_crc,
            position.meta_length,
            position.key_length,
        )
        + record.meta
    )


# reading, shared with `search` ---------------------------------------------------------------------


def scan_prefix(txn: Any, table: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows whose key begins with `prefix`, in key order. Do not write to the table meanwhile."""
    with txn.cursor(db=table) as cursor:
        if not cursor.set_range(prefix):
            return
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key, value


def read_history(txn: Any, environment: Environment, sop_key: bytes) -> Iterator[Told]:
    """Every record of a UID but its current one, in their order."""
    prefix = sop_key + b"\0"
    for key, value in list(scan_prefix(txn, environment.history, prefix)):
        order = key[len(prefix) :]
        _, segment_id, offset = keys.ORDER.unpack(order)
        state, kind, flags, payload_length, payload_crc, meta_length, key_length = keys.HISTORY.unpack_from(value)
        position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
        meta = value[keys.HISTORY.size :]
        syntax = Entry.unpack_meta(position, flags, 0, b"", meta).transfer_syntax_uid if meta else b""
        yield Told(order, State(state), kind, flags, position, syntax, meta)


def read_name(txn: Any, environment: Environment, number: int) -> bytes:
    """The text that a name id stands for."""
    text = txn.get(b"\0" + keys.U32.pack(number), db=environment.names)
    if text is None:
        raise IndexError_(f"name {number} is missing: the index is damaged; rebuild it")
    return bytes(text)


def read_count(txn: Any, environment: Environment, word: bytes) -> int:
    """A number of `meta`."""
    data = txn.get(word, db=environment.meta)
    return int(keys.U64.unpack(data)[0]) if data else 0
