"""The overlay of corrections on the facts of studies and series: the patient of a study, and corrected attributes.

Statements keep what the instances say (`format.statements`). The overlay changes the facts that follow from them, and
so every search and answer; nothing else knows of it. It depends only on the facts and the corrections in force, not on
the order in which they reached the index.

The patient of a study:

    stated     Patient ID and issuer of its facts
    moved      the latest MOVE that names the study gives another patient instead
    merged     while a MERGE names that patient, the latest of these gives another patient instead

The attributes of a study; for each one the latest source counts:

    patient attributes of the last MOVE or MERGE followed     as late as the latest of these steps
    CORRECT of the patient that the steps lead to             later than all steps
    CORRECT of the study                                      as late as its stamp

The attributes of a series: CORRECT of the series. The attributes of a patient follow from its studies, as everywhere.
An attribute that is set to no value hides the stated one; where none is stated it is left out.

Reads only; `corrections` writes the table. Format: `keys`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.index.database.environment import Environment
from engine.index.database.transactions import ReadTxn, present
from engine.index.format import keys
from engine.index.format.entry import Operation
from engine.index.format.rows import scan_prefix
from engine.index.format.statements import Facts

PATIENT = 0
STUDY = 1
SERIES = 2

Part: TypeAlias = "dict[int, tuple[bytes, bytes]]"
"""Tag → order and value, as in `Facts.parts`."""


class InForce(NamedTuple):
    """A correction in force, as a row of the table holds it under one of its names."""

    stamp: int
    operation: int
    items: dict[int, bytes]


def key_of_patient(items: Mapping[int, bytes], study_instance_uid: bytes = b"") -> bytes:
    """The key of the patient that these attributes name: spaces around ID and issuer mean nothing (PS3.5 6.2, LO)."""
    return keys.patient_key(
        items.get(tags.PatientID, b"").strip(b" "),
        items.get(tags.IssuerOfPatientID, b"").strip(b" "),
        study_instance_uid,
    )


def has_id(items: Mapping[int, bytes]) -> bool:
    """Whether these attributes name a patient that can have more than one study."""
    return bool(items.get(tags.PatientID, b"").strip(b" "))


def name_of_series(study_instance_uid: bytes, series_instance_uid: bytes) -> bytes:
    """The name of a series in the table, with its study, since its UID may occur in two studies."""
    return keys.bounded(series_instance_uid + b"/" + study_instance_uid)


def in_force(txn: ReadTxn, environment: Environment, level: int, name: bytes) -> Iterator[InForce]:
    """The corrections that name this patient, study or series, the earliest first."""
    prefix = keys.correction_prefix(level, name)
    for key, value in scan_prefix(txn, environment.corrections, prefix):
        if len(key) == len(prefix) + keys.CORRECTION_END.size:
            stamp, _ = keys.CORRECTION_END.unpack_from(key, len(prefix))
            yield InForce(stamp, value[0], blob_items(value[1:]))


def merges_from(txn: ReadTxn, environment: Environment, key: bytes) -> Iterator[tuple[bytes, InForce]]:
    """Follows the merges in force from a patient, and yields the patient that each leads to. Never goes in a circle."""
    visited = {key}
    while True:
        corrections = in_force(txn, environment, PATIENT, key)
        merges = [correction for correction in corrections if correction.operation == Operation.MERGE]
        if not merges:
            return
        key = key_of_patient(merges[-1].items)
        if key in visited:
            return
        visited.add(key)
        yield key, merges[-1]


class Overlay:
    """The corrections in force, for a batch of the writer or for a reader."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.is_empty = True
        """Whether there is no correction at all, and so nothing to look up."""
        self._last: tuple[bytes, list[tuple[bytes, InForce]], list[InForce]] | None = None
        """A patient, the merges from it, and the corrections of the patient that they lead to: a refresh asks it for
        each study of the patient."""

    def begin(self, txn: ReadTxn) -> None:
        """Checks whether there are any corrections."""
        self.is_empty = not txn.stat(self._environment.corrections)["entries"]
        self.changed()

    def changed(self) -> None:
        """Notes that other corrections are in force than before."""
        self._last = None

    def of_study(self, txn: ReadTxn, uid: bytes, stated_facts: Facts, *, of_patient: bool = True) -> list[Part]:
        """The overlay of the patient part and the study part of a study's facts.

        Without `of_patient`, corrections of its patient are left out.
        """
        environment = self._environment
        of_study = list(in_force(txn, environment, STUDY, keys.bounded(uid)))
        items = stated_facts.values(PATIENT)
        steps = [correction for correction in of_study if correction.operation == Operation.MOVE][-1:]
        if steps:
            items = steps[-1].items
        merges, of_last = self._of_patient(txn, key_of_patient(items, uid), is_named=has_id(items))
        steps += [merge for _, merge in merges]
        last_step = max((step.stamp for step in steps), default=0)
        overlay = _CorrectedAttributes()
        if steps:
            overlay.set(last_step, 0, steps[-1].stamp, steps[-1].items)
        if of_patient:
            for correction in of_last:
                if correction.operation == Operation.CORRECT:
                    overlay.set(max(correction.stamp, last_step), 1, correction.stamp, correction.items)
        for correction in of_study:
            if correction.operation == Operation.CORRECT:
                overlay.set(correction.stamp, 2, correction.stamp, correction.items)
        level_of = environment.schema.level_of
        parts: list[Part] = [{}, {}]
        for tag, order, value in overlay.result():
            part = PATIENT if level_of.get(tag) == PATIENT else STUDY
            if value or stated_facts.parts[part].get(tag, (b"", b""))[1]:
                parts[part][tag] = (order, value)
        return parts

    def _of_patient(
        self, txn: ReadTxn, key: bytes, *, is_named: bool
    ) -> tuple[list[tuple[bytes, InForce]], list[InForce]]:
        if self._last is None or self._last[0] != key:
            merges = list(merges_from(txn, self._environment, key)) if is_named else []
            last_key = merges[-1][0] if merges else key
            self._last = key, merges, list(in_force(txn, self._environment, PATIENT, last_key))
        return self._last[1], self._last[2]

    def of_series(self, txn: ReadTxn, study_uid: bytes, uid: bytes, stated_facts: Facts) -> list[Part]:
        """The overlay of a series' facts."""
        overlay = _CorrectedAttributes()
        for correction in in_force(txn, self._environment, SERIES, name_of_series(study_uid, uid)):
            if correction.operation == Operation.CORRECT:
                overlay.set(correction.stamp, 0, correction.stamp, correction.items)
        stored = stated_facts.parts[0]
        result = overlay.result()
        return [{tag: (order, value) for tag, order, value in result if value or stored.get(tag, (b"", b""))[1]}]


