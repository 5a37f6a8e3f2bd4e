"""What does not fit together: studies without an order, orders without a study, conflicts; what may belong together.

Everything is bounded, and for people who look at it: nothing here is asked for each study that comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from engine.dicom import plain_values, tags
from engine.index.format.types import Level, Query, Root
from engine.orders import linking, proposals
from engine.orders.entry import ROOT, STEP, Entry, entry_of
from engine.orders.names import day_key, id_key
from engine.orders.proposals import Proposal, StudyTraits
from engine.orders.transactions import Reading
from engine.orders.values import StepState

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.orders.registry import Orders

ROWS_MAX: Final = 200
"""Of each list."""
LOOKED_AT_MAX: Final = 5000
"""Studies, and steps, that are looked at for a list."""

_STUDY: Final = (
    tags.StudyInstanceUID, tags.StudyDate, tags.StudyTime, tags.AccessionNumber, tags.PatientID, tags.PatientName,
    tags.PatientBirthDate, tags.ModalitiesInStudy, tags.StudyDescription,
)  # fmt: skip
_ENTRY: Final = (
    tags.AccessionNumber, tags.PatientID, tags.PatientName, tags.PatientBirthDate, tags.RequestedProcedureDescription,
    tags.Modality, tags.ScheduledProcedureStepStartDate, tags.ScheduledProcedureStepStartTime,
    tags.ScheduledStationAETitle, tags.ScheduledProcedureStepStatus,
)  # fmt: skip


def unmatched_studies(archive: Archive, orders: Orders, since: str, until: str) -> tuple[list[dict[str, Any]], bool]:
    """Studies of these days (YYYYMMDD) without a link in force, the newest first; and whether there are more."""
    keys = {**dict.fromkeys(_STUDY, b""), tags.StudyDate: f"{since}-{until}".encode()}
    matches = archive.find(Query(Level.STUDY, keys, Root.PATIENT, relational=True, limit=LOOKED_AT_MAX + 1))
    studies = [_plain(match.attributes) for match in matches]
    is_cut = len(studies) > LOOKED_AT_MAX
    with orders.read() as reading:
        found = [each for each in studies if not linking.orders_of(reading, each["StudyInstanceUID"])]
    found.sort(key=lambda each: (each["StudyDate"], each["StudyTime"]), reverse=True)
    return found[:ROWS_MAX], is_cut or len(found) > ROWS_MAX


def unfilled_orders(orders: Orders, since: str, until: str) -> tuple[list[dict[str, Any]], bool]:
    """Orders with a step on these days and no study, the newest first; and whether there are more."""
    found: dict[int, dict[str, Any]] = {}
    end = day_key(f"{int(until) + 1:08}", "")
    looked_at = 0
    with orders.read() as reading:
        for key, _ in reading.days_from(day_key(since, "")):
            looked_at += 1
            if key >= end or looked_at > LOOKED_AT_MAX:
                break
            entry = entry_of(reading, int.from_bytes(key[-8:], "big"))
            if entry is None or entry.step.state in (StepState.CANCELED, StepState.DISCONTINUED):
                continue
            if entry.step.order not in found and not reading.linked(entry.step.order):
                found[entry.step.order] = {"order": entry.step.order, **_plain_entry(entry)}
    rows = list(found.values())[::-1]
    return rows[:ROWS_MAX], looked_at > LOOKED_AT_MAX or len(rows) > ROWS_MAX


def conflicts(archive: Archive, orders: Orders) -> tuple[list[dict[str, Any]], bool]:
    """Studies that name an order of another patient; and whether there are more."""
    with orders.read() as reading:
        rows = list(islice((row for _, row in reading.rows(reading.database.conflicts)), ROWS_MAX + 1))
        found = [
            {
                "study": _study(archive, row.study_instance_uid),
                "order": {"order": row.order, **_of_order(reading, row.order)},
                "reason": row.reason,
                "time": row.time,
            }
            for row in rows[:ROWS_MAX]
        ]
    return found, len(rows) > ROWS_MAX


def of_study(archive: Archive, orders: Orders, study_instance_uid: str) -> dict[str, Any] | None:
    """A study with its links and the proposals for it; None if it is not stored."""
    facts = _study(archive, study_instance_uid)
    if "PatientID" not in facts:
        return None
    modalities = facts["ModalitiesInStudy"]
    traits = StudyTraits(
        accession=facts["AccessionNumber"],
        patient_id=facts["PatientID"],
        name=facts["PatientName"],
        birth_date=facts["PatientBirthDate"],
        date=facts["StudyDate"],
        modalities=tuple(modalities if isinstance(modalities, list) else [modalities] if modalities else []),
    )
    links: list[dict[str, Any]]
    with orders.read() as reading:
        prefix = study_instance_uid.encode()[:64] + b"\0"
        links = [
            {
                "order": {"order": row.order, **_of_order(reading, row.order)},
                "rule": row.rule,
                "by": row.by,
                "time": row.time,
                "is_undone": row.is_undone,
            }
            for _, row in islice(reading.rows(reading.database.links, prefix), ROWS_MAX)
        ]
        linked = {link["order"]["order"] for link in links if not link["is_undone"]}
        found = [each for each in proposals.proposals(reading, traits) if each.order not in linked]
    return {"study": facts, "links": links, "proposals": [_plain_proposal(each) for each in found]}


def _plain_proposal(proposal: Proposal) -> dict[str, Any]:
    order = {"order": proposal.order, **_plain_entry(proposal.entry)}
    return {"order": order, "score": proposal.score, "reasons": list(proposal.reasons)}


def _study(archive: Archive, study_instance_uid: str) -> dict[str, Any]:
    """A study; only its UID if it is not stored."""
    keys = {**dict.fromkeys(_STUDY, b""), tags.StudyInstanceUID: study_instance_uid.encode()}
    match = next(iter(archive.find(Query(Level.STUDY, keys, Root.PATIENT, relational=True))), None)
    return {"StudyInstanceUID": study_instance_uid} if match is None else _plain(match.attributes)


def _plain(attributes: Any) -> dict[str, Any]:
    return {tags.keyword_of(tag): plain_values.value_of(tag, attributes.get(tag, b""), tags.vr_of) for tag in _STUDY}


def _of_order(reading: Reading, order: int) -> dict[str, Any]:
    """An order by its first step; nothing if it has none."""
    for number in reading.ids(b"s" + id_key(order)):
        entry = entry_of(reading, number)
        if entry is not None:
            return _plain_entry(entry)
    return {}


def _fields() -> Iterator[tuple[int, Any]]:
    for tag in _ENTRY:
        yield tag, STEP[tag] if tag in STEP else ROOT[tag]


def _plain_entry(entry: Entry) -> dict[str, Any]:
    return {tags.keyword_of(tag): plain_values.value_of(tag, of(entry), tags.vr_of) for tag, of in _fields()}
