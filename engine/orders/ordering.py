"""Orders, their requested procedures and scheduled steps.

An order is found by its accession, filler or placer number, whichever is known. What is final stays so: a late message
does not open a canceled or completed order again. A cancellation of an unknown order is kept, so that the order itself,
coming late, is not performed.

An order of another patient is refused: a person has to decide. Demographics in an order count for new patients only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Iterable

from msgspec.structs import replace

from engine.orders import patients
from engine.orders.names import id_key, name_key
from engine.orders.rows import OrderRow, ProcedureRow, StepRow
from engine.orders.transactions import Reading
from engine.orders.values import (
    ORDER_KEYWORDS,
    PROCEDURE_KEYWORDS,
    STEP_KEYWORDS,
    AppointmentAction,
    AppointmentUpdate,
    ChangeKind,
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    RefusalReason,
    ReportState,
    ReportUpdate,
    StepState,
    StepUpdate,
)
from engine.orders.work import ORDER_CREATED, ORDER_REPORTED, Work, check_identifier, is_same, merged, refuse

PROCEDURES_MAX = 100
STEPS_MAX = 500
"""Of one order."""

FINAL = frozenset((StepState.CANCELED, StepState.DISCONTINUED, StepState.COMPLETED))
"""States after which nothing more happens."""

_ENDS = {
    OrderAction.CANCEL: StepState.CANCELED,
    OrderAction.DISCONTINUE: StepState.DISCONTINUED,
    OrderAction.COMPLETE: StepState.COMPLETED,
}
_RANK = {state: number for number, state in enumerate(StepState)}


def find(
    reading: Reading,
    *,
    accession: Identifier | None = None,
    filler: Identifier | None = None,
    placer: Identifier | None = None,
) -> tuple[int, OrderRow] | None:
    """An order by one of its numbers."""
    for letter, identifier, field in (("a", accession, "accession"), ("f", filler, "filler"), ("p", placer, "placer")):
        if identifier is None:
            continue
        for number in reading.ids(name_key(letter, identifier.value)):
            row = reading.get(reading.database.orders, id_key(number))
            if row is not None and is_same(getattr(row, field), identifier):
                return number, row
    return None


def steps_of(reading: Reading, order: int) -> list[tuple[int, StepRow]]:
    """The steps of an order."""
    rows = (
        (number, reading.get(reading.database.steps, id_key(number))) for number in reading.ids(b"s" + id_key(order))
    )
    return [(number, row) for number, row in rows if row is not None]


def study_uids_of(reading: Reading, order: int) -> dict[str, str]:
    """Requested Procedure ID → Study Instance UID, of the procedures of an order."""
    row = reading.get(reading.database.orders, id_key(order))
    return {each.requested_procedure_id: each.study_instance_uid for each in row.procedures} if row is not None else {}


def update(work: Work, value: OrderUpdate) -> None:
    """Applies what is said of an order."""
    numbers = [each for each in (value.accession, value.filler, value.placer) if each is not None]
    if not numbers:
        raise refuse("the order has neither a placer, filler nor accession number", RefusalReason.INVALID)
    for each in numbers:
        check_identifier(each, "a number of the order")
    found = find(work.writing, accession=value.accession, filler=value.filler, placer=value.placer)
    if found is None and value.action is OrderAction.STATUS:
        raise refuse("the order is unknown", RefusalReason.UNKNOWN_KEY)
    patient, _ = patients.update(work, value.patient, only_if_new=True)
    number, before = found or (work.writing.next_id(), None)
    if before is not None and before.patient != patient:
        raise refuse("the order is known for another patient", RefusalReason.CONFLICT)
    row = before or OrderRow(patient=patient, created=work.said)
    row, keywords = _with(row, value)
    if before is not None and before.final and value.action not in _ENDS:
        work.warn(f"the order is {before.final}: it was not opened again")
        return
    procedures = value.procedures
    if not procedures and (before is None or not before.procedures):
        procedures = (ProcedureUpdate(steps=(StepUpdate(),)),)
    end = _ENDS.get(value.action)
    if end is not None and before is not None and not _names_any(procedures):
        procedures = ()
    row, names = _with_procedures(work, row, procedures, numbers[0])
    procedures = _with_known_steps(work, number, procedures, names, is_end=end is not None)
    is_whole = end is not None and _names_all(work, number, procedures if value.procedures else (), names)
    if end is not None and is_whole:
        row = replace(row, final=end.lower())
    work.writing.put(work.tables.orders, id_key(number), row)
    if row != before:
        work.supplies |= dict.fromkeys(work.writing.linked(number))
        action = "created" if before is None else (row.final if row.final != before.final else "changed")
        work.changed(ChangeKind.ORDER, number, action, keywords)
    _update_steps(work, number, procedures, names, end)
    if before is None and end is None:
        work.announce(ORDER_CREATED, number)
    if end is not None and is_whole:
        _end_steps(work, steps_of(work.writing, number), end)
    elif value.snapshot:
        _cancel_missing(work, number, procedures, names)


def _with(row: OrderRow, value: OrderUpdate) -> tuple[OrderRow, list[str]]:
    attributes, keywords = merged(row.attributes, value.attributes, ORDER_KEYWORDS)
    return replace(
        row,
        accession=value.accession or row.accession,
        filler=value.filler or row.filler,
        placer=value.placer or row.placer,
        visit=value.visit or row.visit,
        attributes=attributes,
    ), keywords


def _with_procedures(
    work: Work, row: OrderRow, updates: tuple[ProcedureUpdate, ...], number: Identifier
) -> tuple[OrderRow, list[str]]:
    """The order with its procedures, and the Requested Procedure ID of each update."""
    procedures = {each.requested_procedure_id: each for each in row.procedures}
    names: list[str] = []
    for position, update in enumerate(updates):
        name = update.requested_procedure_id.strip()
        if not name:
            known = [each.requested_procedure_id for each in row.procedures]
            name = known[position] if position < len(known) else _numbered(number.value, position)
        before = procedures.get(name)
        uid = update.study_instance_uid or (before.study_instance_uid if before else "")
        uid = uid or made_uid(work.site, number, name)
        attributes, _ = merged(before.attributes if before else {}, update.attributes, PROCEDURE_KEYWORDS)
        procedures[name] = ProcedureRow(requested_procedure_id=name, study_instance_uid=uid, attributes=attributes)
        names.append(name)
    if len(procedures) > PROCEDURES_MAX:
        raise refuse(f"an order with more than {PROCEDURES_MAX} requested procedures", RefusalReason.INVALID)
    return replace(row, procedures=tuple(procedures.values())), names


def _numbered(name: str, position: int) -> str:
    return name if position == 0 else f"{name}-{position + 1}"


def made_uid(site: bytes, number: Identifier, name: str) -> str:
    """A Study Instance UID for an order that has none; always the same one, and another one for each authority."""
    issuer = number.issuer.universal_id or number.issuer.name
    digest = hashlib.sha256(b"\0".join((site, issuer.encode(), number.value.encode(), name.encode()))).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def _names_any(updates: tuple[ProcedureUpdate, ...]) -> bool:
    """Whether an update says which procedure or which step it means. Many cancellations repeat only the modality."""
    return any(
        update.requested_procedure_id.strip() or any(step.scheduled_procedure_step_id.strip() for step in update.steps)
        for update in updates
    )


def _with_known_steps(
    work: Work, order: int, updates: tuple[ProcedureUpdate, ...], names: list[str], *, is_end: bool
) -> tuple[ProcedureUpdate, ...]:
    """The updates with the IDs of the known steps that they mean without naming them.

    A change means the step at its position in its procedure; an end without any ID means all steps of its procedure.
    """
    known: dict[str, list[str]] = {}
    for _, step in steps_of(work.writing, order):
        known.setdefault(step.requested_procedure_id, []).append(step.scheduled_procedure_step_id)
    resolved = []
    for name, procedure in zip(names, updates, strict=True):
        ids, steps = known.get(name, []), procedure.steps
        if ids and is_end and not any(step.scheduled_procedure_step_id.strip() for step in steps):
            steps = tuple(StepUpdate(scheduled_procedure_step_id=each) for each in ids)
        elif ids:
            steps = tuple(
                step
                if step.scheduled_procedure_step_id.strip() or position >= len(ids)
                else dataclasses.replace(step, scheduled_procedure_step_id=ids[position])
                for position, step in enumerate(steps)
            )
        resolved.append(dataclasses.replace(procedure, steps=steps))
    return tuple(resolved)


def _names_all(work: Work, order: int, updates: tuple[ProcedureUpdate, ...], names: list[str]) -> bool:
    """Whether an end is one of the whole order: it names no step, or all that are open."""
    keys = _keys(updates, names)
    if not keys:
        return True
    is_open = [step for _, step in steps_of(work.writing, order) if step.state not in FINAL]
    return all(_key(step) in keys for step in is_open)


def _keys(updates: tuple[ProcedureUpdate, ...], names: list[str]) -> set[tuple[str, str]]:
    return {
        (name, step_id)
        for name, update in zip(names, updates, strict=False)
        for step_id in _step_ids(name, update.steps)
    }


def _key(step: StepRow) -> tuple[str, str]:
    return step.requested_procedure_id, step.scheduled_procedure_step_id


def _step_ids(name: str, steps: tuple[StepUpdate, ...]) -> list[str]:
    return [step.scheduled_procedure_step_id.strip() or _numbered(name, i) for i, step in enumerate(steps)]


def _update_steps(
    work: Work, order: int, updates: tuple[ProcedureUpdate, ...], names: list[str], end: StepState | None
) -> None:
    known = {_key(step): (number, step) for number, step in steps_of(work.writing, order)}
    for name, procedure in zip(names, updates, strict=True):
        for step_id, update in zip(_step_ids(name, procedure.steps), procedure.steps, strict=True):
            number, before = known.get((name, step_id), (0, None))
            row = before or StepRow(order=order, requested_procedure_id=name, scheduled_procedure_step_id=step_id)
            state = update.state if end is None else end
            after = step_with(work, row, replace_state(update, state))
            put_step(work, number, before, after)
            _warn_of_gaps(work, after)
    if len({*known, *_keys(updates, names)}) > STEPS_MAX:
        raise refuse(f"an order with more than {STEPS_MAX} steps", RefusalReason.INVALID)


def replace_state(update: StepUpdate, state: StepState | None) -> StepUpdate:
    """The update of a step with another state."""
    if state == update.state:
        return update
    return dataclasses.replace(update, state=state)


def step_with(work: Work, row: StepRow, update: StepUpdate, room: str = "") -> StepRow:
    """A step after an update. Its state goes forward only."""
    attributes, _ = merged(row.attributes, update.attributes, STEP_KEYWORDS)
    state = row.state
    if update.state is not None and row.state not in FINAL and _RANK[update.state] >= _RANK[row.state]:
        state = update.state
    elif update.state is not None and update.state is not row.state:
        work.warn(f"a step is {row.state}: it did not become {update.state}")
    aes = row.station_aes if update.station_aes is None else update.station_aes
    for ae in aes:
        if not 0 < len(ae.encode()) <= 16 or "\\" in ae or not ae.isprintable():
            raise refuse("a station of a step is no AE title: 1 to 16 characters, no backslash", RefusalReason.INVALID)
    for what, text in (("date as 20261201", update.start_date), ("time as 0930", update.start_time)):
        if text and not text.replace(".", "").isdigit():
            raise refuse(f"a step begins at no {what}", RefusalReason.INVALID)
    after = replace(
        row,
        modality=row.modality if update.modality is None else update.modality.strip().upper(),
        station_aes=aes,
        start_date=row.start_date if update.start_date is None else update.start_date.strip(),
        start_time=row.start_time if update.start_time is None else update.start_time.strip(),
        room=room or row.room,
        state=state,
        attributes=attributes,
        source=row.source or work.source.name,
    )
    ruled = work.rules.stations(
        after.modality, after.room or _text(after, "ScheduledProcedureStepLocation"), after.source
    )
    return replace(after, ruled_aes=ruled)


def _warn_of_gaps(work: Work, step: StepRow) -> None:
    """Warns of what keeps an open step from the lists of modalities, which ask for a station and a day."""
    if step.state in FINAL or step.is_unbooked:
        return
    if not step.aes and not work.rules.shows_unassigned:
        kind = f"of modality {step.modality}" if step.modality else "without modality"
        work.warn(f"a step {kind} has no station, and no [[station]] takes it: it is on no station's worklist")
    if not step.start_date:
        work.warn("a step has no date: a worklist of one day does not have it")


def _text(step: StepRow, keyword: str) -> str:
    value = step.attributes.get(keyword, "")
    return value if isinstance(value, str) else ""


def put_step(work: Work, number: int, before: StepRow | None, after: StepRow) -> None:
    """Writes a step if it is another one now. `number`: 0 for a new one."""
    if before == after:
        return
    number = number or work.writing.next_id()
    work.writing.put(work.tables.steps, id_key(number), after)
    if before is None:
        action = "created"
    else:
        action = after.state.lower() if after.state != before.state else "changed"
    work.changed(ChangeKind.STEP, number, action)


def _end_steps(work: Work, steps: Iterable[tuple[int, StepRow]], end: StepState) -> None:
    for number, step in steps:
        if step.state not in FINAL:
            put_step(work, number, step, replace(step, state=end))


def complete(work: Work, study_instance_uid: str, orders: Iterable[int]) -> None:
    """The study of these orders is complete: their steps end that no MPPS reports on.

    Of an order with several procedures only the steps of this study's, if it has one with its UID.
    """
    for order in orders:
        uids = study_uids_of(work.writing, order)
        is_named = study_instance_uid in uids.values()
        for number, step in steps_of(work.writing, order):
            is_other = is_named and uids.get(step.requested_procedure_id) != study_instance_uid
            if not (is_other or step.performed or step.state in FINAL):
                put_step(work, number, step, replace(step, state=StepState.COMPLETED))


def _cancel_missing(work: Work, order: int, updates: tuple[ProcedureUpdate, ...], names: list[str]) -> None:
    keys = _keys(updates, names)
    missing = [(number, step) for number, step in steps_of(work.writing, order) if _key(step) not in keys]
    _end_steps(work, missing, StepState.CANCELED)


# appointments and reports ----------------------------------------------------------------------------


def appoint(work: Work, value: AppointmentUpdate) -> None:
    """Applies an appointment to the steps of a known order."""
    found = find(work.writing, accession=value.accession, filler=value.filler, placer=value.placer)
    if found is None:
        raise refuse("the order of the appointment is unknown", RefusalReason.UNKNOWN_KEY)
    order, row = found
    _check_owner(work, row, value.patient)
    step_id = value.step.scheduled_procedure_step_id
    steps = [
        (number, step)
        for number, step in steps_of(work.writing, order)
        if step.state not in FINAL and (not step_id or step.scheduled_procedure_step_id == step_id)
    ]
    if not steps:
        work.warn("no open step belongs to the appointment")
    for number, step in steps:
        if value.action in (AppointmentAction.CANCEL, AppointmentAction.NO_SHOW):
            after = replace(step, is_unbooked=True)
        else:
            after = replace(step_with(work, step, value.step, value.room), is_unbooked=False)
        put_step(work, number, step, after)
        _warn_of_gaps(work, after)


def _check_owner(work: Work, row: OrderRow, patient: PatientUpdate) -> None:
    """Raises UpdateRefused if the order is known for another patient. One who is not known may be its patient."""
    owner = next(filter(None, (patients.find(work.writing, each) for each in patient.identifiers)), None)
    if owner is not None and owner[0] != row.patient:
        raise refuse("the order is known for another patient", RefusalReason.CONFLICT)


def report(work: Work, value: ReportUpdate) -> None:
    """An order has a report: a final one ends it."""
    found = find(work.writing, accession=value.accession, filler=value.filler, placer=value.placer)
    if found is None and value.study_instance_uid:
        orders = work.writing.ids(name_key("u", value.study_instance_uid))
        row = work.writing.get(work.tables.orders, id_key(orders[0])) if len(orders) == 1 else None
        found = (orders[0], row) if row is not None else None
    if found is None:
        work.warn("the order of the report is unknown")
        return
    order, row = found
    _check_owner(work, row, value.patient)
    is_final = value.state in (ReportState.FINAL, ReportState.CORRECTED)
    after = replace(row, report=str(value.state), final=row.final or ("completed" if is_final else ""))
    if after != row:
        work.writing.put(work.tables.orders, id_key(order), after)
        work.changed(ChangeKind.ORDER, order, "reported")
        if is_final:
            work.announce(ORDER_REPORTED, order)
    if is_final:
        _end_steps(work, steps_of(work.writing, order), StepState.COMPLETED)
