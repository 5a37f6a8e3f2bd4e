"""Performed procedure steps (MPPS, PS3.4 F.7): created, changed, ended; and what they do to scheduled steps.

    N-CREATE  IN PROGRESS ──N-SET──► COMPLETED | DISCONTINUED      after that nothing may be changed

    a scheduled step    STARTED while one of its performed steps is in progress, then COMPLETED if one of them is,
                        else DISCONTINUED

A performed step that names no order that is known, or one of another patient, is kept all the same: the examination has
happened. With another patient it is a conflict for a person to decide, and no step changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.dicom.identifier import Value
from engine.errors import StepRefused
from engine.orders import attributes, linking, ordering
from engine.orders.attributes import in_utf_8
from engine.orders.names import id_key, name_key
from engine.orders.rows import PerformedRow
from engine.orders.transactions import Reading
from engine.orders.values import ChangeKind, StepState
from engine.orders.work import STEP_CREATED, STEP_SET, Work

IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
STATUSES = frozenset((IN_PROGRESS, COMPLETED, DISCONTINUED))

DATA_SET_BYTES_MAX = 4 << 20
"""Of all attributes of one performed step: some thirty thousand references."""
ELEMENT_COUNT_MAX = 120_000
"""Elements and items of one performed step: three for each referenced instance."""

SCHEDULED_MAX = 100
"""Scheduled steps that one performed step names: each study of them is linked in the one transaction."""
PERFORMED_MAX = 100
"""Performed steps that count for the state of one scheduled step: each of their changes looks at all of them."""
UID_BYTES_MAX = 64

_REQUIRED = (
    tags.PerformedProcedureStepID,
    tags.PerformedStationAETitle,
    tags.PerformedProcedureStepStartDate,
    tags.PerformedProcedureStepStartTime,
    tags.Modality,
)
_PRESENT = (
    tags.PatientName, tags.PatientID, tags.PatientBirthDate, tags.PatientSex, tags.ReferencedPatientSequence,
    tags.StudyID, tags.ProcedureCodeSequence, tags.PerformedStationName, tags.PerformedLocation,
    tags.PerformedProcedureStepEndDate, tags.PerformedProcedureStepEndTime, tags.PerformedProcedureStepDescription,
    tags.PerformedProcedureTypeDescription, tags.PerformedProtocolCodeSequence, tags.PerformedSeriesSequence,
)  # fmt: skip
"""Type 2 in an N-CREATE (PS3.4 Table F.7.2-1)."""
_PRESENT_IN_ITEM = (
    tags.ReferencedStudySequence, tags.AccessionNumber, tags.RequestedProcedureID, tags.RequestedProcedureDescription,
    tags.ScheduledProcedureStepID, tags.ScheduledProcedureStepDescription, tags.ScheduledProtocolCodeSequence,
)  # fmt: skip
_ONLY_CREATED = frozenset((
    tags.ScheduledStepAttributesSequence, tags.PatientName, tags.PatientID, tags.PatientBirthDate, tags.PatientSex,
    tags.ReferencedPatientSequence, tags.PerformedProcedureStepID, tags.PerformedStationAETitle, tags.StudyID,
    tags.PerformedStationName, tags.PerformedLocation, tags.PerformedProcedureStepStartDate,
    tags.PerformedProcedureStepStartTime, tags.Modality,
))  # fmt: skip
"""What an N-SET may not set."""


def create(work: Work, uid: str, data_set: DataSet, calling_ae: str, *, strict: bool) -> list[str]:
    """An N-CREATE; returns the names of attributes that should be there. Raises StepRefused."""
    key = _key_of(uid)
    encoded = encoded_of(data_set)
    digest = hashlib.sha256(encoded).digest()
    before = work.writing.get(work.tables.performed, key)
    if before is not None:
        if before.created == digest:
            return []
        raise StepRefused("this SOP Instance exists already, with other attributes", "duplicate")
    if status_of(data_set) != IN_PROGRESS:
        raise StepRefused("a step begins as IN PROGRESS", "value", (tags.PerformedProcedureStepStatus,))
    missing = _check_created(data_set, strict=strict)
    items = data_set.sequence(tags.ScheduledStepAttributesSequence)
    row = PerformedRow(
        status=IN_PROGRESS,
        data_set=encoded,
        created=digest,
        calling_ae=calling_ae,
        steps=_scheduled(work, data_set, items),
        study_instance_uids=tuple(dict.fromkeys(item.text(tags.StudyInstanceUID) for item in items)),
        time=work.now,
    )
    work.writing.put(work.tables.performed, key, row)
    work.changed(ChangeKind.STEP, uid, "performed step created")
    work.announce(STEP_CREATED, uid, encoded)
    _move_steps(work, uid, row)
    return missing


def modify(work: Work, uid: str, data_set: DataSet, *, strict: bool) -> list[str]:
    """An N-SET; returns as `create` does. Raises StepRefused."""
    key = _key_of(uid)
    row = work.writing.get(work.tables.performed, key)
    if row is None:
        raise StepRefused("no such performed procedure step", "unknown")
    if row.status != IN_PROGRESS:
        raise StepRefused("the performed procedure step may no longer be updated", "final")
    status = status_of(data_set) or row.status
    if status not in STATUSES:
        raise StepRefused("no status of a performed procedure step", "value", (tags.PerformedProcedureStepStatus,))
    refused = sorted(_ONLY_CREATED & set(data_set.items))
    if strict and refused:
        raise StepRefused(f"{tags.keyword_of(refused[0])} cannot be changed", "value", tuple(refused))
    items: dict[int, Value] = {
        **in_utf_8(stored(row)),
        **{tag: value for tag, value in in_utf_8(data_set).items() if tag not in _ONLY_CREATED},
    }
    encoded = attributes.encoded(items)
    if len(encoded) > DATA_SET_BYTES_MAX:
        raise StepRefused("too many attributes", "resources")
    if refused:
        names = ", ".join(map(tags.keyword_of, refused))
        work.warn(f"what only an N-CREATE may set stayed as it was: {names}")
    missing = [] if status == IN_PROGRESS else _check_final(items, strict=strict)
    row = replace(row, status=status, data_set=encoded, time=work.now)
    work.writing.put(work.tables.performed, key, row)
    work.changed(ChangeKind.STEP, uid, f"performed step {status.lower()}")
    work.announce(STEP_SET, uid, encoded_of(data_set))
    _move_steps(work, uid, row)
    return missing


def stored(row: PerformedRow) -> DataSet:
    """The attributes of a performed step."""
    return attributes.decoded(row.data_set, element_count_max=ELEMENT_COUNT_MAX)


def find(reading: Reading, uid: str) -> PerformedRow | None:
    """A performed step. Raises StepRefused for what can be no UID."""
    return reading.get(reading.database.performed, _key_of(uid))


def of_study(reading: Reading, study_instance_uid: str) -> list[PerformedRow]:
    """The performed steps of a study, by the orders that it belongs to: those of unknown orders are not found."""
    orders = [row.order for row in linking.orders_of(reading, study_instance_uid)]
    orders += reading.ids(name_key("u", study_instance_uid))
    uids = [
        uid
        for order in dict.fromkeys(orders)
        for _, step in ordering.steps_of(reading, order)
        for uid in step.performed
    ]
    rows = [row for row in (find(reading, uid) for uid in dict.fromkeys(uids)) if row is not None]
    return [row for row in rows if study_instance_uid in row.study_instance_uids]


def references_of(row: PerformedRow) -> list[str]:
    """The SOP Instance UIDs of the series that a step has performed."""
    return [
        uid
        for series in stored(row).sequence(tags.PerformedSeriesSequence)
        for tag in (tags.ReferencedImageSequence, tags.ReferencedNonImageCompositeSOPInstanceSequence)
        for item in series.sequence(tag)
        if (uid := item.text(tags.ReferencedSOPInstanceUID).strip())
    ]


def _key_of(uid: str) -> bytes:
    key = uid.encode("utf-8", "replace")
    if not 1 <= len(key) <= UID_BYTES_MAX:
        raise StepRefused(f"the SOP Instance UID has {len(key)} bytes, and may have 1 to {UID_BYTES_MAX}", "uid")
    return key


def status_of(data_set: DataSet) -> str:
    """Its Performed Procedure Step Status."""
    return data_set.text(tags.PerformedProcedureStepStatus).strip().upper()


# what must be there ----------------------------------------------------------------------------------


def _check_created(data_set: DataSet, *, strict: bool) -> list[str]:
    for tag in (tags.ScheduledStepAttributesSequence, *_REQUIRED):
        if tag not in data_set.items:
            raise StepRefused(f"{tags.keyword_of(tag)} is missing", "missing", (tag,))
        if not data_set.items[tag]:
            raise StepRefused(f"{tags.keyword_of(tag)} has no value", "no-value", (tag,))
    items = data_set.sequence(tags.ScheduledStepAttributesSequence)
    if len(items) > SCHEDULED_MAX:
        raise StepRefused(f"it performs more than {SCHEDULED_MAX} scheduled steps", "resources")
    if not all(item.text(tags.StudyInstanceUID) for item in items):
        raise StepRefused("StudyInstanceUID of a scheduled step is missing", "missing", (tags.StudyInstanceUID,))
    absent = [tag for tag in _PRESENT if tag not in data_set.items]
    absent += [tag for tag in _PRESENT_IN_ITEM if any(tag not in item.items for item in items)]
    if strict and absent:
        raise StepRefused(f"{tags.keyword_of(absent[0])} is missing", "missing", tuple(absent))
    return [tags.keyword_of(tag) for tag in absent]


def _check_final(items: Mapping[int, Value], *, strict: bool) -> list[str]:
    required = (tags.PerformedProcedureStepEndDate, tags.PerformedProcedureStepEndTime, tags.PerformedSeriesSequence)
    absent = [tag for tag in required if not items.get(tag)]
    if strict and absent:
        raise StepRefused(f"{tags.keyword_of(absent[0])} is missing at the end", "missing", tuple(absent))
    return [tags.keyword_of(tag) for tag in absent]


# scheduled steps -------------------------------------------------------------------------------------


def _scheduled(work: Work, data_set: DataSet, items: Sequence[DataSet]) -> tuple[int, ...]:
    """The scheduled steps that it performs, of orders of the same patient."""
    numbers: dict[int, None] = {}
    patient_id = data_set.text(tags.PatientID).strip()
    for item in items:
        named = linking.Named(
            study_instance_uid=item.text(tags.StudyInstanceUID).strip(),
            accession=item.text(tags.AccessionNumber).strip(),
            patient_id=patient_id,
            requested=(
                (item.text(tags.RequestedProcedureID).strip(), item.text(tags.ScheduledProcedureStepID).strip()),
            ),
        )
        for order, _ in linking.link(work, named, "mpps"):
            numbers |= dict.fromkeys(_steps_named(work, order, named))
    return tuple(numbers)


def _steps_named(work: Work, order: int, named: linking.Named) -> list[int]:
    """The steps of an order that a performed step names: by its ID, else those of the procedure with its ID or Study
    Instance UID, else those of the only procedure, since modalities make UIDs of their own.
    """
    procedure_id, step_id = named.requested[0]
    uids = ordering.study_uids_of(work.writing, order)
    steps = ordering.steps_of(work.writing, order)
    if step_id:
        return [
            number
            for number, step in steps
            if step.scheduled_procedure_step_id == step_id
            and (not procedure_id or step.requested_procedure_id == procedure_id)
        ]
    of_procedure = [number for number, step in steps if procedure_id and step.requested_procedure_id == procedure_id]
    of_study = [number for number, step in steps if uids.get(step.requested_procedure_id) == named.study_instance_uid]
    if of_procedure or of_study:
        return of_procedure or of_study
    if procedure_id or len({step.requested_procedure_id for _, step in steps}) > 1:
        work.warn("the performed step names no step of its order")
        return []
    return [number for number, _ in steps]


def _move_steps(work: Work, uid: str, row: PerformedRow) -> None:
    for number in row.steps:
        step = work.writing.get(work.tables.steps, id_key(number))
        if step is None:
            continue
        if uid not in step.performed and len(step.performed) >= PERFORMED_MAX:
            work.warn(f"the step was performed {PERFORMED_MAX} times: this one does not count")
            continue
        after = replace(step, performed=tuple(dict.fromkeys((*step.performed, uid))))
        if step.state is StepState.CANCELED:
            work.warn("a canceled step was performed")
        else:
            statuses = {each.status for each in (find(work.writing, other) for other in after.performed) if each}
            after = replace(after, state=_state_by(statuses))
        ordering.put_step(work, number, step, after)


def _state_by(statuses: set[str]) -> StepState:
    if IN_PROGRESS in statuses:
        return StepState.STARTED
    return StepState.COMPLETED if COMPLETED in statuses else StepState.DISCONTINUED


def encoded_of(data_set: DataSet) -> bytes:
    """A data set as it is stored. Raises StepRefused if it is too long."""
    encoded = attributes.encoded(in_utf_8(data_set))
    if len(encoded) > DATA_SET_BYTES_MAX:
        raise StepRefused("too many attributes", "resources")
    return encoded
