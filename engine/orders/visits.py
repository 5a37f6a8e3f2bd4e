"""Visits: where a patient is, and whether they have come."""

from __future__ import annotations

import time

from msgspec.structs import replace

from engine.orders import patients
from engine.orders.names import id_key
from engine.orders.rows import VisitRow
from engine.orders.transactions import Reading
from engine.orders.values import (
    VISIT_KEYWORDS,
    ChangeKind,
    Identifier,
    PatientUpdate,
    RefusalReason,
    StepState,
    VisitMove,
    VisitUpdate,
)
from engine.orders.work import Work, check_identifier, is_same, merged, refuse


def key_of(visit: Identifier) -> bytes:
    """The key of a visit's row. An authority is its universal id, else its name."""
    return f"{visit.value}\0{visit.issuer.universal_id or visit.issuer.name}".encode()[:480]


def find(reading: Reading, visit: Identifier | None) -> VisitRow | None:
    """A visit by its number."""
    return None if visit is None else reading.get(reading.database.visits, key_of(visit))


def update(work: Work, value: VisitUpdate) -> None:
    """Applies what is said of a visit."""
    if not value.patient:
        raise refuse("the visit has no patient", RefusalReason.INVALID)
    known = PatientUpdate(identifiers=value.patient)
    number, _ = patients.update(work, known, only_if_new=True)
    if value.visit is not None:
        check_identifier(value.visit, "the visit number")
        _update_row(work, value, value.visit, number)
    if value.arrived:
        _arrive(work, number, value.visit)


def _update_row(work: Work, value: VisitUpdate, visit: Identifier, patient: int) -> None:
    key = key_of(visit)
    row = work.writing.get(work.tables.visits, key)
    before = row or VisitRow(visit=visit, patient=patient)
    attributes, keywords = merged(before.attributes, value.attributes, VISIT_KEYWORDS)
    if row is not None and row.patient != patient:
        work.warn("the visit is known with another patient: it stays there until a move says otherwise")
    after = replace(before, attributes=attributes, state=str(value.state or before.state))
    if row != after:
        work.writing.put(work.tables.visits, key, after)
        work.changed(ChangeKind.VISIT, visit.value, "created" if row is None else "changed", keywords)


def _arrive(work: Work, patient: int, visit: Identifier | None) -> None:
    """The patient's scheduled steps of this visit, up to today, have their patient."""
    today = time.strftime("%Y%m%d", time.localtime(work.said))
    for order_number in work.writing.ids(b"o" + id_key(patient)):
        order = work.writing.get(work.tables.orders, id_key(order_number))
        if order is None or (visit and order.visit and not is_same(order.visit, visit)):
            continue
        for number in work.writing.ids(b"s" + id_key(order_number)):
            step = work.writing.get(work.tables.steps, id_key(number))
            if step is not None and step.state is StepState.SCHEDULED and step.start_date <= today:
                work.writing.put(work.tables.steps, id_key(number), replace(step, state=StepState.ARRIVED))
                work.changed(ChangeKind.STEP, number, "arrived")


def move(work: Work, value: VisitMove) -> None:
    """A visit belongs to another patient (A45)."""
    check_identifier(value.visit, "the visit number")
    number, _ = patients.update(work, value.target)
    key = key_of(value.visit)
    row = work.writing.get(work.tables.visits, key)
    previous = row.patient if row is not None else None
    if row is None or row.patient != number:
        after = replace(row, patient=number) if row is not None else VisitRow(visit=value.visit, patient=number)
        work.writing.put(work.tables.visits, key, after)
        work.changed(ChangeKind.VISIT, value.visit.value, "moved")
    prior = patients.find(work.writing, value.prior)
    for owner in {previous, prior[0] if prior else None} - {None, number}:
        for order_number in work.writing.ids(b"o" + id_key(owner or 0)):
            order = work.writing.get(work.tables.orders, id_key(order_number))
            if order is not None and is_same(order.visit, value.visit):
                patients.move_order(work, order_number, number)
    _move_studies(work, value, number)


def _move_studies(work: Work, value: VisitMove, patient: int) -> None:
    """Stored studies follow the orders of the visit to which they are linked; again, if a crash prevented that."""
    orders = []
    for number in work.writing.ids(b"o" + id_key(patient)):
        order = work.writing.get(work.tables.orders, id_key(number))
        if order is not None and is_same(order.visit, value.visit):
            orders.append(number)
    studies = [study for number in orders for study in work.writing.linked(number)]
    if studies:
        work.moves.append((tuple(dict.fromkeys(studies)), value.target.identifiers[0]))
    work.warn("studies that are linked to no order of the visit stay where they are: move them by hand")
