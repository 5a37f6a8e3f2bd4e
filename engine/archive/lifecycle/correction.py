"""Corrections: merges, moves and splits patients, sets attributes, and undoes each of these. Changes no stored byte.

    correct    attributes of one patient (of all studies, also of those that arrive later), one study, or one series
    merge      moves all studies of a patient, also future ones, to another patient and gives them its attributes
    move       moves studies to another patient and gives them its attributes
    split      moves studies of one patient to a new one; their other attributes stay
    undo       undoes one of these, whatever has been done since

A correction is one record of the log, as a hold is: once answered it is durable and visible to every process, it is
part of every backup, and a rebuild finds it. Its number (a stamp) is its identifier. `index.apply.overlay` combines
all corrections in force by one rule, so undos may come in any order: the other corrections keep their effect.

A merge or move copies every attribute of the patient level from the target patient at that moment; a later correction
of that patient applies to all its studies. A patient without any study is unknown and refused, unless `in_advance` is
set, as for a message from a hospital information system. Patients without an ID cannot be named: each of their studies
is a patient of its own, and can be moved.

A study on legal hold can be corrected and moved: a hold protects stored bytes, and a correction changes none.

Errors name no patient. The front ends check permissions; `dicom.coercion` applies corrections on retrieval.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import log
from engine.access.principal import Principal
from engine.access.scope import FULL
from engine.archive.ingest.entry import UNPLACED
from engine.archive.lifecycle.deletion import bounded
from engine.archive.lifecycle.patients import (
    IDENTITY,
    Patient,
    as_text,
    attributes_of,
    check_value,
    find_one,
    identity_of,
    new_patient,
    number_of,
)
from engine.archive.lifecycle.recorded import changed, patient_changed
from engine.audit import Kind
from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.errors import CorrectionRefused, IndexError_
from engine.index.catalog import CorrectionStatus, Snapshot
from engine.index.format.entry import Correction, Operation
from engine.index.format.statements import blob_of
from engine.index.format.types import Level

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.view import View

logger = log.get("archive.correction")

_NEVER_SET = frozenset((*IDENTITY, tags.StudyInstanceUID, tags.SeriesInstanceUID))
_LEVEL_NAMES = ("patient", "study", "series", "instance")


@dataclass(frozen=True, slots=True)
class Corrected:
    """The result of a correction."""

    number: str
    """The identifier, for `undo`."""
    studies: int
    """Number of affected stored studies: those in the request, or those of the patient in it."""
    further: str = ""
    """The identifier of the correction of attributes that was made with a merge."""


def correct_patient(
    archive: Archive, patient: Patient, attributes: Mapping[int, str], *, actor: Principal, reason: str
) -> Corrected:
    """Sets attributes of a patient; "" means no value. Raises as `_record` does, like all functions here."""
    items = _items(archive, attributes, (Level.PATIENT,))

    def decide(snapshot: Snapshot) -> _Decision:
        state = find_one(snapshot, patient)
        return _Decision(Operation.CORRECT, Level.PATIENT, state.names, items, state.studies)

    return _record(archive, decide, actor=actor, reason=reason)


def correct_study(
    archive: Archive, study_instance_uid: str, attributes: Mapping[int, str], *, actor: Principal, reason: str
) -> Corrected:
    """Sets attributes of a study; those of the patient level for this study only."""
    items = _items(archive, attributes, (Level.PATIENT, Level.STUDY))

    def decide(snapshot: Snapshot) -> _Decision:
        _owner(snapshot, study_instance_uid)
        return _Decision(Operation.CORRECT, Level.STUDY, (study_instance_uid.encode(),), items, 1)

    return _record(archive, decide, actor=actor, reason=reason)


def correct_series(
    archive: Archive,
    series_instance_uid: str,
    attributes: Mapping[int, str],
    *,
    study_instance_uid: str = "",
    actor: Principal,
    reason: str,
) -> Corrected:
    """Sets attributes of a series. Name its study only if the Series Instance UID occurs in two."""
    items = _items(archive, attributes, (Level.SERIES,))

    def decide(snapshot: Snapshot) -> _Decision:
        study_uid = _study_of_series(snapshot, series_instance_uid, study_instance_uid)
        return _Decision(Operation.CORRECT, Level.SERIES, (study_uid, series_instance_uid.encode()), items, 1)

    return _record(archive, decide, actor=actor, reason=reason)


def merge(
    archive: Archive,
    source: Patient,
    into: Patient,
    *,
    in_advance: bool = False,
    differing: Callable[[Mapping[int, bytes]], Mapping[int, str]] = lambda _: {},
    actor: Principal,
    reason: str,
) -> Corrected:
    """Makes all studies of `source`, now and in future, those of `into`.

    With `in_advance` either may be unknown. An unknown `into` then gets its attributes from the studies. `differing`
    gets what `into` shows afterwards, and returns what is corrected in the same write; nothing is if that is refused.
    """

    def decide(snapshot: Snapshot) -> _Decision:
        source_patient = find_one(snapshot, source, in_advance=in_advance)
        target = find_one(snapshot, into, in_advance=in_advance)
        if source_patient.key == target.key:
            raise CorrectionRefused("both names are of one patient: there is nothing to merge")
        studies, following = source_patient.studies, None
        shown = snapshot.patient_after_merge(source_patient.key, target.key)
        with suppress(CorrectionRefused):
            if shown is not None and (differences := differing(shown)):
                items, count = _items(archive, differences, (Level.PATIENT,)), studies + target.studies
                following = _Decision(Operation.CORRECT, Level.PATIENT, target.names, items, count)
        attributes = attributes_of(snapshot, target)
        return _Decision(Operation.MERGE, Level.PATIENT, source_patient.names, attributes, studies, following=following)

    return _record(archive, decide, actor=actor, reason=reason)


def move(
    archive: Archive,
    study_instance_uids: Sequence[str],
    into: Patient,
    *,
    in_advance: bool = False,
    actor: Principal,
    reason: str,
) -> Corrected:
    """Moves these studies to another patient; with `in_advance` it may be unknown, and gets only its identity."""

    def decide(snapshot: Snapshot) -> _Decision:
        target = find_one(snapshot, into, in_advance=in_advance)
        if all(owner == target.key for owner in _owners(snapshot, study_instance_uids)):
            raise CorrectionRefused("these studies are the patient's already")
        uids = _encoded(study_instance_uids)
        return _Decision(Operation.MOVE, Level.STUDY, uids, attributes_of(snapshot, target), len(uids))

    return _record(archive, decide, actor=actor, reason=reason)


def split(
    archive: Archive,
    study_instance_uids: Sequence[str],
    new: Patient,
    attributes: Mapping[int, str] | None = None,
    *,
    actor: Principal,
    reason: str,
) -> Corrected:
    """Moves these studies of one patient to a new patient, with these attributes if given.

    Other attributes come from the studies: corrections of the old patient do not apply to the new one.
    """
    set_items = _items(archive, attributes or {}, (Level.PATIENT,), may_be_none=True)

    def decide(snapshot: Snapshot) -> _Decision:
        target = new_patient(snapshot, new)
        if len(set(_owners(snapshot, study_instance_uids))) > 1:
            raise CorrectionRefused("these studies are of several patients: split one patient at a time")
        uids = _encoded(study_instance_uids)
        return _Decision(Operation.MOVE, Level.STUDY, uids, {**set_items, **identity_of(target.names)}, len(uids))

    return _record(archive, decide, actor=actor, reason=reason)


def undo(archive: Archive, number: str, *, actor: Principal, reason: str) -> Corrected:
    """Undoes a correction. All others stay in force, later ones too."""

    number = number.strip().lower()

    def decide(snapshot: Snapshot) -> _Decision:
        entry = snapshot.correction(int(number, 16) if re.fullmatch(r"[0-9a-f]{16}", number) else 0)
        if entry is None:
            raise CorrectionRefused(f"there is no correction {number}")
        correction = entry.correction
        if correction.operation == Operation.UNDO:
            raise CorrectionRefused(f"{number} is an undo itself: make the undone correction again")
        if entry.undone_by:
            raise CorrectionRefused(f"{number} has been undone already, by {number_of(entry.undone_by)}")
        return _Decision(Operation.UNDO, correction.level, (), {}, 0, correction.stamp)

    return _record(archive, decide, actor=actor, reason=reason)


def list_all(view: View) -> Iterator[dict[str, Any]]:
    """Every correction and undo as plain data, the earliest first. Who does not see everything sees those of single
    studies and series in scope: a patient may have other studies too."""
    for row in view.parts.index.corrections():
        facts = _facts(row)
        if view.scope is FULL or (facts["level"] in ("study", "series") and _is_seen(view, facts["names"])):
            yield facts


def _is_seen(view: View, names: list[str]) -> bool:
    """Whether all studies among these names are in scope; the names of a series include its study."""
    return any(view.sees(name) for name in names) and not any(
        view.parts.index.access_facts(name.encode()) is not None and not view.sees(name) for name in names
    )


# plain data ------------------------------------------------------------------------------------------


def _facts(row: CorrectionStatus) -> dict[str, Any]:
    correction = row.correction
    operation = correction.operation
    names = [name.decode("utf-8", "replace") for name in correction.names]
    if correction.level == Level.PATIENT and len(names) == 2:
        names = [as_text(names[0], names[1])]
    is_known = operation in set(Operation)
    return {
        "number": number_of(correction.stamp),
        "made_ns": correction.made_ns,
        "operation": Operation(operation).name.lower() if is_known else f"operation {operation}",
        "level": _LEVEL_NAMES[correction.level] if correction.level < len(_LEVEL_NAMES) else "",
        "names": names,
        "sets": {tag: value.decode("utf-8", "replace") for tag, value in blob_items(correction.items).items()},
        "undoes": number_of(correction.undoes) if correction.undoes else "",
        "undone_by": number_of(row.undone_by) if row.undone_by else "",
        "by": correction.by.decode("utf-8", "replace"),
        "reason": correction.reason.decode("utf-8", "replace"),
    }


# decisions -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Decision:
    """The correction to write."""

    operation: Operation
    level: int
    names: tuple[bytes, ...]
    items: Mapping[int, bytes]
    studies: int
    undoes: int = 0
    following: _Decision | None = None
    """Written with it, and later than it."""


def _owner(snapshot: Snapshot, uid: str) -> bytes:
    """The key of a study's patient. Raises CorrectionRefused."""
    owner = snapshot.owner_of(uid.encode())
    if owner is None:
        raise CorrectionRefused(f"no study {uid} is stored")
    return owner


