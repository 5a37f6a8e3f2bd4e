"""Parameters of searches for orders (ServiceRequest), their steps and workitems (Task). No I/O.

    ServiceRequest?patient=Patient/P1&status=active        ServiceRequest?identifier=A1234&_revinclude=Task:focus
    Task?patient.identifier=P1&status=ready                Task?focus=ServiceRequest/17

`Search.patients` has the patients, `Search.values` the rest: ids, numbers, statuses, orders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from engine.fhir.resource_id import read
from engine.fhir.search import Parameter, Search, alternatives, including, tokens

ID, NUMBER, STATUS, ORDER, CODE, OWNER = "id", "number", "status", "order", "code", "owner"


def _patient(search: Search, name: str, values: Sequence[str]) -> None:
    ids = [each.removeprefix("Patient/") for each in alternatives(name, values)]
    _add_patients(search, [tuple(read(each)) for each in ids if "/" not in each])


def _patient_identifier(search: Search, name: str, values: Sequence[str]) -> None:
    _add_patients(search, [(value, (system or "").removeprefix("urn:oid:")) for system, value in tokens(name, values)])


def _add_patients(search: Search, patients: Sequence[tuple[str, ...]]) -> None:
    found = tuple((patient_id, issuer) for patient_id, issuer in patients)
    search.patients = found if search.patients is None else tuple(each for each in found if each in search.patients)


def _id(search: Search, name: str, values: Sequence[str]) -> None:
    _add(search, ID, [each for each in alternatives(name, values) if is_id(each)])


def _task_id(search: Search, name: str, values: Sequence[str]) -> None:
    _add(search, ID, [each for each in alternatives(name, values) if is_id(each) or _UID.fullmatch(each)])


def _code(search: Search, name: str, values: Sequence[str]) -> None:
    _add(search, CODE, [value for _, value in tokens(name, values) if value])


def _owner(search: Search, name: str, values: Sequence[str]) -> None:
    _add(search, OWNER, [value for _, value in tokens(name, values) if value])


def _identifier(search: Search, name: str, values: Sequence[str]) -> None:
    _add(search, NUMBER, [value for _, value in tokens(name, values) if value])


def _status(search: Search, name: str, values: Sequence[str]) -> None:
    _add(search, STATUS, [value for _, value in tokens(name, values)])


def _order(search: Search, name: str, values: Sequence[str]) -> None:
    ids = [each.removeprefix("ServiceRequest/") for each in alternatives(name, values)]
    _add(search, ORDER, [each for each in ids if is_id(each)])


def _add(search: Search, name: str, values: Sequence[str]) -> None:
    before = search.values.get(name)
    search.values[name] = tuple(value for value in values if before is None or value in before)


def is_id(text: str) -> bool:
    """Whether a text may be the id of an order or a step."""
    return re.fullmatch(r"[1-9]\d{0,17}", text, re.ASCII) is not None


_UID = re.compile(r"\d+(\.\d+)+", re.ASCII)

_Apply = Callable[[Search, str, Sequence[str]], None]
_OF_BOTH: Final[Mapping[str, Parameter]] = {
    "_id": Parameter("token", "The id of the resource", _id),
    "patient": Parameter("reference", "Whose order it is", _patient),
    "patient.identifier": Parameter("token", "A Patient ID, alone or as urn:oid:ISSUER|ID", _patient_identifier),
    "patient:identifier": Parameter("token", "The same", _patient_identifier),
    "status": Parameter("token", "How far it is", _status),
}
SERVICE_REQUEST: Final[Mapping[str, Parameter]] = {
    **_OF_BOTH,
    "subject": Parameter("reference", "Whose order it is", _patient),
    "subject:identifier": Parameter("token", "As patient.identifier", _patient_identifier),
    "identifier": Parameter("token", "Placer, filler or accession number", _identifier),
    "_revinclude": including({"Task:focus": "tasks", "Task:based-on": "tasks"}),
}
TASK: Final[Mapping[str, Parameter]] = {
    **_OF_BOTH,
    "_id": Parameter("token", "The id of the resource: the number of a step, the UID of a workitem", _task_id),
    "identifier": Parameter("token", "Scheduled Procedure Step ID, or the UID of a workitem", _identifier),
    "code": Parameter("token", "The code of what is to be done, of a workitem", _code),
    "owner:identifier": Parameter("token", "The code of the station that shall perform a workitem", _owner),
    "owner.identifier": Parameter("token", "The same", _owner),
    "focus": Parameter("reference", "The order of the step", _order),
    "based-on": Parameter("reference", "The order of the step", _order),
    "_include": including({"Task:focus": "request", "Task:based-on": "request"}),
}
