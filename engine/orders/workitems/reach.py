"""Reach: the workitems that somebody may see, by the `studies` of a role.

A workitem is judged as the studies that it names: its own Study Instance UID, and those of the requests it is for. Of
the rest a workitem knows little: patient, day of its start. Whoever is confined to a department, an institution, a
modality, a sender or a referrer sees none, but those that a grant names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime

from engine.access.scope import FULL, AccessFacts, Patient, Scope
from engine.dicom import tags
from engine.orders.attributes import Items, values_of
from engine.orders.workitems.search import Reach


def reach_of(scope: Scope, default_issuer: Callable[[], str]) -> Reach | None:
    """The test of a workitem by a scope; None: every one may be seen."""
    if scope is FULL:
        return None
    today, issuer = date.today(), default_issuer()
    return lambda items: any(scope.admits(facts, today) for facts in _facts_of(items, issuer))


def _facts_of(items: Items, default_issuer: str) -> Iterator[AccessFacts]:
    patient_id, issuer = _text(items, tags.PatientID), _text(items, tags.IssuerOfPatientID)
    patients = [Patient(patient_id, issuer)]
    if issuer and issuer == default_issuer:
        patients.append(Patient(patient_id))
    start = _date(_text(items, tags.ScheduledProcedureStepStartDateTime)[:8])
    for study in dict.fromkeys(_studies_of(items)) or [""]:
        for patient in patients:
            yield AccessFacts(study, patient, {}, start)


def _studies_of(items: Items) -> Iterator[str]:
    if own := _text(items, tags.StudyInstanceUID):
        yield own
    requests = items.get(tags.ReferencedRequestSequence) or []
    for request in () if isinstance(requests, bytes) else requests:
        if uid := _text(values_of(request), tags.StudyInstanceUID):
            yield uid


def _text(items: Items, tag: int) -> str:
    value = items.get(tag, b"")
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else ""


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
