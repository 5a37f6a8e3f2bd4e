"""What happens to workitems: created, set, claimed, ended, canceled, forgotten; each in one transaction.

A final workitem is kept for some time, and for as long as a subscriber has a deletion lock on it. The patient of a
workitem is who the registry says by now: after a merge, the survivor.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.dicom.identifier import Value
from engine.errors import WorkitemRefused
from engine.orders import attributes, patients
from engine.orders.attributes import Items, in_utf_8, values_of
from engine.orders.rows import HistoryRow, WorkitemRow
from engine.orders.transactions import Reading
from engine.orders.values import Identifier, Issuer
from engine.orders.work import Work
from engine.orders.workitems import rules, subscriptions, values
from engine.orders.workitems.facts import prefix_of
from engine.orders.workitems.rules import ONLY_CREATED, Fault, Remark, State

CLASS_UID: Final = "1.2.840.10008.5.1.4.34.6.1"
"""Unified Procedure Step Push: the SOP class of every workitem."""
DATA_SET_BYTES_MAX: Final = 4 << 20
WORKITEMS_MAX: Final = 200_000
"""Workitems at one time. Nobody performs so many; a program that only makes some would fill the disk."""
WORKITEMS_BYTES_MAX: Final = 8 << 30
"""Of all workitems, for a new one; twice that for changes, so that begun work can be ended. They share a database with
the orders, which must not find it full."""
GONE_S: Final = 30 * 86_400.0
"""How long it is known of a removed workitem that there was one."""
HISTORY_MAX: Final = 40
HISTORY_CHARACTERS_MAX: Final = 256

_PROGRESS: Final = tags.ProcedureStepProgressInformationSequence
_ASSIGNED: Final = (tags.ScheduledStationNameCodeSequence, tags.ScheduledHumanPerformersSequence)
_UNSPECIFIED: Final = {
    tags.CodeValue: b"110513",
    tags.CodingSchemeDesignator: b"DCM",
    tags.CodeMeaning: b"Discontinued for unspecified reason",
}
"""The reason of a cancelation for which nobody gives one (PS3.16 CID 9300)."""
_REASONS: Final = (
    tags.ReasonForCancellation, tags.ProcedureStepDiscontinuationReasonCodeSequence, tags.ContactURI,
    tags.ContactDisplayName,
)  # fmt: skip


def find(reading: Reading, uid: str) -> WorkitemRow:
    """A workitem. Raises WorkitemRefused."""
    row = reading.get(reading.database.workitems, uid.encode()) if rules.is_uid(uid) else None
    if row is not None:
        return row
    if reading.is_gone(uid):
        raise WorkitemRefused("the workitem ended some time ago, and has been removed", Fault.GONE)
    raise WorkitemRefused("no such workitem", Fault.UNKNOWN)


def seen(reading: Reading, uid: str, reach: Callable[[Items], bool] | None) -> tuple[WorkitemRow, Items]:
    """A workitem and its attributes, if the caller may reach it. Raises WorkitemRefused."""
    try:
        row = find(reading, uid)
    except WorkitemRefused as refusal:
        if reach is None:
            raise
        raise WorkitemRefused("no such workitem", Fault.UNKNOWN) from refusal
    items = attributes_of(reading, row)
    if reach is not None and not reach(items):
        raise WorkitemRefused("no such workitem", Fault.UNKNOWN)
    return row, items


def attributes_of(reading: Reading, row: WorkitemRow) -> Items:
    """Its attributes, of its patient as the registry has them now."""
    return with_patient(reading, subscriptions.decoded(row).items, row.patient)


def with_patient(reading: Reading, items: Items, number: int) -> Items:
    """Attributes of a workitem, of its patient as the registry has them now. `number`: of the patient; 0: unknown."""
    found = patients.current(reading, number) if number else None
    if found is None or not found[1].identifiers or found[0] == number:
        return items
    survivor, identifier = found[1], found[1].identifiers[0]
    changed: dict[int, Value] = {
        tags.PatientID: identifier.value.encode(),
        tags.IssuerOfPatientID: (identifier.issuer.name or identifier.issuer.universal_id).encode(),
    }
    for tag in (tags.PatientName, tags.PatientBirthDate, tags.PatientSex):
        text = survivor.attributes.get(tags.keyword_of(tag))
        if isinstance(text, str):
            changed[tag] = text.encode()
    return {**items, **changed}


def create(
    work: Work,
    uid: str,
    data_set: DataSet,
    matches_of: Callable[[bytes], subscriptions.Matches],
    *,
    is_ours: bool = False,
) -> WorkitemRow:
    """An N-CREATE. `is_ours`: the archive makes it, of what it has stored. Raises WorkitemRefused."""
    if not rules.is_uid(uid):
        raise WorkitemRefused("the SOP Instance UID is no UID", Fault.UID)
    table = work.tables.workitems
    if work.writing.raw(table, uid.encode()) is not None:
        raise WorkitemRefused("a workitem with this SOP Instance UID exists already", Fault.DUPLICATE)
    rules.check_created(data_set)
    created = in_utf_8(data_set)
    if not is_ours:
        values.check(created)
    if work.writing.count(table) >= WORKITEMS_MAX:
        raise WorkitemRefused(f"there are {WORKITEMS_MAX} workitems already", Fault.RESOURCES)
    _check_room(work, WORKITEMS_BYTES_MAX)
    items: Items = {
        **rules.with_defaults(created),
        tags.SOPClassUID: CLASS_UID.encode(),
        tags.SOPInstanceUID: uid.encode(),
        tags.ScheduledProcedureStepModificationDateTime: _now(work),
    }
    issuer = data_set.text(tags.IssuerOfPatientID).strip()
    patient_id = data_set.text(tags.PatientID).strip()
    patient = patients.find(work.writing, Identifier(patient_id, Issuer(issuer))) if patient_id else None
    row = WorkitemRow(
        state=State.SCHEDULED,
        data_set=_encoded(items),
        patient=patient[0] if patient else 0,
        creator=work.source.name,
        created=work.now,
        history=(_entry(work, "created"),),
    )
    work.writing.put(table, uid.encode(), row)
    subscriptions.announce(work, uid, row, items, matches_of)
    return row


def update(work: Work, uid: str, data_set: DataSet, row: WorkitemRow, *, is_ours: bool = False) -> Remark:
    """An N-SET. Raises WorkitemRefused."""
    rules.check_update(State(row.state), row.transaction_uid, data_set.text(tags.TransactionUID).strip())
    _check_room(work, 2 * WORKITEMS_BYTES_MAX)
    stored = subscriptions.decoded(row).items
    changes = in_utf_8(data_set)
    changes.pop(tags.TransactionUID, None)
    state = changes.pop(tags.ProcedureStepState, row.state.encode())
    if state != row.state.encode():
        fault = Fault.ONLY_CREATED if state == b"SCHEDULED" else Fault.VALUE
        raise WorkitemRefused("the state changes by N-ACTION only", fault, (tags.ProcedureStepState,))
    rules.check_values(data_set)
    if not is_ours:
        values.check(changes)
    refused = [tag for tag in changes if tag in ONLY_CREATED and changes[tag] != stored.get(tag, b"")]
    for tag in ONLY_CREATED:
        changes.pop(tag, None)
    items: Items = {**stored, **changes, tags.ScheduledProcedureStepModificationDateTime: _now(work)}
    for tag in rules.REQUIRED:
        if not items.get(tag):
            raise WorkitemRefused(f"{tags.keyword_of(tag)} has no value", Fault.NO_VALUE, (tag,))
    after = replace(row, data_set=_encoded(items), history=_with(row, _entry(work, "set")))
    work.writing.put(work.tables.workitems, uid.encode(), after)
    _report_changes(work, uid, after, stored, items)
    return Remark.NOT_SET if refused else Remark.NONE


def _report_changes(work: Work, uid: str, row: WorkitemRow, before: Items, after: Items) -> None:
    def is_changed(*of: int) -> bool:
        old, new = ({tag: items.get(tag) or b"" for tag in of} for items in (before, after))
        return attributes.encoded(old) != attributes.encoded(new)

    if is_changed(tags.InputReadinessState):
        subscriptions.report(work, uid, subscriptions.STATE_REPORT, subscriptions.state_report(row))
    if is_changed(_PROGRESS):
        subscriptions.report(work, uid, subscriptions.PROGRESS_REPORT, {_PROGRESS: after.get(_PROGRESS) or []})
    if is_changed(*_ASSIGNED):
        subscriptions.report(work, uid, subscriptions.ASSIGNED, subscriptions.assigned(after))


def change_state(work: Work, uid: str, requested: str, transaction_uid: str, row: WorkitemRow) -> Remark:
    """An N-ACTION Change UPS State. Raises WorkitemRefused."""
    remark = rules.check_change(State(row.state), row.transaction_uid, requested, transaction_uid)
    if remark:
        return remark
    stored = subscriptions.decoded(row).items
    if requested == State.COMPLETED:
        rules.check_completed(stored)
    _enter(work, uid, row, State(requested), stored, transaction_uid, None)
    return Remark.NONE


def request_cancel(work: Work, uid: str, information: DataSet, requester: str, row: WorkitemRow) -> Remark:
    """An N-ACTION Request UPS Cancel. Raises WorkitemRefused."""
    remark = rules.check_cancel(State(row.state))
    if remark:
        return remark
    reasons = {tag: value for tag, value in in_utf_8(information).items() if tag in _REASONS and value}
    requested: Items = {tags.RequestingAE: requester.encode()[:16], **reasons}
    reason = information.text(tags.ReasonForCancellation).strip()
    if row.state == State.SCHEDULED:
        lock = f"2.25.{uuid.uuid4().int}"
        stored = subscriptions.decoded(row).items
        subscriptions.report(work, uid, subscriptions.CANCEL_REQUESTED, requested)
        row, items = _enter(work, uid, row, State.IN_PROGRESS, stored, lock, None)
        _enter(work, uid, row, State.CANCELED, items, lock, reasons, reason)
        return Remark.NONE
    if not subscriptions.report(work, uid, subscriptions.CANCEL_REQUESTED, requested):
        raise WorkitemRefused("nobody listens for requests to cancel this workitem", Fault.NOBODY)
    asked = replace(row, history=_with(row, _entry(work, "canceling", reason)))
    work.writing.put(work.tables.workitems, uid.encode(), asked)
    return Remark.NONE


def _enter(
    work: Work, uid: str, row: WorkitemRow, state: State, items: Items, lock: str, reasons: Items | None,
    reason: str = "",
) -> tuple[WorkitemRow, Items]:  # fmt: skip
    """Changes the state, and tells the subscribers."""
    after: dict[int, Value] = {**items, tags.ProcedureStepState: state.encode()}
    if state is State.CANCELED:
        after[_PROGRESS] = [_canceled(work, items, reasons or {})]
    row = replace(
        row,
        state=state,
        data_set=_encoded(after),
        transaction_uid=lock,
        ended=work.now if state.is_final else 0.0,
        history=_with(row, _entry(work, state, reason)),
    )
    work.writing.put(work.tables.workitems, uid.encode(), row)
    subscriptions.report(work, uid, subscriptions.STATE_REPORT, subscriptions.state_report(row))
    return row, after


def _canceled(work: Work, items: Items, reasons: Items) -> Items:
    """The progress of a canceled workitem: what a final state needs (code X) is there."""
    progress = items.get(_PROGRESS)
    known = dict(values_of(progress[0])) if progress and not isinstance(progress, bytes) else {}
    codes = tags.ProcedureStepDiscontinuationReasonCodeSequence
    found = {**known, **{tag: value for tag, value in reasons.items() if tag in (codes, tags.ReasonForCancellation)}}
    if not found.get(tags.ProcedureStepCancellationDateTime):
        found[tags.ProcedureStepCancellationDateTime] = _now(work)
    if not found.get(codes):
        found[codes] = [_UNSPECIFIED]
    return found


def forget(work: Work, before: float) -> int:
    """Removes the workitems that ended before a time, and that nobody keeps; returns their number."""
    tables, count = work.tables, 0
    final = tuple(prefix_of("s", "CS", state) for state in State if state.is_final)
    for tail in list(work.writing.workitems_found(final)):
        uid = tail[tail.rindex(b"\0") + 1 :].decode()
        facts = work.writing.facts(uid)
        if facts is None or facts.ended >= before or subscriptions.is_locked(work.writing, uid):
            continue
        work.writing.delete(tables.workitems, uid.encode())
        work.writing.put_gone(uid, work.now)
        for title in subscriptions.subscribers_of(work.writing, uid):
            work.writing.delete(tables.subscriptions, subscriptions.subscription_key(uid, title))
        count += 1
    work.writing.forget_gone(work.now - GONE_S)
    return count


def _entry(work: Work, action: str, reason: str = "") -> HistoryRow:
    return HistoryRow(work.now, action, work.source.name[:HISTORY_CHARACTERS_MAX], reason[:HISTORY_CHARACTERS_MAX])


def _with(row: WorkitemRow, entry: HistoryRow) -> tuple[HistoryRow, ...]:
    """The history with one more entry; without the oldest but the first if there are too many."""
    before = row.history
    if entry.action == "set" and before and before[-1].action == "set" and before[-1].by == entry.by:
        before = before[:-1]
    if len(before) >= HISTORY_MAX:
        before = before[:1] + before[2:]
    return (*before, entry)


def _check_room(work: Work, bytes_max: int) -> None:
    if work.writing.room_of(work.tables.workitems) >= bytes_max:
        raise WorkitemRefused("the workitems take too much room already", Fault.RESOURCES)


def _encoded(items: Items) -> bytes:
    encoded = attributes.encoded(items)
    if len(encoded) > DATA_SET_BYTES_MAX:
        raise WorkitemRefused("too many attributes", Fault.RESOURCES)
    return encoded


def _now(work: Work) -> bytes:
    """The time as DT, with the offset from UTC."""
    return datetime.fromtimestamp(work.now).astimezone().strftime("%Y%m%d%H%M%S.%f%z").encode()
