"""Reach: the entries of a worklist that somebody may see, by the `studies` of a role.

An entry is no study yet, so that it is judged by what is known of the study that will be made:

    modality        Modality of the step
    sender          the AE titles of the step: one of them will send it
    department      location or room of the step, and the `department` of a [[station]] with one of its titles
    institution     Institution Name of the visit, and the `institution` of such a [[station]]
    referrer        Referring Physician's Name of the order, else of the visit
    age_days        the step's date; steps to come meet it, steps without a date do not
    deidentified    it is not
    grants          Study Instance UID of the procedure, and every identifier of the patient
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from typing import Final

from engine.access.scope import FULL, AccessFacts, Attribute, Patient, Scope, normalized
from engine.dicom import tags
from engine.orders.entry import ROOT, STEP, Entry, Field
from engine.orders.stations import Stations

Reach = Callable[[Entry], bool]

_DEPARTMENT: Final = STEP[tags.ScheduledProcedureStepLocation]
_INSTITUTION: Final = ROOT[tags.InstitutionName]
_REFERRER: Final = ROOT[tags.ReferringPhysicianName]


def reach_of(scope: Scope, stations: Stations) -> Reach | None:
    """The test of an entry by a scope; None: every entry may be seen."""
    if scope is FULL:
        return None
    today = date.today()
    return lambda entry: any(scope.admits(facts, today) for facts in _facts_of(entry, stations))


def _facts_of(entry: Entry, stations: Stations) -> Iterator[AccessFacts]:
    """What a scope asks, once for each identifier of the patient."""
    step = entry.step
    own = [station for title in step.aes if (station := stations.of(title)) is not None]
    names = [group for name in _texts(entry, _REFERRER) for group in name.split("=")]
    texts = {
        Attribute.MODALITY: _normalized([step.modality]),
        Attribute.SENDER: _normalized(step.aes),
        Attribute.DEPARTMENT: _normalized([*_texts(entry, _DEPARTMENT), *(station.department for station in own)]),
        Attribute.INSTITUTION: _normalized([*_texts(entry, _INSTITUTION), *(station.institution for station in own)]),
        Attribute.REFERRER: _normalized(names),
    }
    for patient in _patients(entry, stations.issuer):
        yield AccessFacts(entry.procedure.study_instance_uid, patient, texts, _date(step.start_date))


def _patients(entry: Entry, default_issuer: str) -> Iterator[Patient]:
    for identifier in entry.patient.identifiers:
        issuer = identifier.issuer.name or identifier.issuer.universal_id
        yield Patient(identifier.value, issuer)
        if issuer and issuer == default_issuer:
            yield Patient(identifier.value)


def _texts(entry: Entry, of: Field) -> list[str]:
    return of(entry).decode("utf-8", "replace").split("\\")


def _normalized(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(map(normalized, texts)) - {""}


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