def _owners(snapshot: Snapshot, uids: Sequence[str]) -> list[bytes]:
    """The key of each study's patient. Raises CorrectionRefused."""
    if not uids:
        raise CorrectionRefused("no study is named")
    owners = {uid: snapshot.owner_of(uid.encode()) for uid in uids}
    missing = [uid for uid in uids if owners[uid] is None]
    if missing:
        raise CorrectionRefused(f"no study {', '.join(missing)} is stored")
    return [owner for uid in uids if (owner := owners[uid]) is not None]


def _encoded(uids: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(uid.encode() for uid in dict.fromkeys(uids))


def _study_of_series(snapshot: Snapshot, uid: str, study_uid: str) -> bytes:
    """The study of a series. Raises CorrectionRefused."""
    studies = snapshot.studies_of_series(uid.encode())
    uids = [study for study in studies if not study_uid or study == study_uid.encode()]
    if not uids:
        raise CorrectionRefused(f"no series {uid} is stored" + (f" in study {study_uid}" if study_uid else ""))
    if len(uids) > 1:
        raise CorrectionRefused(f"series {uid} is in {len(uids)} studies: say which study")
    return uids[0]


def _items(
    archive: Archive, attributes: Mapping[int, str], levels: tuple[int, ...], *, may_be_none: bool = False
) -> dict[int, bytes]:
    """Encodes attributes for a correction. Raises CorrectionRefused."""
    if not attributes and not may_be_none:
        raise CorrectionRefused("no attribute is named")
    items = {}
    for tag, text in attributes.items():
        name = tags.keyword_of(tag)
        level = archive.schema.level_of.get(tag)
        if tag in IDENTITY:
            raise CorrectionRefused(f"{name} identifies the patient: merge the patient, or move the study")
        if level is None:
            raise CorrectionRefused(f"{name} is not indexed; only indexed attributes can be corrected")
        if level not in levels or tag in _NEVER_SET:
            level_names = " or ".join(_LEVEL_NAMES[level_names] for level_names in levels)
            raise CorrectionRefused(f"{name} is no attribute of the {level_names} level, or cannot be set")
        check_value(tag, archive.schema.vr_of(tag), text)
        items[tag] = text.rstrip(" ").encode()
    return items


# writing ---------------------------------------------------------------------------------------------


def _record(archive: Archive, decide: Callable[[Snapshot], _Decision], *, actor: Principal, reason: str) -> Corrected:
    """Calls `decide` in a read transaction, under the lock of the ledger, and writes its decision.

    Durable and visible to every process when it returns. Raises CorrectionRefused (nothing was written), StorageFull,
    StorageFailed, IndexError_. After the last three, or the death of the process, the record may be in the log; it then
    takes effect at the next start.
    """

    ledger = archive.parts.ledger
    with ledger.locked():
        with archive.parts.index.snapshot() as snapshot:
            decision = decide(snapshot)
            newest = snapshot.newest_correction()
        decisions = [decision, *([decision.following] if decision.following else ())]
        corrections = [_correction(each, ledger.next_stamp(newest), actor, reason) for each in decisions]
        # If the first try has left records in the log, the second writes copies of the same corrections.
        ledger.with_reserve(lambda: ledger.write(corrections))
    numbers = [number_of(correction.stamp) for correction in corrections]
    for each, number in zip(decisions, numbers, strict=True):
        _write_event(archive, each, number, actor, reason)
        operation = each.operation.name.lower()
        logger.info("corrected", number=number, operation=operation, studies=each.studies, by=actor.actor)
    return Corrected(numbers[0], decision.studies, *numbers[1:])


def _correction(decision: _Decision, stamp: int, actor: Principal, reason: str) -> Correction:
    """The record of a decision. Raises CorrectionRefused."""
    correction = Correction(
        UNPLACED,
        stamp,
        decision.operation,
        decision.level,
        decision.names,
        blob_of(decision.items),
        decision.undoes,
        time.time_ns(),
        bounded(actor.actor),
        bounded(reason),
    )
    try:
        correction.pack_meta()
    except IndexError_ as error:
        raise CorrectionRefused(f"{error}: name fewer studies at a time") from error
    return correction


def _write_event(archive: Archive, decision: _Decision, number: str, actor: Principal, reason: str) -> None:
    """Records a correction in the audit log."""
    kind = Kind.MERGED if decision.operation in (Operation.MERGE, Operation.MOVE) else Kind.CORRECTED
    values = {tags.keyword_of(tag): value.decode("utf-8", "replace") for tag, value in decision.items.items()}
    sets = " ".join(f"{keyword}={value}" for keyword, value in values.items())
    undoes = f" undoes {number_of(decision.undoes)}" if decision.undoes else ""
    detail = f"{decision.operation.name.lower()} {number}{undoes}: {sets}".rstrip(": ")
    names = [name.decode("utf-8", "replace") for name in decision.names]
    index = archive.parts.index
    if decision.level == Level.PATIENT or not names:
        patient_id, issuer, *_ = [*names, "", ""]
        patient_changed(kind, patient_id, issuer, decision.studies, actor=actor, reason=reason, detail=detail)
    else:
        studies = names[:1] if decision.level == Level.SERIES else names
        changed(index, kind, studies, actor=actor, reason=reason, detail=detail)
