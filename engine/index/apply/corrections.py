"""Applies corrections to the index: which ones are in force, and which patients, studies and series change with them.

    a record         has a row once it has been applied; of its copies the last one counts (`copies`)
    an UNDO          takes a correction out of force, in any order of arrival; nothing undoes an undo
    in force         a correction has a row under each name; the entities that it names are recomputed from their
                     statements and all corrections in force
    superseded       a correction stays in force below the later one, which may be undone

Records stay forever: they are the audit trail, and each can be undone later. `overlay` gives corrections their meaning;
`query.corrections` lists them. Call this within a batch of the writer.
"""

from __future__ import annotations

from engine.index.apply.accounts import Accounts, Share
from engine.index.apply.copies import Copies
from engine.index.apply.entities import Entities
from engine.index.apply.other_records import unpack_apart
from engine.index.apply.overlay import PATIENT, SERIES, STUDY, merges_from, name_of_series
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, WriteTxn
from engine.index.format import keys
from engine.index.format.entry import Correction, Operation
from engine.index.format.rows import scan_prefix
from engine.storage.record import Kind, Record

RECORD = keys.CORRECTION_RECORD
UNDO = keys.CORRECTION_UNDO


def correction_key(correction: Correction) -> bytes:
    """The key of its row in `corrections`."""
    position = correction.position
    return RECORD + _stamp_and_digest(correction) + keys.PLACE.pack(position.segment_id, position.offset)


def _stamp_and_digest(correction: Correction) -> bytes:
    return keys.CORRECTION_END.pack(correction.stamp, keys.digest_of(correction.pack_meta()))


class Corrections:
    """Adds corrections to the index, and takes them out of it."""

    def __init__(self, environment: Environment, accounts: Accounts, entities: Entities) -> None:
        self._environment = environment
        self._accounts = accounts
        self._entities = entities
        self._copies = Copies(accounts, Share.ALIVE)

    def apply(self, txn: WriteTxn, correction: Correction) -> None:
        """Applies a correction, or a copy of one."""
        table = self._environment.corrections
        others = self._copies.add(
            txn, table, correction_key(correction), correction.position, correction.key, correction.pack_meta()
        )
        if others is None:
            return
        self._entities.overlay.is_empty = False
        if others:
            return
        if correction.operation == Operation.UNDO:
            for undone in self._of_stamp(txn, correction.undoes):
                self._leave(txn, undone)
            txn.put(_undo_key(correction), b"", db=table)
        elif not self._is_undone(txn, correction.stamp):
            self._enter(txn, correction)

    def forget(self, txn: WriteTxn, row_key: bytes) -> None:
        """Removes the row of a record that is gone; the last of the remaining copies counts."""
        table = self._environment.corrections
        value = self._copies.remove(txn, table, row_key)
        if value is None:
            return
        correction = correction_of_row(row_key, value)
        if correction.operation == Operation.UNDO:
            txn.delete(_undo_key(correction), db=table)
            if not self._is_undone(txn, correction.undoes):
                for undone in self._of_stamp(txn, correction.undoes):
                    self._enter(txn, undone)
        elif not self._is_undone(txn, correction.stamp):
            self._leave(txn, correction)

    def _of_stamp(self, txn: ReadTxn, stamp: int) -> list[Correction]:
        """The corrections of a stamp, without undos: one, unless two clocks agreed to the nanosecond."""
        rows = list(scan_prefix(txn, self._environment.corrections, RECORD + keys.U64_KEY.pack(stamp)))
        corrections = [correction_of_row(key, value) for key, value in rows if value[0]]
        return [correction for correction in corrections if correction.operation != Operation.UNDO]

    def _is_undone(self, txn: ReadTxn, stamp: int) -> bool:
        return any(True for _ in scan_prefix(txn, self._environment.corrections, UNDO + keys.U64_KEY.pack(stamp)))

    def _enter(self, txn: WriteTxn, correction: Correction) -> None:
        """Puts a correction in force."""
        force_keys = _force_keys(correction)
        if not force_keys:
            return  # an operation of a later version
        self._touch(txn, correction)
        for key in force_keys:
            txn.put(key, bytes((correction.operation,)) + correction.items, db=self._environment.corrections)
        self._entities.overlay.changed()
        self._accounts.count(keys.META_CORRECTIONS, 1)

    def _leave(self, txn: WriteTxn, correction: Correction) -> None:
        """Takes a correction out of force, if it is in force."""
        table = self._environment.corrections
        present = [key for key in _force_keys(correction) if txn.get(key, db=table) is not None]
        if not present:
            return
        self._touch(txn, correction)  # first, while the merges still lead to its studies
        for key in present:
            txn.delete(key, db=table)
        self._entities.overlay.changed()
        self._accounts.count(keys.META_CORRECTIONS, -1)

    # -- the studies and series that change with it ---------------------------------------------

    def _touch(self, txn: ReadTxn, correction: Correction) -> None:
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
            if study_id is None:
                return
            series_id = txn.get(keys.bounded(names[1]) + b"\0" + study_id, db=environment.series_uids)
            if series_id is not None:
                self._entities.touch_series(series_id, study_id)

    def _touch_patient(self, txn: ReadTxn, key: bytes) -> None:
        """Touches every study of this patient, and of the patients that merges lead to from it."""
        environment = self._environment
        for patient in (key, *(merged_key for merged_key, _ in merges_from(txn, environment, key))):
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
        force_keys = [_key_of(names)]
    elif correction.level == STUDY:
        force_keys = [keys.bounded(uid) for uid in dict.fromkeys(names)]
    else:
        force_keys = [name_of_series(*names)] if len(names) == 2 else []
    end = _stamp_and_digest(correction)
    return [keys.correction_prefix(correction.level, name) + end for name in force_keys]


def _undo_key(correction: Correction) -> bytes:
    return UNDO + keys.U64_KEY.pack(correction.undoes) + _stamp_and_digest(correction)


def correction_of_row(row_key: bytes, value: bytes) -> Correction:
    """The correction of a row of `corrections`."""
    _, position, key, meta = unpack_apart(row_key, value)
    (stamp,) = keys.U64_KEY.unpack_from(row_key, len(RECORD))
    return Correction.unpack(Record(position, Kind.CORRECTION, 0, stamp, 0, 0, key, meta))
