"""What the orders of a study say that its instances may lack.

    of the study    Accession Number and its issuer, of the order that was linked first; the patient's identifiers
    of its series   Request Attributes Sequence: an item for each step of the procedures that the study fulfils

A study with the UID of a procedure fulfils that one, another one all of its orders. What is canceled is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from engine.dicom import tags
from engine.orders import linking, ordering
from engine.orders.entry import ROOT, STEP, Entry, entry_of, items_blob
from engine.orders.names import id_key, name_key
from engine.orders.transactions import Reading
from engine.orders.values import StepState
from engine.orders.work import Supply

BYTES_MAX: Final = 16 << 10
"""Of all items: a correction has to fit into one record."""

_ORDER: Final = (tags.AccessionNumber, tags.IssuerOfAccessionNumberSequence)
_REQUEST: Final = {
    tag: (STEP if tag in STEP else ROOT)[tag]
    for tag in (
        *_ORDER, tags.StudyInstanceUID, tags.RequestedProcedureID, tags.RequestedProcedureDescription,
        tags.RequestedProcedureCodeSequence, tags.ReasonForTheRequestedProcedure, tags.ScheduledProcedureStepID,
        tags.ScheduledProcedureStepDescription, tags.ScheduledProtocolCodeSequence,
    )
}  # fmt: skip
"""Request Attributes Macro (PS3.3 10.6)."""


def supply_of(reading: Reading, study_instance_uid: str) -> Supply:
    """What the links of a study that are in force supply; nothing without one."""
    links = sorted(linking.orders_of(reading, study_instance_uid), key=lambda row: (row.time, row.order))
    entries = [entry for row in links for entry in _entries(reading, row.order, study_instance_uid)]
    if not entries:
        return Supply({}, {})
    study = {tag: ROOT[tag](entries[0]) for tag in _ORDER}
    items = list(dict.fromkeys(map(_request, entries)))
    while sum(map(len, items)) > BYTES_MAX:
        items.pop()
    return Supply(
        {tag: value for tag, value in study.items() if value},
        {tags.RequestAttributesSequence: b"".join(items)} if items else {},
        entries[0].patient.identifiers,
    )


def studies_of(reading: Reading, accessions: Iterable[str]) -> Iterator[str]:
    """The studies that are linked to orders with one of these accession numbers."""
    for accession in accessions:
        for order in reading.ids(name_key("a", accession)):
            for row in linking.studies_of(reading, order):
                yield row.study_instance_uid


def _entries(reading: Reading, order: int, study_instance_uid: str) -> Iterator[Entry]:
    row = reading.get(reading.database.orders, id_key(order))
    uids = {each.study_instance_uid for each in row.procedures} if row is not None else set()
    for number, step in ordering.steps_of(reading, order):
        entry = entry_of(reading, number)
        if entry is None or step.state is StepState.CANCELED:
            continue
        if study_instance_uid not in uids or entry.procedure.study_instance_uid == study_instance_uid:
            yield entry


def _request(entry: Entry) -> bytes:
    values = {tag: of(entry) for tag, of in _REQUEST.items()}
    return items_blob([{tag: value for tag, value in values.items() if value}])
