"""The rules of workitems: states and who may change them (PS3.4 CC.1.1), and which attributes must be there (CC.2.5).

    created ──► SCHEDULED ──► IN PROGRESS ──► COMPLETED      whoever sets IN PROGRESS brings a Transaction UID,
                    │              └────────► CANCELED       without which nobody changes the workitem from then on
                    └── cancel requested ───► CANCELED       with a Transaction UID of ours, which nobody knows

Pure functions. A state says what it must be told by raising WorkitemRefused.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from engine.dicom import tags
from engine.dicom.identifier import Identifier, Value
from engine.dicom.values import precision_range
from engine.errors import WorkitemRefused
from engine.orders.attributes import Items, values_of


class State(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more."""
        return self in (State.COMPLETED, State.CANCELED)


class Fault(StrEnum):
    """Why a request is refused; the services have the statuses."""

    FINAL = "final"
    TRANSACTION = "transaction"
    IN_PROGRESS = "in-progress"
    ONLY_CREATED = "only-created"
    INCOMPLETE = "incomplete"
    UNKNOWN = "unknown"
    GONE = "gone"
    RECEIVER = "receiver"
    NOT_SCHEDULED = "not-scheduled"
    NOT_IN_PROGRESS = "not-in-progress"
    COMPLETED = "completed"
    NOBODY = "nobody"
    ACTION = "action"
    MISSING = "missing"
    NO_VALUE = "no-value"
    VALUE = "value"
    DUPLICATE = "duplicate"
    UID = "uid"
    RESOURCES = "resources"
    NOT_ALLOWED = "not-allowed"


class Remark(StrEnum):
    """What a successful answer adds: a warning of the standard."""

    NONE = ""
    CANCELED = "already-canceled"
    COMPLETED = "already-completed"
    NOT_SET = "not-set"
    """Attributes that only an N-CREATE may set stayed as they were."""


UID_BYTES_MAX: Final = 64

PRIORITIES: Final = frozenset((b"HIGH", b"MEDIUM", b"LOW"))
READINESS: Final = frozenset((b"INCOMPLETE", b"UNAVAILABLE", b"READY"))

REQUIRED: Final = (
    tags.ScheduledProcedureStepPriority, tags.ProcedureStepLabel, tags.ScheduledProcedureStepStartDateTime,
    tags.InputReadinessState,
)  # fmt: skip
"""Type 1 in an N-CREATE, beside the state."""
_PRESENT: Final = (
    tags.ScheduledProcessingParametersSequence, tags.ScheduledStationNameCodeSequence,
    tags.ScheduledStationClassCodeSequence, tags.ScheduledStationGeographicLocationCodeSequence,
    tags.ScheduledHumanPerformersSequence, tags.ScheduledWorkitemCodeSequence,
    tags.CommentsOnTheScheduledProcedureStep, tags.InputInformationSequence, tags.StudyInstanceUID, tags.PatientName,
    tags.PatientID, tags.IssuerOfPatientID, tags.OtherPatientIDsSequence, tags.PatientBirthDate, tags.PatientSex,
    tags.AdmissionID, tags.IssuerOfAdmissionIDSequence, tags.AdmittingDiagnosesDescription,
    tags.AdmittingDiagnosesCodeSequence, tags.ReferencedRequestSequence,
    tags.ProcedureStepProgressInformationSequence, tags.UnifiedProcedureStepPerformedProcedureSequence,
)  # fmt: skip
"""Type 2: empty if the request has none."""
_EMPTY_AT_FIRST: Final = (
    tags.TransactionUID, tags.ProcedureStepProgressInformationSequence,
    tags.UnifiedProcedureStepPerformedProcedureSequence,
)  # fmt: skip
ONLY_CREATED: Final = frozenset((
    tags.SOPClassUID, tags.SOPInstanceUID, tags.PatientName, tags.PatientID, tags.IssuerOfPatientID,
    tags.IssuerOfPatientIDQualifiersSequence, tags.PatientBirthDate, tags.PatientSex, tags.AdmissionID,
    tags.IssuerOfAdmissionIDSequence, tags.AdmittingDiagnosesDescription, tags.AdmittingDiagnosesCodeSequence,
    tags.ReferencedRequestSequence, tags.ReplacedProcedureStepSequence,
))  # fmt: skip
"""What an N-SET may not change."""

_PERFORMED: Final = (
    tags.PerformedStationNameCodeSequence, tags.PerformedProcedureStepStartDateTime, tags.PerformedWorkitemCodeSequence,
    tags.PerformedProcedureStepEndDateTime, tags.OutputInformationSequence,
)  # fmt: skip
"""In the performed procedure of a completed workitem (final state code P)."""

DEFAULT_LABEL: Final = b"DEFAULT"
"""The Worklist Label of a workitem that comes without one."""


# states ----------------------------------------------------------------------------------------------


def check_transaction_uid(uid: str) -> None:
    """Raises WorkitemRefused for what can lock nothing."""
    if not uid:
        raise WorkitemRefused("the Transaction UID is missing", Fault.TRANSACTION, (tags.TransactionUID,))
    if not is_uid(uid):
        raise WorkitemRefused("the Transaction UID is no UID", Fault.TRANSACTION, (tags.TransactionUID,))


