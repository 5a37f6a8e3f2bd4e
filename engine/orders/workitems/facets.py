"""One step, several faces: the scheduled steps (MWL), performed steps (MPPS) and workitems (UPS) of one request.

    workitem ──► study, accession number, requested procedure of each request ──► orders ──► steps ──► performed steps
    step     ──► study and accession number of its order, studies that are linked to it ──► workitems

What belongs together is found by these keys when somebody asks; nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from engine.dicom import tags
from engine.orders import ordering
from engine.orders.attributes import Items, values_of
from engine.orders.names import id_key, name_key
from engine.orders.rows import StepRow, WorkitemRow
from engine.orders.transactions import Reading
from engine.orders.workitems.facts import LETTERS_WITHIN, STUDY, prefix_of, text_of
from engine.orders.workitems.life import attributes_of, find, with_patient
from engine.orders.workitems.search import Reach

RELATED_MAX: Final = 50
"""Of each kind."""
ORDER_MAX: Final = 1000
"""Workitems of one order."""
_ACCESSION: Final = LETTERS_WITHIN[tags.ReferencedRequestSequence, tags.AccessionNumber]


def of_workitem(reading: Reading, items: Items) -> dict[str, Any]:
    """The scheduled and performed steps that a workitem belongs to."""
    steps: dict[int, StepRow] = {}
    for order, procedure_id in _orders(reading, items):
        for number, row in ordering.steps_of(reading, order):
            if not procedure_id or row.requested_procedure_id == procedure_id:
                steps[number] = row
    chosen = list(islice(steps.items(), RELATED_MAX))
    return {
        "steps": [step_facts(number, row) for number, row in chosen],
        "performed": performed_of(reading, [row for _, row in chosen]),
    }


def _orders(reading: Reading, items: Items) -> list[tuple[int, str]]:
    """The orders that a workitem names, each with the requested procedure; "": any of them."""
    requests = items.get(tags.ReferencedRequestSequence) or []
    named = [values_of(item) for item in requests] if not isinstance(requests, bytes) else []
    found: dict[tuple[int, str], None] = {}
    for request in [*named[:RELATED_MAX], items]:
        study, accession = (text_of(request, tag) for tag in (tags.StudyInstanceUID, tags.AccessionNumber))
        numbers = reading.ids(name_key("u", study)) if study else []
        if not numbers and accession:
            numbers = reading.ids(name_key("a", accession))
        for number in numbers:
            found[number, text_of(request, tags.RequestedProcedureID)] = None
    return list(found)


def orders_of(reading: Reading, items: Items) -> list[int]:
    """The orders that a workitem names."""
    return list(dict.fromkeys(number for number, _ in _orders(reading, items)))[:RELATED_MAX]


def studies_of(items: Items) -> list[str]:
    """The studies that a workitem is for."""
    requests = items.get(tags.ReferencedRequestSequence) or []
    named = [] if isinstance(requests, bytes) else [values_of(item) for item in requests[:RELATED_MAX]]
    return list(dict.fromkeys(filter(None, (text_of(each, tags.StudyInstanceUID) for each in (items, *named)))))


def whole(reading: Reading, uid: str) -> tuple[WorkitemRow, Items]:
    """A workitem with all its attributes."""
    row = find(reading, uid)
    return row, attributes_of(reading, row)


def step_facts(number: int, row: StepRow) -> dict[str, Any]:
    """A scheduled step, in short."""
    return {
        "step": number,
        "ScheduledProcedureStepID": row.scheduled_procedure_step_id,
        "Modality": row.modality,
        "ScheduledProcedureStepStartDate": row.start_date,
        "ScheduledProcedureStepStatus": row.state.value,
    }


def performed_of(reading: Reading, steps: list[StepRow]) -> list[dict[str, Any]]:
    """The performed steps of some scheduled ones."""
    uids = dict.fromkeys(uid for row in steps for uid in row.performed)
    found = []
    for uid in islice(uids, RELATED_MAX):
        row = reading.get(reading.database.performed, uid.encode())
        if row is not None:
            found.append({"SOPInstanceUID": uid, "PerformedProcedureStepStatus": row.status, "by": row.calling_ae})
    return found


def uids_of_order(reading: Reading, number: int) -> Iterator[str]:
    """The UIDs of the workitems for an order, by their start."""
    order = reading.get(reading.database.orders, id_key(number))
    if order is None:
        return
    studies = [each.study_instance_uid for each in order.procedures]
    studies += reading.linked(number)
    prefixes = {prefix_of(STUDY, "UI", study) for study in studies if study}
    if order.accession is not None:
        prefixes.add(prefix_of(_ACCESSION, "SH", order.accession.value))
    for tail in islice(reading.workitems_found(tuple(sorted(prefixes))), ORDER_MAX):
        yield tail[tail.rindex(b"\0") + 1 :].decode()


def workitems_of(reading: Reading, row: StepRow, reach: Reach | None) -> list[dict[str, Any]]:
    """The workitems for the request of a scheduled step."""
    found = []
    for uid in uids_of_order(reading, row.order):
        facts = reading.facts(uid)
        if facts is None:
            continue
        items = with_patient(reading, facts.items, facts.patient)
        if reach is None or reach(items):
            label, state = (text_of(items, tag) for tag in (tags.ProcedureStepLabel, tags.ProcedureStepState))
            found.append({"SOPInstanceUID": uid, "ProcedureStepLabel": label, "ProcedureStepState": state})
        if len(found) == RELATED_MAX:
            break
    return found
