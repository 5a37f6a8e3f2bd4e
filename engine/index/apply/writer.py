"""Applies records of all kinds to the index, a batch at a time, and notes how far each segment has been applied.

There are two paths. The steady one: the UID is new, and this process has seen its series with the same statement; it
takes four puts. All other records go through `versions` (a known UID), `entities` (a new series or statement),
`tombstones`, `trash`, `other_records` (holds, the quarantine), `corrections` or `relocation` (copies). A process's
cache of series stays valid until the epoch changes; every removal of an instance changes it.

`keys` draws the format of the tables. Call `apply` for a durable instance only after the log has been synced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from engine.dicom import charset
from engine.errors import CatalogBehind
from engine.index.apply import positions
from engine.index.apply.accounts import Accounts
from engine.index.apply.corrections import Corrections
from engine.index.apply.entities import CachedSeries, Entities
from engine.index.apply.first_senders import FirstSender
from engine.index.apply.history import (
    newest_drop,
    newest_stamp,
    order_and_place,
    pack_history,
    read_history,
    read_kept_versions,
    record_of,
)
from engine.index.apply.other_records import OtherRecords
from engine.index.apply.tombstones import Tombstones
from engine.index.apply.trash import Trash
from engine.index.apply.versions import OUTCOMES, Fold, LiveRecords, State, UidRecord, fold, in_order
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn, present
from engine.index.format import keys
from engine.index.format.entry import Correction, Entry, Hold, Item, Quarantined, Tombstone
from engine.index.format.rows import Counts, pack_tail, read_name, unpack_tail
from engine.index.format.statements import canonical
from engine.index.format.trash_record import TrashRecord
from engine.index.format.types import Outcome, SegmentMark
from engine.storage.record import Kind, Position, record_bytes_of
from engine.storage.segment import FIRST_RECORD

CACHED_SERIES_MAX = 2048
"""Series that a process caches with their blobs: some 4 MiB."""
CACHED_NAMES_MAX = 4096

_pair = keys.PAIR.pack
_order = keys.ORDER.pack
_instance = keys.INSTANCE.pack

Result = TypeVar("Result")


@lru_cache(maxsize=1024)
def _with_class(tail: bytes, class_id: int) -> tuple[bytes, frozenset[int]]:
    """The end of a row of `counts` with one more SOP class, and all classes in it. Cached: few series differ here."""
    modality, class_ids = unpack_tail(tail, 0)
    classes = frozenset((*class_ids, class_id))
    return pack_tail(modality, classes), classes


class _NotWanted(Exception):
    """Ends a transaction that is not to be committed."""


class Writer:
    """Applies batches; one per process, any thread."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.entities = Entities(environment)
        self.counters = self.entities.counters
        self.accounts = Accounts(environment)
        self.other_records = OtherRecords(environment, self.accounts)
        self.corrections = Corrections(environment, self.accounts, self.entities)
        self.tombstones = Tombstones(environment, self.entities, self.accounts, self.other_records, self.apply_record)
        self.trash = Trash(environment, self.accounts, self.apply_record)
        self._lock = threading.Lock()
        self._series: dict[tuple[bytes, bytes, bytes, bytes], CachedSeries] = {}
        self._names: dict[bytes, int] = {}
        self._epoch: bytes | None = None
        self._last_id = -1
        """The number of this writer's last transaction."""

    def apply(
        self, items: Sequence[Item], marks: Mapping[int, SegmentMark], covered: Mapping[int, int]
    ) -> list[Outcome]:
        """See `Catalog.apply`."""

        def work(txn: WriteTxn) -> list[Outcome]:
            outcomes = self.add_items(txn, items)
            self._mark(txn, marks, covered)
            return outcomes

        return self.batch(work)

    def apply_group(
        self,
        slot: int,
        number: int,
        items: Sequence[Item],
        marks: Mapping[int, SegmentMark],
        covered: Mapping[int, int],
    ) -> bool:
        """See `Catalog.apply_group`."""

        def work(txn: WriteTxn) -> bool:
            last, newest = positions.read(txn, self.environment, slot)
            if number > last + 1:
                raise CatalogBehind(f"group {number} of slot {slot} follows group {last} here", number - last - 1)
            if number <= last:
                return False
            self.add_items(txn, items)
            self._mark(txn, marks, covered)
            newest = max([newest, *(item.stamp for item in items)])
            positions.write(txn, self.environment, slot, number, newest)
            return True

        return self.batch(work)

    def skip_groups(self, slot: int, number: int) -> None:
        """See `Catalog.skip_groups`."""

        def work(txn: WriteTxn) -> None:
            last, newest = positions.read(txn, self.environment, slot)
            positions.write(txn, self.environment, slot, max(last, number), newest)

        self.batch(work)

    def add_items(self, txn: WriteTxn, items: Sequence[Item]) -> list[Outcome]:
        """Applies records of any kind; returns one outcome for each instance."""
        outcomes: list[Outcome] = []
        tombstones: list[Tombstone] = []  # applied together, in the order of their UIDs
        for item in items:
            match item:
                case Entry():
                    outcomes.append(self.add(txn, item))
                case Tombstone():
                    tombstones.append(item)
                case Hold():
                    self.other_records.hold(txn, item)
                case Quarantined():
                    self.other_records.quarantine(txn, item)
                case Correction():
                    self.corrections.apply(txn, item)
                case TrashRecord():
                    self.trash.apply(txn, item)
        if tombstones:
            self.tombstones.apply(txn, tombstones)
        return outcomes

    def _mark(self, txn: WriteTxn, marks: Mapping[int, SegmentMark], covered: Mapping[int, int]) -> None:
        for segment_id, end in covered.items():
            self.accounts.segment(txn, segment_id).cover(FIRST_RECORD, end)
        for segment_id, mark in marks.items():
            if mark.sealed:
                self.accounts.segment(txn, segment_id).end = mark.indexed_bytes

    def batch(self, work: Callable[[WriteTxn], Result]) -> Result:
        """Runs `work` in a write transaction, all or nothing, between the beginning and the end of a batch."""
        with self._lock:
            return self.environment.write(lambda txn: self._batch(txn, work), self._forget)

    def try_batch(
        self, work: Callable[[WriteTxn], Result], is_wanted: Callable[[], bool] | None = None
    ) -> tuple[Result] | None:
        """Does the same for a caller that must not wait. Returns None when another writer is at work.

        `is_wanted`, called before the commit, says whether to commit; if not, nothing is written, and None is returned.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self.environment.try_write(lambda txn: self._batch(txn, work, is_wanted), self._forget)
        except _NotWanted:
            return None
        finally:
            self._lock.release()

    def is_alone(self) -> bool:
        """Whether nobody else has written since this writer did."""
        return self.environment.last_transaction_id() == self._last_id

    def _batch(
        self, txn: WriteTxn, work: Callable[[WriteTxn], Result], is_wanted: Callable[[], bool] | None = None
    ) -> Result:
        environment = self.environment
        epoch = txn.get(keys.META_EPOCH, db=environment.meta)
        if epoch != self._epoch:
            self._series.clear()
            self.entities.forget_studies()
            self._epoch = epoch
        self.accounts.begin()
        self.entities.begin()
        self.entities.overlay.begin(txn)
        result = work(txn)
        if self.entities.needs_refresh:
            self.entities.refresh(txn)
            self._series.clear()
        self.entities.write(txn)
        self.accounts.write(txn)
        if is_wanted is not None and not is_wanted():
            raise _NotWanted
        self._last_id = txn.id()
        return result

    def _forget(self) -> None:
        """Empties the caches after a failed transaction, since they may hold what it wrote."""
        self._series.clear()
        self._names.clear()
        self._epoch = None
        self.entities.forget()

    # -- one record -----------------------------------------------------------------------------

    def add(self, txn: WriteTxn, entry: Entry) -> Outcome:
        """Applies an instance."""
        environment = self.environment
        position = entry.position
        segment_id, offset, key_length, meta_length, payload_length, payload_crc = position
        order = _order(entry.stamp, payload_crc << 32 | payload_length & 0xFFFFFFFF)
        sop_key = entry.sop_instance_uid
        if not 0 < len(sop_key) <= 128 or b"\0" in sop_key:
            sop_key = keys.bounded(sop_key)
        series = self._series.get((entry.character_set, entry.patient, entry.study, entry.series))
        if series is None or order <= series.first:
            if txn.get(sop_key, db=environment.sop_uids) is not None:
                return self.apply_record(txn, sop_key, record_of(entry))
            series = self._settle(txn, entry, order)
        row = self.counters.series.get(series.counts_key) or self.counters.load_series(txn, series.counts_key)
        where = _pair(series.series_id, row.next)
        if not txn.put(sop_key, where, overwrite=False, db=environment.sop_uids):
            return self.apply_record(txn, sop_key, record_of(entry))
        self._insert(txn, entry, series, row, where, order)
        segment = self.accounts.segments.get(segment_id)
        if segment is None:
            segment = self.accounts.segment(txn, segment_id)
        record_bytes = record_bytes_of(key_length, meta_length, payload_length)
        segment.cover(offset, offset + record_bytes)
        segment.live_count += 1
        segment.live_bytes += record_bytes
        return Outcome.STORED

    def _settle(self, txn: WriteTxn, entry: Entry, order: bytes) -> CachedSeries:
        """Creates the entry's series where it is missing, and caches it."""
        series = self.entities.settle(txn, entry, order)
        if len(self._series) >= CACHED_SERIES_MAX:
            del self._series[next(iter(self._series))]
        self._series[(entry.character_set, entry.patient, entry.study, entry.series)] = series
        return series

    def _insert(
        self, txn: WriteTxn, entry: Entry, series: CachedSeries, row: Counts, where: bytes, order: bytes
    ) -> None:
        """Puts the instance's row; the UID points there already."""
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
            series.digest,
        )
        txn.put(where, value + entry.instance, db=self.environment.instances)
        row.count += 1
        row.next += 1
        row.bytes += payload_length
        self._note_class(series, row, class_id)
        if order <= series.first:
            self._note_first(txn, series, FirstSender(order, title_id), is_only=row.next == 2)

    def _note_first(self, txn: WriteTxn, series: CachedSeries, sender: FirstSender, *, is_only: bool) -> None:
        """Notes an instance that is the first one of its statement, and so perhaps of its series."""
        study_id = series.counts_key[:4]
        self.entities.access_tags.note_instance(txn, study_id, series.prefix, sender, is_only=is_only)

    def _note_class(self, series: CachedSeries, row: Counts, class_id: int) -> None:
        """Adds the SOP class to the series' row if it is missing."""
        if row.tail != series.tail or class_id not in series.classes:
            row.tail, series.classes = _with_class(row.tail, class_id)
            series.tail = row.tail

    # -- for `bulk`, which makes the rows of many instances itself ------------------------------

    def place_for(self, txn: WriteTxn, entry: Entry) -> tuple[CachedSeries, Counts, bytes]:
        """Prepares the series of a new instance. Returns the cached series, its row in `counts`, and the common end of
        all rows of `instances` with the same texts."""
        order = _order(entry.stamp, keys.tie_of(entry.position.payload_length, entry.position.payload_crc))
        series = self._series.get((entry.character_set, entry.patient, entry.study, entry.series))
        if series is None or order <= series.first:
            series = self._settle(txn, entry, order)
        row = self.counters.load_series(txn, series.counts_key)
        texts = (entry.sop_class_uid, entry.transfer_syntax_uid, entry.calling_ae_title, entry.character_set)
        ids = [self._names.get(text) or self._name(txn, text) for text in texts]
        self._note_class(series, row, ids[0])
        if order <= series.first:
            self._note_first(txn, series, FirstSender(order, ids[2]), is_only=False)
        return series, row, keys.INSTANCE_END.pack(*ids, series.digest)

    # -- several records of one UID -------------------------------------------------------------

    def apply_record(self, txn: WriteTxn, sop_key: bytes, record: UidRecord | None) -> Outcome:
        """Applies the fold rule to all records of a UID, and to `record` if there is one."""
        where = txn.get(sop_key, db=self.environment.sop_uids)
        current = self._current(txn, where) if where else None
        if record is None:
            self._fold(txn, sop_key, where or b"", current, [])
            return Outcome.STORED
        self.accounts.cover(txn, record.position)
        before = self._known_state(txn, sop_key, current, record)
        if before is not None:
            return OUTCOMES[before]
        if record.kind == Kind.INSTANCE and self._is_newest(txn, sop_key, current, record):
            state = self._take(txn, sop_key, where or b"", current, record)
        else:
            state = self._fold(txn, sop_key, where or b"", current, [record]).states[record.key]
        if state != State.CURRENT or current is None:
            return OUTCOMES[state]
        # The same bytes with an earlier stamp, from another process: only the place changes.
        return Outcome.DUPLICATE if record.same_bytes(current) else Outcome.REPLACED

    def apply_records(self, txn: WriteTxn, sop_key: bytes, entries: Sequence[Entry]) -> None:
        """Does the same for many records of one UID at once."""
        where = txn.get(sop_key, db=self.environment.sop_uids)
        current = self._current(txn, where) if where else None
        for entry in entries:
            self.accounts.cover(txn, entry.position)
        records = {record.key: record for record in map(record_of, entries)}
        unknown = [one for one in records.values() if self._known_state(txn, sop_key, current, one) is None]
        if unknown:
            self._fold(txn, sop_key, where or b"", current, unknown)

    def _known_state(self, txn: ReadTxn, sop_key: bytes, current: UidRecord | None, record: UidRecord) -> State | None:
        """The state of a record that has been applied before."""
        if current is not None and current.key == record.key:
            return State.CURRENT
        value = txn.get(sop_key + b"\0" + record.key, db=self.environment.history)
        return State(value[0]) if value is not None else None

    def _is_newest(self, txn: ReadTxn, sop_key: bytes, current: UidRecord | None, record: UidRecord) -> bool:
        """Whether all other records of the UID are older: nearly always."""
        environment = self.environment
        return (
            (current is None or current.stamp < record.stamp)
            and newest_stamp(txn, environment.history, sop_key) < record.stamp
            and newest_drop(txn, environment, sop_key) < record.stamp
        )

    def _take(self, txn: WriteTxn, sop_key: bytes, where: bytes, current: UidRecord | None, record: UidRecord) -> State:
        """Applies the newest record of a UID. Leaves dead records and versions with other bytes alone: the rule does
        not depend on them."""
        position = record.position
        tie = keys.tie_of(position.payload_length, position.payload_crc)
        others = list(read_kept_versions(txn, self.environment, sop_key, tie))
        records = [each for each in (current, *others, record) if each is not None]
        live = LiveRecords(current, others)
        live.take(record)
        states = dict.fromkeys((each.key for each in records), State.SUPERSEDED)
        states[record.key] = State.DUPLICATE
        states |= dict.fromkeys((each.key for each in live.versions.values()), State.VERSION)
        if live.current is not None:
            states[live.current.key] = State.CURRENT
        self._move(txn, sop_key, where, records, Fold(states, {}))
        return states[record.key]

    def _fold(
        self, txn: WriteTxn, sop_key: bytes, where: bytes, current: UidRecord | None, new_records: Sequence[UidRecord]
    ) -> Fold:
        """Applies the rule to every record of a UID, in any order of arrival."""
        records = read_history(txn, self.environment, sop_key)
        if current is not None:
            records.append(current)
        records = in_order([*records, *new_records])
        result = fold(records)
        self._move(txn, sop_key, where, records, result)
        return result

    def apply_copy(self, txn: WriteTxn, sop_key: bytes, record: UidRecord) -> bool:
        """Does the same for a copy of a record. Returns whether it is new and alive."""
        row_key = sop_key + b"\0" + record.key
        if txn.get(row_key, db=self.environment.history) is not None:
            return False
        where = txn.get(sop_key, db=self.environment.sop_uids)
        row = txn.get(where, db=self.environment.instances) if where else None
        if row is not None and keys.INSTANCE.unpack_from(row)[1:3] == record.position[:2]:
            return False
        self.apply_record(txn, sop_key, record)
        value = txn.get(row_key, db=self.environment.history)
        return value is None or value[0] in (State.VERSION, State.TRASHED)

    def _move(self, txn: WriteTxn, sop_key: bytes, where: bytes, records: Sequence[UidRecord], result: Fold) -> None:
        """Updates the tables where records change their states."""
        environment, states, put_stamps = self.environment, result.states, result.put_stamps
        current = next((record for record in records if states[record.key] == State.CURRENT), None)
        for record in records:
            if record.state == State.CURRENT and record is not current:
                self._remove(txn, where)
                where = b""
        for record in records:
            state = states[record.key]
            history_key = sop_key + b"\0" + record.key
            if record is current:
                txn.delete(history_key, db=environment.history)
                txn.delete(history_key, db=environment.versions)
                where = where or self._promote(txn, record.entry(sop_key))
            elif state != record.state or put_stamps.get(record.key, 0) != record.put_stamp:
                value = pack_history(record, state, put_stamps.get(record.key, 0))
                txn.put(history_key, value, db=environment.history)
                if state == State.VERSION:
                    txn.put(history_key, b"", db=environment.versions)
                elif record.state == State.VERSION:
                    txn.delete(history_key, db=environment.versions)
            if record.kind == Kind.INSTANCE:
                self.accounts.change(txn, record.position, record.state, state)
        self.accounts.count_trash(records, put_stamps)
        txn.put(sop_key, where, db=environment.sop_uids)

    def relocate_current(self, txn: WriteTxn, where: bytes, position: Position) -> None:
        """Gives a current instance the place of a copy of its record."""
        environment = self.environment
        row = present(txn.get(where, db=environment.instances))
        fields = list(keys.INSTANCE.unpack_from(row))
        fields[1:3] = position.segment_id, position.offset
        fields[7:9] = position.meta_length, position.key_length
        txn.put(where, _instance(*fields) + row[keys.INSTANCE.size :], db=environment.instances)

    def _promote(self, txn: WriteTxn, entry: Entry) -> bytes:
        position = entry.position
        order = _order(entry.stamp, keys.tie_of(position.payload_length, position.payload_crc))
        series = self._series.get((entry.character_set, entry.patient, entry.study, entry.series))
        if series is None or order <= series.first:
            series = self._settle(txn, entry, order)
        row = self.counters.load_series(txn, series.counts_key)
        where = _pair(series.series_id, row.next)
        self._insert(txn, entry, series, row, where, order)
        return where

    def _remove(self, txn: WriteTxn, where: bytes) -> None:
        """Removes an instance from its series; `Entities.refresh` updates the rest."""
        environment = self.environment
        value = present(txn.get(where, db=environment.instances))
        fields = keys.INSTANCE.unpack_from(value)
        self.entities.lost_instances(txn, where[:4], 1, fields[3])
        txn.delete(where, db=environment.instances)

    def _current(self, txn: ReadTxn, where: bytes) -> UidRecord:
        """The current record of a UID, with everything needed to restore it."""
        environment = self.environment
        row = present(txn.get(where, db=environment.instances))
        (stamp, segment_id, offset, payload_length, pixel_data_offset, received_ns, payload_crc, meta_length,
         key_length, flags, class_id, syntax_id, title_id, set_id, digest) = keys.INSTANCE.unpack_from(row)  # fmt: skip
        position = Position(segment_id, offset, key_length, meta_length, payload_length, payload_crc)
        patient, study, series = self.entities.statement_blobs(txn, where[:4], digest)
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
            canonical(row[keys.INSTANCE.size :], read_name(txn, environment, set_id), environment.schema),
        )
        return UidRecord(
            order_and_place(stamp, position),
            State.CURRENT,
            Kind.INSTANCE,
            flags,
            position,
            entry.transfer_syntax_uid,
            entry.pack_meta(),
        )

    # -- small rows -----------------------------------------------------------------------------

    def _name(self, txn: WriteTxn, text: bytes) -> int:
        """The id of a text; a new one if the text is new."""
        table = self.environment.names
        key = b"\x01" + keys.bounded(text)
        data = txn.get(key, db=table)
        if data is None:
            number = keys.ID.unpack(self.counters.next_id(txn, "name"))[0]
            txn.put(key, keys.U32.pack(number), db=table)
            txn.put(b"\0" + keys.U32.pack(number), text, db=table)
        else:
            number = keys.U32.unpack(data)[0]
        if len(self._names) >= CACHED_NAMES_MAX:
            self._names.clear()
        self._names[text] = number
        return int(number)
