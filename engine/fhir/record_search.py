"""Parameters of searches for Provenance and AuditEvent. No I/O.

Provenance?target=ImagingStudy/1.2.3
AuditEvent?date=ge2026-11-30&type=sent&agent-name=ann&patient.identifier=P1&entity=ImagingStudy/1.2.3&outcome=4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from engine.errors import RequestError
from engine.fhir.dates import bounds_of
from engine.fhir.resource_id import read
from engine.fhir.search import Parameter, Search, alternatives, tokens

TARGET, KIND, USER, PATIENT_ID, STUDY, OUTCOME, SINCE, UNTIL = (
    "target", "kind", "user", "patient", "study", "outcome", "since", "until",
)  # fmt: skip


def _target(search: Search, name: str, values: Sequence[str]) -> None:
    kinds = [each.partition("/") for each in alternatives(name, values)]
    search.values[TARGET] = tuple(rest for kind, _, rest in kinds if kind == "ImagingStudy" and rest)


def _one(search: Search, name: str, value: str, values: Sequence[str]) -> None:
    if len(values) != 1:
        raise RequestError(f"{name}: has a list; ask for one at a time")
    search.values[value] = (values[0],)


def _type(search: Search, name: str, values: Sequence[str]) -> None:
    _one(search, name, KIND, [value for _, value in tokens(name, values)])


def _agent(search: Search, name: str, values: Sequence[str]) -> None:
    _one(search, name, USER, alternatives(name, values))


def _patient(search: Search, name: str, values: Sequence[str]) -> None:
    ids = [each.removeprefix("Patient/") for each in alternatives(name, values)]
    _one(search, name, PATIENT_ID, [read(each).patient_id for each in ids])


def _patient_identifier(search: Search, name: str, values: Sequence[str]) -> None:
    _one(search, name, PATIENT_ID, [value for _, value in tokens(name, values)])


def _entity(search: Search, name: str, values: Sequence[str]) -> None:
    studies = [each.removeprefix("ImagingStudy/") for each in alternatives(name, values)]
    if any("/" in each for each in studies):
        search.is_empty = True
        return
    _one(search, name, STUDY, studies)


def _outcome(search: Search, name: str, values: Sequence[str]) -> None:
    codes = frozenset(value for _, value in tokens(name, values))
    if not codes <= {"0", "4", "8", "12"}:
        raise RequestError(f"{name}: must be of 0, 4, 8 and 12")
    search.values[OUTCOME] = tuple(sorted(codes))


def _date(search: Search, name: str, values: Sequence[str]) -> None:
    bounds = bounds_of(name, values)
    if bounds is None:
        search.is_empty = True
        return
    for key, moment in zip((SINCE, UNTIL), bounds, strict=True):
        if moment is not None:
            search.values[key] = (moment,)


PROVENANCE: Final[Mapping[str, Parameter]] = {
    "target": Parameter("reference", "The study: ImagingStudy/UID", _target),
}
AUDIT_EVENT: Final[Mapping[str, Parameter]] = {
    "date": Parameter("date", "When it was recorded", _date),
    "type": Parameter("token", "The kind of event, as sent, query, login", _type),
    "subtype": Parameter("token", "The same", _type),
    "agent-name": Parameter("string", "A user, AE title or address", _agent),
    "patient": Parameter("reference", "Whose record it concerns", _patient),
    "patient.identifier": Parameter("token", "The same, by Patient ID", _patient_identifier),
    "patient:identifier": Parameter("token", "The same", _patient_identifier),
    "entity": Parameter("reference", "The study that it concerns: ImagingStudy/UID", _entity),
    "outcome": Parameter("token", "0, 4, 8 or 12", _outcome),
}
