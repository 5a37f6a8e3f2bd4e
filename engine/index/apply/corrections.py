"""Corrections as they enter and leave the index: which are in force, and whom that concerns.

    a record         is there once it has been applied; of its copies (compaction) the last one counts
    an UNDO          takes a correction out of force, whichever of the two comes first; nothing undoes an undo
    in force         a row under each name; what it names is made anew from its statements and from what is in force
    superseded       it stays in force below the later one, which may be undone

Records stay for good: who asks later must be able to see what was done, by whom and why, and to undo it.
What corrections mean: `overlay`. Written within a batch of the writer; the reads at the end are for listings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.index.apply.accounts import Accounts, Share
from engine.index.apply.entities import Entities
from engine.index.apply.other_records import pack_apart, unpack_apart
from engine.index.apply.overlay import PATIENT, SERIES, STUDY, Overlay, merges_from, name_of_series
from engine.index.database.environment import Environment
from engine.index.format import keys
from engine.index.format.entry import Correction, Operation
from engine.index.format.rows import PatientRow, UidRow, scan_prefix
from engine.index.format.statements import PART_COUNT_PATIENT, PART_COUNT_STUDY, Facts, unpack_content
from engine.index.query.listing import read_rows
from engine.storage.record import Kind, Record

_RECORD = keys.CORRECTION_RECORD
_UNDO = keys.CORRECTION_UNDO


def correction_key(correction: Correction) -> bytes:
    """The key of its row in `corrections`."""
    position = correction.position
    return _RECORD + _which(correction) + keys.PLACE.pack(position.segment_id, position.offset)


def _which(correction: Correction) -> bytes:
    return keys.CORRECTION_END.pack(correction.stamp, keys.digest_of(correction.pack_meta()))


class Corrections:
    """Brings corrections into the index, and takes them out of it."""

    def __init__(self, environment: Environment, accounts: Accounts, entities: Entities) -> None:
        self._environment = environment
        self._accounts = accounts
        self._entities = entities

    def apply(self, txn: Any, correction: Correction) -> None:
        """Applies a correction, or a copy of one."""
        table, accounts, position = self._environment.corrections, self._accounts, correction.position
        row_key = correction_key(correction)
        accounts.cover(txn, position)
        if txn.get(row_key, db=table) is not None:
            return
        copies = list(scan_prefix(txn, table, row_key[: -keys.PLACE.size]))
        is_last = not copies or copies[-1][0] < row_key
        if copies and is_last:
            self._count_copy(txn, *copies[-1], counts=False)
        txn.put(row_key, pack_apart(is_last, position, correction.key, correction.pack_meta()), db=table)
        accounts.move(txn, position, None, Share.ALIVE if is_last else Share.DEAD)
        self._entities.overlay.is_empty = False
        if copies:
            return
        if correction.operation == Operation.UNDO:
            for undone in self._of_stamp(txn, correction.undoes):
                self._leave(txn, undone)
            txn.put(_undo_key(correction), b"", db=table)
        elif not self._is_undone(txn, correction.stamp):
            self._enter(txn, correction)

    def forget(self, txn: Any, row_key: bytes) -> None:
        """Takes a row out whose record is gone; the last of the copies that are left counts."""
        table = self._environment.corrections
        value = txn.pop(row_key, db=table)
        copies = list(scan_prefix(txn, table, row_key[: -keys.PLACE.size]))
        if copies:
            if not copies[-1][1][0]:
                self._count_copy(txn, *copies[-1], counts=True)
            return
        if value is None:
            return
        correction = _read(row_key, value)
        if correction.operation == Operation.UNDO:
            txn.delete(_undo_key(correction), db=table)
            if not self._is_undone(txn, correction.undoes):
                for undone in self._of_stamp(txn, correction.undoes):
                    self._enter(txn, undone)
        elif not self._is_undone(txn, correction.stamp):
            self._leave(txn, correction)

    def _count_copy(self, txn: Any, key: bytes, value: bytes, *, counts: bool) -> None:
        _, position, name, meta = unpack_apart(key, value)
        txn.put(key, pack_apart(counts, position, name, meta), db=self._environment.corrections)
        before, after = (Share.DEAD, Share.ALIVE) if counts else (Share.ALIVE, Share.DEAD)
        self._accounts.move(txn, position, before, after)

    def _of_stamp(self, txn: Any, stamp: int) -> list[Correction]:
        """The corrections of a stamp but undos: one, unless two clocks agreed to the nanosecond."""
        rows = list(scan_prefix(txn, self._environment.corrections, _RECORD + keys.U64_KEY.pack(stamp)))
        found = [_read(key, value) for key, value in rows if value[0]]
        return [correction for correction in found if correction.operation != Operation.UNDO]

    def _is_undone(self, txn: Any, stamp: int) -> bool:
        return any(True for _ in scan_prefix(txn, self._environment.corrections, _UNDO + keys.U64_KEY.pack(stamp)))

    def _enter(self, txn: Any, correction: Correction) -> None:
        """Puts a correction in force."""
        found = _force_keys(correction)
        if not found:
            return  # of a later version of this engine
        self._touch(txn, correction)
        for key in found:
            txn.put(key, bytes((correction.operation,)) + correction.items, db=self._environment.corrections)
        self._accounts.count(keys.META_CORRECTIONS, 1)

    def _leave(self, txn: Any, correction: Correction) -> None:
        """Takes a correction out of force, if it is not so yet."""
        table = self._environment.corrections
        present = [key for key in _force_keys(correction) if txn.get(key, db=table) is not None]
        if not present:
            return
        self._touch(txn, correction)  # while the merges still lead to where its studies are
        for key in present:
            txn.delete(key, db=table)
        self._accounts.count(keys.META_CORRECTIONS, -1)

    # -- whom it concerns -----------------------------------------------------------------------

    def _touch(self, txn: Any, correction: Correction) -> None:
        environment, names = self._environment, correction.names
        if correction.level == PATIENT:
            self._touch_patient(txn, _key_of(names))
        elif correction.level == STUDY:
            for uid in names:
                study_id = txn.get(keys.bounded(uid), db=environment.study_uids)
                if study_id is not None:
                    self._entities.touch_study(study_id)
        elif correction.level == SERIES and len(names) == 2:
            study_id = txn.get(keys.bounded(names[0]), db=environment.study_uids)
            series_id = study_id and txn.get(keys.bounded(names[1]) + b"\0" + study_id, db=environment.series_uids)
            if series_id:
                self._entities.touch_series(series_id, study_id)

    def _touch_patient(self, txn: Any, key: bytes) -> None:
        """Every study that this patient has, or has handed on: they are where the merges lead."""
        environment = self._environment
        for patient in (key, *(further for further, _ in merges_from(txn, environment, key))):
            patient_id = txn.get(patient, db=environment.patient_keys)
            if patient_id is not None:
                for pair, _ in scan_prefix(txn, environment.patient_studies, patient_id):
                    self._entities.touch_study(pair[4:])


def _key_of(names: tuple[bytes, ...]) -> bytes:
    """The key of the patient that a correction names."""
    patient_id, issuer, *_ = (*names, b"", b"")
    return keys.patient_key(patient_id.strip(b" "), issuer.strip(b" "), b"")


def _force_keys(correction: Correction) -> list[bytes]:
    """The keys of its rows while it is in force."""
    names = correction.names
    if correction.level == PATIENT:
        found = [_key_of(names)]
    elif correction.level == STUDY:
        found = [keys.bounded(uid) for uid in dict.fromkeys(names)]
    else:
        found = [name_of_series(*names)] if len(names) == 2 else []
    which = _which(correction)
    return [keys.correction_prefix(correction.level, name) + which for name in found]


def _undo_key(correction: Correction) -> bytes:
    return _UNDO + keys.U64_KEY.pack(correction.undoes) + _which(correction)


def _read(row_key: bytes, value: bytes) -> Correction:
    _, position, key, meta = unpack_apart(row_key, value)
    (stamp,) = keys.U64_KEY.unpack_from(row_key, len(_RECORD))
    return Correction.unpack(Record(position, Kind.CORRECTION, 0, stamp, 0, 0, key, meta))


# for listings ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """A correction, and what became of it."""

    correction: Correction
    undone_by: int
    """The stamp of the first undo; 0: it is in force."""


def read_corrections(environment: Environment) -> Iterator[Listed]:
    """Every correction and every undo, the earliest first; page by page."""

    def read(txn: Any, key: bytes, value: bytes) -> Listed | None:
        return _listed(txn, environment, key, value) if value[0] else None

    return read_rows(environment, environment.corrections, read, _RECORD)


def find_correction(txn: Any, environment: Environment, stamp: int) -> Listed | None:
    """The correction of this stamp."""
    for key, value in scan_prefix(txn, environment.corrections, _RECORD + keys.U64_KEY.pack(stamp)):
        if value[0]:
            return _listed(txn, environment, key, value)
    return None


def _listed(txn: Any, environment: Environment, key: bytes, value: bytes) -> Listed:
    correction = _read(key, value)
    undos = scan_prefix(txn, environment.corrections, _UNDO + keys.U64_KEY.pack(correction.stamp))
    first = next((keys.U64_KEY.unpack_from(undo, 1 + keys.U64_KEY.size)[0] for undo, _ in undos), 0)
    return Listed(correction, first)


def newest_correction(txn: Any, environment: Environment) -> int:
    """The stamp of the latest correction; 0 without any."""
    with txn.cursor(db=environment.corrections) as cursor:
        found = cursor.set_range(_UNDO)
        if not (cursor.prev() if found else cursor.last()) or not cursor.key().startswith(_RECORD):
            return 0
        return int(keys.U64_KEY.unpack_from(cursor.key(), len(_RECORD))[0])


def patients_with(
    txn: Any, environment: Environment, patient_id: bytes, issuer: bytes | None
) -> list[tuple[bytes, dict[int, bytes]]]:
    """Key and facts of the patients that have this ID from this issuer; None: whoever issued it."""
    found = []
    for key, number in _keys_with(txn, environment.patient_keys, patient_id, issuer, b"", b""):
        found.append((key, PatientRow.decode(txn.get(number, db=environment.patients)).facts.values(PATIENT)))
    return found


def merge_of(txn: Any, environment: Environment, patient_id: bytes, issuer: bytes | None) -> int:
    """The stamp of a merge in force that names such a patient; 0 without any."""
    before = keys.CORRECTION_NAME + bytes((PATIENT,))
    for key, value in _keys_with(txn, environment.corrections, patient_id, issuer, before, b"\0"):
        if value[0] == Operation.MERGE:
            return int(keys.CORRECTION_END.unpack_from(key, len(key) - keys.CORRECTION_END.size)[0])
    return 0


def _keys_with(
    txn: Any, table: Any, patient_id: bytes, issuer: bytes | None, before: bytes, after: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """The rows whose key begins with the key of such a patient, between two other parts.

    A patient's key that is hashed as a whole, since ID and issuer are too long for one, is found by its issuer only.
    """
    if issuer is None:
        yield from scan_prefix(txn, table, before + keys.bounded(patient_id) + b"\0")
        return
    prefix = before + keys.patient_key(patient_id, issuer, b"") + after
    for key, value in scan_prefix(txn, table, prefix):
        if len(key) == len(prefix) + (keys.CORRECTION_END.size if after else 0):
            yield key, value


def uncorrected_patient(txn: Any, environment: Environment, key: bytes) -> dict[int, bytes]:
    """What a patient would be called but for the corrections of the patient as such: what a merge hands on."""
    facts = Facts.empty(PART_COUNT_PATIENT)
    overlay = Overlay(environment)
    patient_id = txn.get(key, db=environment.patient_keys)
    for pair, _ in scan_prefix(txn, environment.patient_studies, patient_id) if patient_id else ():
        study_id = pair[4:]
        row = UidRow.decode(txn.get(study_id, db=environment.studies), PART_COUNT_STUDY)
        of_study = row.facts
        if of_study.is_corrected:
            of_study = Facts.empty(PART_COUNT_STUDY)
            for _, value in scan_prefix(txn, environment.study_statements, study_id):
                of_study.observe(value[: keys.ORDER_BYTES], unpack_content(value[keys.ORDER_BYTES :]))
        of_study.correct(overlay.of_study(txn, row.uid, of_study, of_patient=False))
        facts.observe_facts(of_study)
    return facts.values(0)