class _CorrectedAttributes:
    """Collects the attributes that corrections set. The later one counts; of two at one time, the nearer one."""

    def __init__(self) -> None:
        self._best: dict[int, tuple[tuple[int, int, int], bytes]] = {}

    def set(self, since: int, nearness: int, stamp: int, items: Mapping[int, bytes]) -> None:
        for tag, value in items.items():
            rank = (since, nearness, stamp)
            if tag not in self._best or rank >= self._best[tag][0]:
                self._best[tag] = (rank, value)

    def result(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Tag, order, value."""
        for tag, ((_, _, stamp), value) in self._best.items():
            yield tag, keys.correction_order(stamp), value


def corrected_values(txn: ReadTxn, environment: Environment, study_uid: bytes, series_uid: bytes) -> dict[int, bytes]:
    """The attributes of a study and of one of its series that a correction sets, in UTF-8."""
    study_id = txn.get(keys.bounded(study_uid), db=environment.study_uids)
    if study_id is None:
        return {}
    values = _values_set(present(txn.get(study_id, db=environment.studies)))
    series_id = txn.get(keys.bounded(series_uid) + b"\0" + study_id, db=environment.series_uids)
    return values if series_id is None else values | _values_set(present(txn.get(series_id, db=environment.series)))


def _values_set(row: bytes) -> dict[int, bytes]:
    _, _, uid_length = keys.UID_HEAD.unpack_from(row)
    parts: Sequence[Part] = Facts.decode(row, keys.UID_HEAD.size + uid_length).parts
    return {tag: value for part in parts for tag, (order, value) in part.items() if order < keys.FIRST_STATED}
