"""A snapshot of patients, studies and corrections, to decide on a new correction.

Use a snapshot for one decision. Do not keep one while you write, wait or send. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.dicom.schema import Schema
from engine.index.apply.corrections import RECORD, UNDO
from engine.index.apply.overlay import PATIENT, SERIES, STUDY, Overlay, in_force, key_of_patient, name_of_series
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, Table, present
from engine.index.format import keys
from engine.index.format.entry import Operation
from engine.index.format.rows import PatientRow, UidRow, scan_prefix
from engine.index.format.statements import (
    PART_COUNT_PATIENT,
    PART_COUNT_STUDY,
    Facts,
    unpack_content,
)
from engine.index.query.corrections import CorrectionStatus, find_correction


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """A patient of the index."""

    key: bytes
    items: dict[int, bytes]
    studies: int
    """The number of studies."""


class Snapshot:
    """The index as the last commit left it."""

    def __init__(self, txn: ReadTxn, environment: Environment) -> None:
        self._txn = txn
        self._environment = environment

    @property
    def schema(self) -> Schema:
        """The attributes that the index holds, and their form."""
        return self._environment.schema

    # -- patients

    @staticmethod
    def patient_key(patient_id: bytes, issuer: bytes) -> bytes:
        """The key of the patient with this ID, stored or not."""
        return keys.patient_key(patient_id, issuer, b"")

    def patients_with(self, patient_id: bytes, issuer: bytes | None) -> list[PatientFacts]:
        """The patients that have this ID from this issuer; None: from any issuer."""
        txn, environment = self._txn, self._environment
        patients = []
        for key, number in self._keys_with(environment.patient_keys, patient_id, issuer, b"", b""):
            items = PatientRow.decode(present(txn.get(number, db=environment.patients))).facts.values(PATIENT)
            study_count = sum(1 for _ in scan_prefix(txn, environment.patient_studies, number))
            patients.append(PatientFacts(key, items, study_count))
        return patients

    def merge_of(self, patient_id: bytes, issuer: bytes | None) -> int:
        """The stamp of a merge in force that names such a patient; 0 if there is none."""
        before = keys.CORRECTION_NAME + bytes((PATIENT,))
        for key, value in self._keys_with(self._environment.corrections, patient_id, issuer, before, b"\0"):
            if value[0] == Operation.MERGE:
                return int(keys.CORRECTION_END.unpack_from(key, len(key) - keys.CORRECTION_END.size)[0])
        return 0

    def _keys_with(
        self, table: Table, patient_id: bytes, issuer: bytes | None, before: bytes, after: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """The rows whose key begins with `before`, the key of such a patient, and `after`.

        If ID and issuer are too long for a key, it is hashed as a whole: then pass the issuer, or it is not found.
        """
        if issuer is None:
            yield from scan_prefix(self._txn, table, before + keys.bounded(patient_id) + b"\0")
            return
        prefix = before + keys.patient_key(patient_id, issuer, b"") + after
        for key, value in scan_prefix(self._txn, table, prefix):
            if len(key) == len(prefix) + (keys.CORRECTION_END.size if after else 0):
                yield key, value

    def uncorrected_patient(self, key: bytes) -> dict[int, bytes]:
        """A patient's attributes without the corrections of this patient: a merge copies these."""
        txn, environment = self._txn, self._environment
        facts = Facts.empty(PART_COUNT_PATIENT)
        overlay = Overlay(environment)
        patient_id = txn.get(key, db=environment.patient_keys)
        for pair, _ in scan_prefix(txn, environment.patient_studies, patient_id) if patient_id else ():
            study_id = pair[4:]
            row = UidRow.decode(present(txn.get(study_id, db=environment.studies)), PART_COUNT_STUDY)
            of_study = self._stated(environment.study_statements, study_id, row, keys.ORDER_BYTES)
            of_study.correct(overlay.of_study(txn, row.uid, of_study, of_patient=False))
            facts.observe_facts(of_study)
        return facts.values(0)

    def patient_after_merge(self, source: bytes, target: bytes) -> dict[int, bytes] | None:
        """What `target` shows once the studies of `source` are its own; None: neither has a study."""
        txn, environment = self._txn, self._environment
        number = txn.get(target, db=environment.patient_keys)
        if number is not None:
            return PatientRow.decode(present(txn.get(number, db=environment.patients))).facts.values(PATIENT)
        number = txn.get(source, db=environment.patient_keys)
        if number is None:
            return None
        facts = PatientRow.decode(present(txn.get(number, db=environment.patients))).facts
        items = self.uncorrected_patient(source) if facts.is_corrected else facts.values(PATIENT)
        for correction in in_force(txn, environment, PATIENT, target):
            if correction.operation == Operation.CORRECT:
                items = {**items, **correction.items}
        return items

    # -- studies

    def owner_of(self, study_instance_uid: bytes) -> bytes | None:
        """The key of a study's patient; None: the study is not stored."""
        study_id = self._txn.get(keys.bounded(study_instance_uid), db=self._environment.study_uids)
        if study_id is None:
            return None
        row = UidRow.decode(present(self._txn.get(study_id, db=self._environment.studies)), PART_COUNT_STUDY)
        return key_of_patient(row.facts.values(PATIENT), row.uid)

    def studies_of_series(self, series_instance_uid: bytes) -> list[bytes]:
        """The Study Instance UIDs of the studies that have a series of this UID."""
        txn, environment = self._txn, self._environment
        prefix = keys.bounded(series_instance_uid) + b"\0"
        studies = [key[len(prefix) :] for key, _ in scan_prefix(txn, environment.series_uids, prefix)]
        return [
            UidRow.decode(present(txn.get(study_id, db=environment.studies)), PART_COUNT_STUDY).uid
            for study_id in studies
        ]

    def stated_study(self, study_instance_uid: bytes) -> dict[int, bytes] | None:
        """The attributes of a study as its instances state them, without corrections; None: it is not stored."""
        environment = self._environment
        study_id = self._txn.get(keys.bounded(study_instance_uid), db=environment.study_uids)
        if study_id is None:
            return None
        row = UidRow.decode(present(self._txn.get(study_id, db=environment.studies)), PART_COUNT_STUDY)
        facts = self._stated(environment.study_statements, study_id, row, keys.ORDER_BYTES)
        return facts.values(PATIENT) | facts.values(STUDY)

    def stated_series(self, study_instance_uid: bytes, series_instance_uid: bytes) -> dict[int, bytes] | None:
        """The same of a series."""
        txn, environment = self._txn, self._environment
        study_id = txn.get(keys.bounded(study_instance_uid), db=environment.study_uids)
        key = None if study_id is None else keys.bounded(series_instance_uid) + b"\0" + study_id
        series_id = None if key is None else txn.get(key, db=environment.series_uids)
        if series_id is None:
            return None
        row = UidRow.decode(present(txn.get(series_id, db=environment.series)))
        above_bytes = keys.ORDER_BYTES + keys.DIGEST_BYTES
        return self._stated(environment.series_statements, series_id, row, above_bytes).values(0)

    def _stated(self, table: Table, owner: bytes, row: UidRow, head_bytes: int) -> Facts:
        """The facts of a row without corrections. A corrected row has the content of all its statements."""
        if not row.facts.is_corrected:
            return row.facts
        facts = Facts.empty(len(row.facts.parts))
        for _, value in scan_prefix(self._txn, table, owner):
            facts.observe(value[: keys.ORDER_BYTES], unpack_content(value[head_bytes:]))
        return facts

    # -- corrections

    def corrections_of_study(self, study_instance_uid: bytes) -> list[CorrectionStatus]:
        """The corrections in force that name this study."""
        return self._in_force(STUDY, keys.bounded(study_instance_uid))

    def corrections_of_series(self, study_instance_uid: bytes, series_instance_uid: bytes) -> list[CorrectionStatus]:
        """The corrections in force that name this series."""
        return self._in_force(SERIES, name_of_series(study_instance_uid, series_instance_uid))

    def _in_force(self, level: int, name: bytes) -> list[CorrectionStatus]:
        stamps = [each.stamp for each in in_force(self._txn, self._environment, level, name)]
        found = (find_correction(self._txn, self._environment, stamp) for stamp in stamps)
        return [each for each in found if each is not None]

    def correction(self, stamp: int) -> CorrectionStatus | None:
        """The correction with this stamp."""
        return find_correction(self._txn, self._environment, stamp)

    def newest_correction(self) -> int:
        """The stamp of the latest correction; 0 if there is none."""
        with self._txn.cursor(db=self._environment.corrections) as cursor:
            has_undo = cursor.set_range(UNDO)
            if not (cursor.prev() if has_undo else cursor.last()) or not cursor.key().startswith(RECORD):
                return 0
            return int(keys.U64_KEY.unpack_from(cursor.key(), len(RECORD))[0])
