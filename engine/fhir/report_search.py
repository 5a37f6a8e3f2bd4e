"""Parameters of searches for DiagnosticReport. No I/O.

    DiagnosticReport?patient=Patient/P1&status=final        DiagnosticReport?based-on:identifier=A1234
    DiagnosticReport?study=ImagingStudy/1.2.3&_include=DiagnosticReport:study

`Search.keys` choose studies, but for the SOP Instance UID; `Search.values` has what is asked of each report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from engine.dicom import tags
from engine.fhir.datatypes import DICOM_UID, Attributes
from engine.fhir.diagnostic_report import RADIOLOGY, codes_of, status_of
from engine.fhir.search import IMAGING_STUDY, Parameter, Search, alternatives, including, sorting, tokens

STATUS, CODE = "status", "code"
_NO_SYSTEM: Final = "-"
"""Marks a code that was asked for without any system."""


def _id(search: Search, name: str, values: Sequence[str]) -> None:
    search.add(tags.SOPInstanceUID, alternatives(name, values))


def _identifier(search: Search, name: str, values: Sequence[str]) -> None:
    uids = [value.removeprefix("urn:oid:") for system, value in tokens(name, values) if system == DICOM_UID]
    if uids:
        search.add(tags.SOPInstanceUID, uids)
    else:
        _order(search, name, values)


def _order(search: Search, name: str, values: Sequence[str]) -> None:
    # The issuers of accession numbers are not indexed: what has a system is another identifier.
    accessions = [value for system, value in tokens(name, values) if not system]
    search.is_empty |= not accessions
    if accessions:
        search.add(tags.AccessionNumber, accessions)


def _study(search: Search, name: str, values: Sequence[str]) -> None:
    uids = [each.removeprefix("ImagingStudy/") for each in alternatives(name, values)]
    uids = [uid for uid in uids if "/" not in uid]
    search.is_empty |= not uids
    if uids:
        search.add(tags.StudyInstanceUID, uids)


def _status(search: Search, name: str, values: Sequence[str]) -> None:
    search.values[STATUS] = tuple(value for _, value in tokens(name, values))


def _code(search: Search, name: str, values: Sequence[str]) -> None:
    search.values[CODE] = tuple(
        f"{_NO_SYSTEM if system is None else system}|{code}" for system, code in tokens(name, values)
    )


def _category(search: Search, name: str, values: Sequence[str]) -> None:
    known = {(system, code) for system, code, _ in RADIOLOGY} | {(None, code) for _, code, _ in RADIOLOGY}
    search.is_empty |= not any(each in known for each in tokens(name, values))


def is_wanted(search: Search, values: Attributes) -> bool:
    """Whether a report of the studies that were searched for is one that was asked for."""
    statuses, codes = search.values.get(STATUS), search.values.get(CODE)
    if statuses is not None and status_of(values) not in statuses:
        return False
    if codes is None:
        return True
    own = {text for system, code, _ in codes_of(values) for text in (f"{system}|{code}", f"{_NO_SYSTEM}|{code}")}
    return any(each in own for each in codes)


_FROM_STUDIES: Final = (
    "patient", "patient.identifier", "patient:identifier", "subject", "subject:Patient", "subject:identifier",
)  # fmt: skip
DIAGNOSTIC_REPORT: Final[Mapping[str, Parameter]] = {
    "_id": Parameter("token", "SOP Instance UID", _id),
    "identifier": Parameter("token", "urn:dicom:uid|urn:oid:UID, or the accession number", _identifier),
    **{name: IMAGING_STUDY[name] for name in _FROM_STUDIES},
    "based-on:identifier": Parameter("token", "The accession number of the order", _order),
    "based-on.identifier": Parameter("token", "The same", _order),
    "study": Parameter("reference", "The study: ImagingStudy/UID (R5)", _study),
    "imaging-study": Parameter("reference", "The same", _study),
    "date": Parameter("date", "When the study began", IMAGING_STUDY["started"].apply),
    "status": Parameter("token", "final, preliminary, partial, unknown", _status),
    "category": Parameter("token", "RAD or LP29684-5: all reports", _category),
    "code": Parameter("token", "The kind of report, as http://loinc.org|18748-4", _code),
    "_sort": sorting("date"),
    "_include": including(
        {
            "DiagnosticReport:patient": "patient",
            "DiagnosticReport:subject": "patient",
            "DiagnosticReport:study": "study",
            "DiagnosticReport:imaging-study": "study",
        }
    ),
}
