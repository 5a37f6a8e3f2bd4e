"""Whose a study is, for the audit log: the patient and the accession number as the archive shows them now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.audit import Patient
from engine.dicom import tags
from engine.errors import EngineError
from engine.index.format.types import Level, Query

if TYPE_CHECKING:
    from engine.index.catalog import Catalog

_KEYS = {tags.PatientID: b"", tags.IssuerOfPatientID: b"", tags.PatientName: b"", tags.AccessionNumber: b""}


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The patient of a study."""

    patient: Patient | None = None
    """None: the study is not stored."""
    accession: str = ""


def study_facts(index: Catalog, study_instance_uid: str) -> StudyFacts:
    """The facts of a study; empty ones if it is not stored, or the index cannot be read."""
    query = Query(Level.STUDY, {tags.StudyInstanceUID: study_instance_uid.encode("utf-8", "replace"), **_KEYS})
    try:
        match = next(iter(index.search(query)), None)
    except EngineError:
        return StudyFacts()
    if match is None:
        return StudyFacts()
    values = {tag: match.attributes.get(tag, b"").decode("utf-8", "replace") for tag in _KEYS}
    patient = Patient(values[tags.PatientID], values[tags.IssuerOfPatientID], values[tags.PatientName])
    return StudyFacts(patient, values[tags.AccessionNumber])
