"""Links between orders and stored studies: n to m, made by rules or by hand, and undone for good.

A rule links a study to each order that it names, if the patients are the same:

    study-uid            the Study Instance UID of one of the order's procedures
    accession            its accession number
    request-attributes   Requested Procedure ID and Scheduled Procedure Step ID of its Request Attributes
    mpps                 the same of a performed step

With another patient it is a conflict, kept for a person to decide; nothing is linked. No rule makes a link again that
was undone. A link changes no instance. What a linked study lacks, its orders supply (`supplying`).
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from engine.orders import ordering, patients
from engine.orders.names import id_key, name_key
from engine.orders.rows import ConflictRow, LinkRow, OrderRow
from engine.orders.transactions import Reading
from engine.orders.values import ChangeKind, RefusalReason
from engine.orders.work import Work, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What an instance or a performed step says of its order."""

    study_instance_uid: str
    accession: str = ""
    accession_issuer: str = ""
    """Name or universal id of the issuer, if it says so."""
    patient_id: str = ""
    patient_issuer: str = ""
    requested: tuple[tuple[str, str], ...] = ()
    """Requested Procedure ID and Scheduled Procedure Step ID of each item."""


def key_of(study_instance_uid: str, order: int) -> bytes:
    """The key of a link or a conflict."""
    return study_instance_uid.encode()[:64] + b"\0" + id_key(order)


def link(work: Work, named: Named, rule: str = "") -> list[tuple[int, OrderRow]]:
    """Links a study to the orders that it names; returns those of its patient. `rule`: instead of the one that fits."""
    orders: list[tuple[int, OrderRow]] = []
    if any(True for _ in work.writing.rows(work.tables.links, named.study_instance_uid.encode() + b"\0")):
        work.supplies[named.study_instance_uid] = None  # again: a series may have come since
    for order, row, fitting in _candidates(work.writing, named):
        if not _is_of_patient(work.writing, row, named.patient_id):
            _note_conflict(work, named, order)
            continue
        orders.append((order, row))
        if work.writing.get(work.tables.links, key_of(named.study_instance_uid, order)) is None:
            _put(work, named.study_instance_uid, order, rule or fitting)
    return orders


def _candidates(reading: Reading, named: Named) -> list[tuple[int, OrderRow, str]]:
    """The orders that it names, by the strongest rule that finds any."""
    found = _rows(reading, reading.ids(name_key("u", named.study_instance_uid)), "study-uid")
    if not found and named.accession:
        rows = _rows(reading, reading.ids(name_key("a", named.accession)), "accession")
        found = [each for each in rows if _is_issuer(each[1], named.accession_issuer)]
        if len(found) > 1:
            # One number of several authorities: only the patient can tell.
            found = [each for each in found if named.patient_id and _is_of_patient(reading, each[1], named.patient_id)]
    if not found:
        for procedure_id, step_id in named.requested:
            rows = (
                _rows(reading, reading.ids(name_key("r", procedure_id)), "request-attributes") if procedure_id else []
            )
            found += [each for each in rows if _has_step(reading, each[0], procedure_id, step_id)]
        # Numbers of procedures repeat between systems: they count only for the same patient.
        found = [each for each in found if named.patient_id and _is_of_patient(reading, each[1], named.patient_id)]
    return list({each[0]: each for each in found}.values())


def _rows(reading: Reading, numbers: list[int], rule: str) -> list[tuple[int, OrderRow, str]]:
    rows = ((number, reading.get(reading.database.orders, id_key(number))) for number in numbers)
    return [(number, row, rule) for number, row in rows if row is not None]


def _is_issuer(row: OrderRow, issuer: str) -> bool:
    if not issuer or row.accession is None:
        return True
    own = row.accession.issuer
    return not (own.name or own.universal_id) or issuer in (own.name, own.universal_id)


def _has_step(reading: Reading, order: int, procedure_id: str, step_id: str) -> bool:
    return any(
        step.requested_procedure_id == procedure_id and step_id in ("", step.scheduled_procedure_step_id)
        for _, step in ordering.steps_of(reading, order)
    )


def _is_of_patient(reading: Reading, row: OrderRow, patient_id: str) -> bool:
    """Whether an order is for the patient with this ID; also if the study does not say whose it is."""
    owner = patients.current(reading, row.patient)
    if not patient_id or owner is None:
        return not patient_id
    return any(each.value == patient_id for each in owner[1].identifiers)


def _put(work: Work, study_instance_uid: str, order: int, rule: str) -> None:
    key = key_of(study_instance_uid, order)
    row = LinkRow(study_instance_uid=study_instance_uid, order=order, rule=rule, by=work.source.who, time=work.now)
    work.writing.put(work.tables.links, key, row)
    work.writing.delete(work.tables.conflicts, key)
    work.supplies[study_instance_uid] = None
    work.changed(ChangeKind.LINK, study_instance_uid, "linked")


def _note_conflict(work: Work, named: Named, order: int) -> None:
    key = key_of(named.study_instance_uid, order)
    if work.writing.get(work.tables.links, key) is not None:
        return  # a person has decided
    if work.writing.get(work.tables.conflicts, key) is None:
        row = ConflictRow(
            study_instance_uid=named.study_instance_uid, order=order, reason="another patient", time=work.now
        )
        work.writing.put(work.tables.conflicts, key, row)
        work.changed(ChangeKind.LINK, named.study_instance_uid, "conflict")
    work.warn("it names an order of another patient: it was not linked")


def link_by_hand(work: Work, study_instance_uid: str, order: int) -> None:
    """A person says that the study fulfils the order. Raises UpdateRefused."""
    key = key_of(study_instance_uid, order)
    if work.writing.get(work.tables.orders, id_key(order)) is None:
        raise refuse("there is no such order", RefusalReason.UNKNOWN_KEY)
    work.supplies[study_instance_uid] = None
    before = work.writing.get(work.tables.links, key)
    if before is None or before.is_undone:
        _put(work, study_instance_uid, order, "by-hand")


def unlink(work: Work, study_instance_uid: str, order: int) -> None:
    """A person says that it does not; also of a conflict, which ends with that. Raises UpdateRefused."""
    key = key_of(study_instance_uid, order)
    row = work.writing.get(work.tables.links, key)
    if row is None and work.writing.get(work.tables.conflicts, key) is not None:
        row = LinkRow(study_instance_uid=study_instance_uid, order=order, rule="by-hand")
        work.writing.delete(work.tables.conflicts, key)
    if row is None or row.is_undone:
        raise refuse("this study is not linked to this order", RefusalReason.UNKNOWN_KEY)
    work.writing.put(work.tables.links, key, replace(row, is_undone=True, by=work.source.who, time=work.now))
    work.supplies[study_instance_uid] = None
    work.changed(ChangeKind.LINK, study_instance_uid, "unlinked")


def orders_of(reading: Reading, study_instance_uid: str) -> list[LinkRow]:
    """The links of a study that are in force."""
    rows = reading.rows(reading.database.links, study_instance_uid.encode() + b"\0")
    return [row for _, row in rows if not row.is_undone]


def studies_of(reading: Reading, order: int) -> list[LinkRow]:
    """The links of an order that are in force."""
    rows = (reading.get(reading.database.links, key_of(uid, order)) for uid in reading.linked(order))
    return [row for row in rows if row is not None]
