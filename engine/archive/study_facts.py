"""Whose a study is, for the audit log: the patient and the accession number as the archive shows them now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.audit import Patient
from engine.dicom import tags
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.index.catalog import Catalog

_TAGS = (tags.PatientID, tags.IssuerOfPatientID, tags.PatientName, tags.AccessionNumber)


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The patient of a study."""

    patient: Patient | None = None
    """None: the study is not stored."""
    accession: str = ""


def study_facts(index: Catalog, study_instance_uid: str) -> StudyFacts:
    """The facts of a study; empty ones if it is not stored, or the index cannot be read."""
    try:
        values = index.study_attributes(study_instance_uid.encode("utf-8", "replace"))
    except EngineError:
        return StudyFacts()
    if values is None:
        return StudyFacts()
    patient_id, issuer, name, accession = (values.get(tag, b"").decode("utf-8", "replace") for tag in _TAGS)
    return StudyFacts(Patient(patient_id, issuer, name), accession)