def check_change(state: State, lock: str, requested: str, transaction_uid: str) -> Remark:
    """Whether the state may become `requested` (Table CC.1.1-2); a remark: it is that already. Raises WorkitemRefused.

    `lock`: the Transaction UID of the workitem. Whether a final state's attributes are there is asked afterwards.
    """
    if requested == State.SCHEDULED:
        raise WorkitemRefused("a workitem is SCHEDULED when it is created, and never again", Fault.ONLY_CREATED)
    if requested not in frozenset(State):
        raise WorkitemRefused("no Procedure Step State", Fault.VALUE, (tags.ProcedureStepState,))
    check_transaction_uid(transaction_uid)
    if state is not State.SCHEDULED and transaction_uid != lock:
        raise WorkitemRefused("the Transaction UID is incorrect", Fault.TRANSACTION, (tags.TransactionUID,))
    if requested == State.IN_PROGRESS:
        if state is State.IN_PROGRESS:
            raise WorkitemRefused("the workitem is already IN PROGRESS", Fault.IN_PROGRESS)
        if state.is_final:
            raise WorkitemRefused(f"the workitem is {state}, and may no longer be updated", Fault.FINAL)
        return Remark.NONE
    if state is State.SCHEDULED:
        raise WorkitemRefused("the workitem is not yet IN PROGRESS", Fault.NOT_IN_PROGRESS)
    if state == requested:
        return Remark.COMPLETED if state is State.COMPLETED else Remark.CANCELED
    if state.is_final:
        raise WorkitemRefused(f"the workitem is {state}, and may no longer be updated", Fault.FINAL)
    return Remark.NONE


def check_update(state: State, lock: str, transaction_uid: str) -> None:
    """Whether attributes may be set (CC.2.6.3). Raises WorkitemRefused."""
    if state.is_final:
        raise WorkitemRefused(f"the workitem is {state}, and may no longer be updated", Fault.FINAL)
    if state is State.SCHEDULED and transaction_uid:
        raise WorkitemRefused("a Transaction UID, but the workitem is not yet IN PROGRESS", Fault.NOT_IN_PROGRESS)
    if state is State.IN_PROGRESS:
        check_transaction_uid(transaction_uid)
        if transaction_uid != lock:
            raise WorkitemRefused("the Transaction UID is incorrect", Fault.TRANSACTION, (tags.TransactionUID,))


def check_cancel(state: State) -> Remark:
    """Whether its cancelation may be requested; a remark: it is canceled already. Raises WorkitemRefused."""
    if state is State.COMPLETED:
        raise WorkitemRefused("the workitem is already COMPLETED", Fault.COMPLETED)
    return Remark.CANCELED if state is State.CANCELED else Remark.NONE


# attributes ------------------------------------------------------------------------------------------


def is_uid(text: str) -> bool:
    """Whether this is a UID (PS3.5 9.1); leading zeros are tolerated."""
    return 0 < len(text) <= UID_BYTES_MAX and text.isascii() and all(part.isdigit() for part in text.split("."))


def check_created(data_set: Identifier) -> None:
    """Whether an N-CREATE has what it must have. Raises WorkitemRefused."""
    state = data_set.text(tags.ProcedureStepState).strip()
    if state != State.SCHEDULED:
        raise WorkitemRefused("a workitem begins as SCHEDULED", Fault.NOT_SCHEDULED, (tags.ProcedureStepState,))
    for tag in REQUIRED:
        if tag not in data_set.items:
            raise WorkitemRefused(f"{tags.keyword_of(tag)} is missing", Fault.MISSING, (tag,))
        if not data_set.items[tag]:
            raise WorkitemRefused(f"{tags.keyword_of(tag)} has no value", Fault.NO_VALUE, (tag,))
    for tag in _EMPTY_AT_FIRST:
        if data_set.items.get(tag):
            raise WorkitemRefused(f"{tags.keyword_of(tag)} must be empty at first", Fault.VALUE, (tag,))
    check_values(data_set)


def check_values(data_set: Identifier) -> None:
    """Whether values that decide something are of those that PS3.3 has for them. Raises WorkitemRefused."""
    for tag, values in ((tags.ScheduledProcedureStepPriority, PRIORITIES), (tags.InputReadinessState, READINESS)):
        if tag in data_set.items and data_set.value(tag).strip() not in values:
            raise WorkitemRefused(f"{tags.keyword_of(tag)} has another value than it may have", Fault.VALUE, (tag,))
    tag = tags.ScheduledProcedureStepStartDateTime
    if tag in data_set.items and precision_range("DT", data_set.text(tag)) is None:
        raise WorkitemRefused(f"{tags.keyword_of(tag)} is no date and time", Fault.VALUE, (tag,))


def with_defaults(items: Items) -> dict[int, Value]:
    """The attributes of a new workitem, with those that it must have."""
    empty: dict[int, Value] = {tag: [] if tags.vr_of(tag) == "SQ" else b"" for tag in _PRESENT}
    result = {**empty, **items}
    if not result.get(tags.WorklistLabel):
        result[tags.WorklistLabel] = DEFAULT_LABEL
    result.pop(tags.TransactionUID, None)
    return result


def check_completed(items: Items) -> None:
    """Whether a workitem may become COMPLETED (final state codes R and P). Raises WorkitemRefused."""
    performed = items.get(tags.UnifiedProcedureStepPerformedProcedureSequence)
    values = values_of(performed[0]) if performed and not isinstance(performed, bytes) else {}
    lacking = [tag for tag in _PERFORMED if not values.get(tag)]
    if lacking:
        names = ", ".join(map(tags.keyword_of, lacking))
        raise WorkitemRefused(f"the performed procedure has no {names}", Fault.INCOMPLETE, lacking)
