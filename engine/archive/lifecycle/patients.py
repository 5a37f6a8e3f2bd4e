"""Finds a patient by ID and issuer.

Two issuers may give one ID to two patients. An ID without an issuer means the only patient with that ID; if there are
two, the request is refused. Reads only. Errors name no patient.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.dicom import conformance, tags
from engine.errors import CorrectionRefused, PatientUnknown
from engine.index.catalog import Snapshot
from engine.index.format.types import Level

IDENTITY = (tags.PatientID, tags.IssuerOfPatientID, tags.IssuerOfPatientIDQualifiersSequence)
"""The attributes that identify a patient; the last one is another form of the issuer."""
_TEXTLESS_VRS = frozenset(
    ("AT", "FL", "FD", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SQ", "SS", "SV", "UL", "UN", "US", "UV")
)


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as named in a request."""

    patient_id: str
    issuer: str | None = None
    """Issuer of Patient ID; "": the patient without one; None: the only patient of this ID."""


@dataclass(frozen=True, slots=True)
class IndexedPatient:
    """A patient of the index."""

    key: bytes
    names: tuple[bytes, bytes]
    """ID and issuer."""
    studies: int


def number_of(stamp: int) -> str:
    """The identifier of a correction."""
    return f"{stamp:016x}"


def as_text(patient_id: str, issuer: str) -> str:
    """A patient as HL7 writes an identifier (CX): ID^^^ISSUER."""
    return f"{patient_id}^^^{issuer}" if issuer else patient_id


def patient_of(text: str) -> Patient:
    """The patient in the text ID or ID^^^ISSUER; ID^^^ is the one without an issuer."""
    patient_id, mark, issuer = text.partition("^^^")
    return Patient(patient_id, issuer if mark else None)


def identity_of(names: tuple[bytes, bytes]) -> dict[int, bytes]:
    """The identifying attributes of a patient with this ID and issuer."""
    return dict(zip(IDENTITY, (*names, b""), strict=True))


def _find(snapshot: Snapshot, patient: Patient) -> list[IndexedPatient]:
    """The patients of this name. Raises CorrectionRefused for one that was merged into another."""
    patient_id = patient.patient_id.strip(" ").encode()
    issuer = None if patient.issuer is None else patient.issuer.strip(" ").encode()
    if not patient_id:
        raise CorrectionRefused("name a patient by an ID; for a patient without one, name the studies")
    merged = snapshot.merge_of(patient_id, issuer)
    patients = []
    for row in snapshot.patients_with(patient_id, issuer):
        names = (row.items.get(IDENTITY[0], b"").strip(b" "), row.items.get(IDENTITY[1], b"").strip(b" "))
        patients.append(IndexedPatient(row.key, names, row.studies))
    if not patients and merged:
        raise CorrectionRefused(
            f"this patient has been merged into another one, by correction {number_of(merged)}: name that one"
        )
    return patients


def find_one(snapshot: Snapshot, patient: Patient, *, in_advance: bool = False) -> IndexedPatient:
    """The only patient of this name. Raises CorrectionRefused if there is none, or more than one."""
    patients = _find(snapshot, patient)
    if len(patients) > 1:
        raise CorrectionRefused(
            f"{len(patients)} patients have this ID, each from another issuer: add the issuer, as ID^^^ISSUER"
            " (ID^^^ for the one without an issuer)"
        )
    if patients:
        return patients[0]
    if in_advance:
        return IndexedPatient(*_checked_names(patient), 0)
    raise PatientUnknown(patient.patient_id, patient.issuer)


def new_patient(snapshot: Snapshot, patient: Patient) -> IndexedPatient:
    """A patient that has no study yet. Raises CorrectionRefused."""
    if _find(snapshot, Patient(patient.patient_id, patient.issuer or "")):
        raise CorrectionRefused("there is a patient of this ID: move the studies there")
    return IndexedPatient(*_checked_names(patient), 0)


def _checked_names(patient: Patient) -> tuple[bytes, tuple[bytes, bytes]]:
    """Key, ID and issuer of a patient that may have no study. Raises CorrectionRefused."""
    texts = (patient.patient_id.strip(" "), (patient.issuer or "").strip(" "))
    for tag, text in zip(IDENTITY, texts, strict=False):
        check_value(tag, tags.vr_of(tag), text)
        if "\\" in text:
            raise CorrectionRefused(f"{tags.keyword_of(tag)} cannot have two values")
    names = (texts[0].encode(), texts[1].encode())
    return Snapshot.patient_key(*names), names


def attributes_of(snapshot: Snapshot, patient: IndexedPatient) -> dict[int, bytes]:
    """The attributes that studies get when they move to this patient. They lose those that it does not have."""
    identity = identity_of(patient.names)
    if not patient.studies:
        return identity
    names = snapshot.uncorrected_patient(patient.key)
    at_level = {tag: names.get(tag, b"") for tag, level in snapshot.schema.level_of.items() if level == Level.PATIENT}
    return {**at_level, **dict(zip(IDENTITY, patient.names, strict=False))}


def check_value(tag: int, vr: str, text: str) -> None:
    """Raises CorrectionRefused for a value that the VR does not allow."""
    reason = f"its VR is {vr}, which is no text" if vr in _TEXTLESS_VRS and text else conformance.fault(vr, text)
    if reason:
        raise CorrectionRefused(f"{tags.keyword_of(tag)} cannot be set to that: {reason}")
