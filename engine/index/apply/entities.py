"""Patients, studies and series: created by the first instance that names them, removed with the last.

`writer` handles the instances, `format.statements` defines facts. Everything happens within one batch of the writer and
its transaction: `settle` for new instances, `refresh` once at the end for entities that have lost an instance.

    settle     finds or creates the study, the series and the two statements, and updates facts, search keys and patient
    refresh    recomputes facts, orders, Modality and SOP classes from the remaining instances, from the series up, and
               empties the caches of all processes (the epoch). Also for entities whose corrections have changed
    correct    applies the attributes that corrections set (`overlay`) to the facts whenever these change
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from engine.dicom import tags
from engine.index.apply.access_tags import AccessTags
from engine.index.apply.changed_studies import ChangedStudies
from engine.index.apply.counters import Counters
from engine.index.apply.first_senders import FirstSender, earliest
from engine.index.apply.overlay import Overlay, Part, key_of_patient
from engine.index.apply.search_keys import SearchKeys
from engine.index.apply.statement_rows import add_statement, correct_facts, drop_rows, leave_statements
from engine.index.apply.texts import Texts
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn, present
from engine.index.format import keys
from engine.index.format.entry import Entry
from engine.index.format.rows import Counts, PatientRow, UidRow, pack_tail, scan_prefix, unpack_tail
from engine.index.format.statements import (
    PART_COUNT_PATIENT,
    PART_COUNT_SERIES,
    PART_COUNT_STUDY,
    Facts,
    Statement,
    facts_of,
    repeats,
    unpack_content,
)

BLOBS_MAX = 256
"""Statements whose blobs a batch keeps: some 500 KB."""

CACHED_STUDIES_MAX = 1024
"""Studies that a process caches: some 200 KiB."""


class CachedSeries:
    """A cached series with one of its statements."""

    __slots__ = ("classes", "counts_key", "digest", "first", "prefix", "series_id", "tail")

    def __init__(self, study_id: bytes, series_id: bytes, digest: bytes, first: bytes) -> None:
        self.counts_key = study_id + series_id
        self.prefix = series_id
        self.series_id = keys.ID.unpack(series_id)[0]
        self.digest = digest
        self.first = first
        """The order of the statement is this one or an earlier one."""
        self.tail = b""
        self.classes: frozenset[int] = frozenset()


class Entities:
    """Everything above the instances, while a batch changes it."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.counters = Counters(environment)
        self.search_keys = SearchKeys(environment)
        self._changed_studies = ChangedStudies(environment)
        self.access_tags = AccessTags(environment, self._changed_studies)
        self._texts = Texts(environment)
        self.overlay = Overlay(environment)
        self._studies: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
        """Study Instance UID and digest of a statement → study id, and an order: that of the statement is no later."""
        self._blobs: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        """Series id and digest of a statement → its blobs, within a batch."""
        self._dirty_series: dict[bytes, bytes] = {}
        self._dirty_studies: set[bytes] = set()
        self._dirty_patients: set[bytes] = set()

    def begin(self) -> None:
        """Begins a batch."""
        self.counters.begin()
        self.search_keys.begin()
        self.access_tags.begin()
        self._changed_studies.begin()
        self._texts.begin()
        self._blobs.clear()

    def write(self, txn: WriteTxn) -> None:
        """Ends a batch."""
        self.counters.write(txn)
        self._texts.write(txn)
        self.search_keys.write(txn)
        self.access_tags.write(txn)
        self._changed_studies.write(txn)

    def forget(self) -> None:
        """Ends a batch that has failed."""
        self.begin()
        self.forget_studies()
        self._dirty_series.clear()
        self._dirty_studies.clear()
        self._dirty_patients.clear()

    def forget_studies(self) -> None:
        """Empties the cache of studies, because the epoch has changed."""
        self._studies.clear()

    @property
    def needs_refresh(self) -> bool:
        """Whether an entity has lost an instance, or has other corrections than before."""
        return bool(self._dirty_series or self._dirty_studies or self._dirty_patients)

    def lost_instances(self, txn: ReadTxn, series_id: bytes, count: int, payload_bytes: int) -> None:
        """Notes that a series has lost instances."""
        row = present(txn.get(series_id, db=self._environment.series))
        study_id = keys.ID.pack(keys.U32.unpack_from(row)[0])
        counts = self.counters.load_series(txn, study_id + series_id)
        counts.count -= count
        counts.bytes -= payload_bytes
        self._dirty_series[series_id] = study_id

    def touch_study(self, study_id: bytes) -> None:
        """Notes that the corrections of a study have changed."""
        self._dirty_studies.add(study_id)

    def touch_series(self, series_id: bytes, study_id: bytes) -> None:
        """Notes that the corrections of a series have changed."""
        self._dirty_series[series_id] = study_id

    def statement_blobs(self, txn: ReadTxn, series_id: bytes, digest: bytes) -> tuple[bytes, bytes, bytes]:
        """The three blobs of a series statement; read once in a batch, since hundreds of instances share them."""
        known = self._blobs.get(series_id + digest)
        if known is None:
            if len(self._blobs) >= BLOBS_MAX:
                self._blobs.clear()
            known = self._blobs[series_id + digest] = self._read_blobs(txn, series_id, digest)
        return known

    def _read_blobs(self, txn: ReadTxn, series_id: bytes, digest: bytes) -> tuple[bytes, bytes, bytes]:
        environment = self._environment
        row = present(txn.get(series_id, db=environment.series))
        statement = present(txn.get(series_id + digest, db=environment.series_statements))
        content = statement[keys.ORDER_BYTES + keys.DIGEST_BYTES :]
        series = unpack_content(content)[0] if content else _uid_row_facts(row).blobs()[0]
        study_id = keys.ID.pack(keys.U32.unpack_from(row)[0])
        study_digest = statement[keys.ORDER_BYTES : keys.ORDER_BYTES + keys.DIGEST_BYTES]
        content = present(txn.get(study_id + study_digest, db=environment.study_statements))[keys.ORDER_BYTES :]
        if content:
            patient, study = unpack_content(content)
        else:
            patient, study = _uid_row_facts(
                present(txn.get(study_id, db=environment.studies)), PART_COUNT_STUDY
            ).blobs()
        return patient, study, series

    # -- new instances --------------------------------------------------------------------------

    def settle(self, txn: WriteTxn, entry: Entry, order: bytes) -> CachedSeries:
        """Creates the patient, study, series and both statements of an instance where they are missing."""
        environment = self._environment
        statement = Statement.of(entry, environment.schema)
        study_id, first = self._studies.get((statement.study_instance_uid, statement.study_digest), (b"", b""))
        if not study_id or order < first:
            study_id = self._settle_study(txn, statement, order)
        series_key = keys.bounded(statement.series_instance_uid) + b"\0" + study_id
        series_id = txn.get(series_key, db=environment.series_uids)
        if series_id is None and self.overlay.is_empty:
            series_id = self._add_series(txn, series_key, study_id, statement, order)
            return CachedSeries(study_id, series_id, statement.series_digest, order)
        if series_id is None:
            series_id = self.counters.next_id(txn, "series")
            txn.put(series_key, series_id, db=environment.series_uids)
            row = UidRow(keys.ID.unpack(study_id)[0], 0, statement.series_instance_uid, Facts.empty(PART_COUNT_SERIES))
            self.counters.series[study_id + series_id] = Counts(0, 1, 0, pack_tail(b"", ()))
        else:
            row = UidRow.decode(present(txn.get(series_id, db=environment.series)))
        before = row.facts.values(0)
        if add_statement(
            txn,
            environment.series_statements,
            series_id,
            statement.series_digest,
            row,
            order,
            statement.study_digest,
            [statement.series],
        ):
            if not self.overlay.is_empty:
                over = partial(self.overlay.of_series, txn, statement.study_instance_uid, row.uid)
                correct_facts(txn, environment.series_statements, series_id, row, keys.DIGEST_BYTES, over)
            txn.put(series_id, row.encode(), db=environment.series)
            self._series_changed(txn, study_id, series_id, before, row.facts.values(0))
        return CachedSeries(study_id, series_id, statement.series_digest, order)

    def _add_series(
        self, txn: WriteTxn, series_key: bytes, study_id: bytes, statement: Statement, order: bytes
    ) -> bytes:
        """A shortcut for most series, which are new and not corrected; the same result as all steps one by one."""
        environment = self._environment
        series_id = self.counters.next_id(txn, "series")
        txn.put(series_key, series_id, db=environment.series_uids)
        txn.put(series_id + statement.series_digest, order + statement.study_digest, db=environment.series_statements)
        uid = statement.series_instance_uid[:0xFFFF]
        head = keys.UID_HEAD.pack(keys.ID.unpack(study_id)[0], 1, len(uid))
        txn.put(series_id, head + uid + facts_of(order, statement.series), db=environment.series)
        items = statement.items[2]
        self.counters.series[study_id + series_id] = Counts(0, 1, 0, pack_tail(items.get(tags.Modality, b""), ()))
        self.search_keys.add(series_id, items)
        self.access_tags.add_series(study_id, items)
        return series_id

    def _add_study(self, txn: WriteTxn, study_key: bytes, statement: Statement, order: bytes) -> bytes:
        """The same shortcut for a study, and for its patient if that is new or its facts stay the same."""
        environment = self._environment
        study_id = self.counters.next_id(txn, "study")
        self._changed_studies.add_new(study_id)
        txn.put(study_key, study_id, db=environment.study_uids)
        txn.put(study_id + statement.study_digest, order, db=environment.study_statements)
        key = key_of_patient(statement.items[0], statement.study_instance_uid)
        patient_id = txn.get(key, db=environment.patient_keys)
        head = keys.KEY_HEAD.pack(len(key)) + key
        after = head + facts_of(order, statement.patient)
        if patient_id is None:
            patient_id = self.counters.next_id(txn, "patient")
            txn.put(key, patient_id, db=environment.patient_keys)
            txn.put(patient_id, after, db=environment.patients)
        else:
            before = present(txn.get(patient_id, db=environment.patients))
            if not repeats(before, after, len(head)):
                patient = PatientRow.decode(before)
                facts = Facts.empty(PART_COUNT_PATIENT)
                facts.observe(order, [statement.patient])
                patient.facts.observe_facts(facts)
                txn.put(patient_id, patient.encode(), db=environment.patients)
        txn.put(patient_id + study_id, b"", db=environment.patient_studies)
        uid = statement.study_instance_uid[:0xFFFF]
        head = keys.UID_HEAD.pack(keys.ID.unpack(patient_id)[0], 1, len(uid))
        txn.put(study_id, head + uid + facts_of(order, statement.patient, statement.study), db=environment.studies)
        items = statement.items[0] | statement.items[1]
        self.search_keys.add(study_id, items)
        self.access_tags.add_study(study_id, items)
        self._texts.add(txn, study_id, items)
        return study_id

    def _settle_study(self, txn: WriteTxn, statement: Statement, order: bytes) -> bytes:
        environment = self._environment
        study_key = keys.bounded(statement.study_instance_uid)
        study_id = txn.get(study_key, db=environment.study_uids)
        if study_id is None and self.overlay.is_empty:
            study_id = self._add_study(txn, study_key, statement, order)
            self._cache_study(statement, study_id, order)
            return study_id
        if study_id is None:
            study_id = self.counters.next_id(txn, "study")
            self._changed_studies.add_new(study_id)
            txn.put(study_key, study_id, db=environment.study_uids)
            row = UidRow(0, 0, statement.study_instance_uid, Facts.empty(PART_COUNT_STUDY))
        else:
            row = UidRow.decode(present(txn.get(study_id, db=environment.studies)), PART_COUNT_STUDY)
        before = _study_values(row.facts)
        conflicts = len(row.facts.conflicts)
        content = [statement.patient, statement.study]
        if add_statement(txn, environment.study_statements, study_id, statement.study_digest, row, order, b"", content):
            if not self.overlay.is_empty:
                over = partial(self.overlay.of_study, txn, row.uid)
                if correct_facts(txn, environment.study_statements, study_id, row, 0, over) and row.owner:
                    self._dirty_patients.add(keys.ID.pack(row.owner))
            self._link_patient(txn, study_id, row)
            txn.put(study_id, row.encode(), db=environment.studies)
            self._study_changed(txn, study_id, before, _study_values(row.facts))
            self.counters.count(txn, keys.META_CONFLICTS, len(row.facts.conflicts) - conflicts)
        self._cache_study(statement, study_id, order)
        return bytes(study_id)

    def _cache_study(self, statement: Statement, study_id: bytes, order: bytes) -> None:
        if len(self._studies) >= CACHED_STUDIES_MAX:
            self._studies.clear()
        self._studies[statement.study_instance_uid, statement.study_digest] = study_id, order

    def _link_patient(self, txn: WriteTxn, study_id: bytes, row: UidRow) -> None:
        """Puts the study under the patient that its facts name, and adds these facts to the patient's."""
        environment = self._environment
        key = key_of_patient(row.facts.values(0), row.uid)
        patient_id = txn.get(key, db=environment.patient_keys)
        if patient_id is None:
            patient_id = self.counters.next_id(txn, "patient")
            txn.put(key, patient_id, db=environment.patient_keys)
            patient = PatientRow(key, Facts.empty(PART_COUNT_PATIENT))
            before = b""
        else:
            before = present(txn.get(patient_id, db=environment.patients))
            patient = PatientRow.decode(before)
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

    def _unlink_patient(self, txn: WriteTxn, study_id: bytes, patient: int) -> None:
        patient_id = keys.ID.pack(patient)
        txn.delete(patient_id + study_id, db=self._environment.patient_studies)
        self._dirty_patients.add(patient_id)

    def _series_changed(
        self, txn: WriteTxn, study_id: bytes, series_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]
    ) -> None:
        self.search_keys.change(txn, series_id, before, after)
        self.access_tags.change_series(study_id, before, after)
        modality = after.get(tags.Modality, b"")
        row = self.counters.load_series(txn, study_id + series_id)
        modalities, class_ids = unpack_tail(row.tail, 0)
        if modality[:255] != modalities:
            row.tail = pack_tail(modality, class_ids)

    def _study_changed(
        self, txn: WriteTxn, study_id: bytes, before: Mapping[int, bytes], after: Mapping[int, bytes]
    ) -> None:
        if before != after or self.search_keys.puts_all:
            self._changed_studies.add(study_id)
        self.search_keys.change(txn, study_id, before, after)
        self.access_tags.change_study(study_id, before, after)
        self._texts.change(txn, study_id, before, after)

    # -- after a removal ------------------------------------------------------------------------

    def refresh(self, txn: WriteTxn) -> None:
        """Recomputes all that depends on removed instances, from the series up, and empties every process's cache."""
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
        self.forget_studies()
        self.counters.count(txn, keys.META_EPOCH, 1)

    def _refresh_series(self, txn: WriteTxn, series_id: bytes, study_id: bytes) -> None:
        environment = self._environment
        firsts: dict[bytes, bytes] = {}
        senders: set[FirstSender] = set()
        class_ids = set()
        for _, value in scan_prefix(txn, environment.instances, series_id):
            fields = keys.INSTANCE.unpack_from(value)
            order = keys.ORDER.pack(fields[0], keys.tie_of(fields[3], fields[6]))
            digest = fields[14]
            if digest not in firsts or order <= firsts[digest]:
                firsts[digest] = order
                senders.add(FirstSender(order, fields[12]))
            class_ids.add(fields[10])
        self.access_tags.change_first(txn, study_id, series_id, earliest(txn, environment, senders))
        row = UidRow.decode(present(txn.get(series_id, db=environment.series)))
        before = row.facts.values(0)
        if not firsts:
            drop_rows(txn, environment.series_statements, series_id)
            self.search_keys.change(txn, series_id, before, {})
            self.access_tags.change_series(study_id, before, {})
            txn.delete(keys.bounded(row.uid) + b"\0" + study_id, db=environment.series_uids)
            txn.delete(series_id, db=environment.series)
            txn.delete(study_id + series_id, db=environment.counts)
            self.counters.series.pop(study_id + series_id, None)
            return
        over: Callable[[Facts], Sequence[Part]] | None = None
        if not self.overlay.is_empty:
            study = UidRow.decode(present(txn.get(study_id, db=environment.studies)), PART_COUNT_STUDY)
            over = partial(self.overlay.of_series, txn, study.uid, row.uid)
        leave_statements(txn, environment.series_statements, series_id, row, firsts, keys.DIGEST_BYTES, over)
        txn.put(series_id, row.encode(), db=environment.series)
        counts = self.counters.load_series(txn, study_id + series_id)
        counts.tail = pack_tail(before.get(tags.Modality, b""), class_ids)
        self._series_changed(txn, study_id, series_id, before, row.facts.values(0))

    def _refresh_study(self, txn: WriteTxn, study_id: bytes) -> None:
        environment = self._environment
        row = UidRow.decode(present(txn.get(study_id, db=environment.studies)), PART_COUNT_STUDY)
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
            drop_rows(txn, environment.study_statements, study_id)
            self._study_changed(txn, study_id, before, {})
            self._unlink_patient(txn, study_id, row.owner)
            txn.delete(keys.bounded(row.uid), db=environment.study_uids)
            txn.delete(study_id, db=environment.studies)
            self.counters.count(txn, keys.META_CONFLICTS, -conflicts)
            return
        over = None if self.overlay.is_empty else partial(self.overlay.of_study, txn, row.uid)
        leave_statements(txn, environment.study_statements, study_id, row, firsts, 0, over)
        self._dirty_patients.add(keys.ID.pack(row.owner))
        self._link_patient(txn, study_id, row)
        txn.put(study_id, row.encode(), db=environment.studies)
        self._study_changed(txn, study_id, before, _study_values(row.facts))
        self.counters.count(txn, keys.META_CONFLICTS, len(row.facts.conflicts) - conflicts)

    def _series_of(self, txn: ReadTxn, study_id: bytes) -> list[bytes]:
        """The series ids of a study, including those that this batch has added."""
        series_ids = {key[4:] for key, _ in scan_prefix(txn, self._environment.counts, study_id)}
        series_ids.update(key[4:] for key in self.counters.series if key[:4] == study_id)
        return sorted(series_ids)

    def _refresh_patient(self, txn: WriteTxn, patient_id: bytes) -> None:
        environment = self._environment
        patient = PatientRow.decode(present(txn.get(patient_id, db=environment.patients)))
        patient.facts = Facts.empty(PART_COUNT_PATIENT)
        is_empty = True
        for key, _ in scan_prefix(txn, environment.patient_studies, patient_id):
            study = UidRow.decode(present(txn.get(key[4:], db=environment.studies)), PART_COUNT_STUDY)
            patient.facts.observe_facts(study.facts)
            is_empty = False
        if is_empty:
            txn.delete(patient_id, db=environment.patients)
            txn.delete(patient.key, db=environment.patient_keys)
        else:
            txn.put(patient_id, patient.encode(), db=environment.patients)


def _uid_row_facts(data: bytes, part_count: int = PART_COUNT_SERIES) -> Facts:
    return UidRow.decode(data, part_count).facts


def _study_values(facts: Facts) -> dict[int, bytes]:
    return facts.values(0) | facts.values(1)
