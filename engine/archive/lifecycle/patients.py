"""Finds a patient by ID and issuer.

Two issuers may give one ID to two patients. An ID without an issuer means the only patient with that ID; if there are
two, the request is refused, never guessed. Reads only. Errors name no patient.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.dicom import conformance, tags
from engine.errors import CorrectionRefused, PatientUnknown
from engine.index.catalog import Snapshot
from engine.index.format.types import Level

IDENTITY = (tags.PatientID, tags.IssuerOfPatientID, tags.IssuerOfPatientIDQualifiersSequence)
"""The attributes that identify a patient; the last one only repeats the issuer in other words."""
_TEXTLESS_VRS = frozenset(
    ("AT", "FL", "FD", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SQ", "SS", "SV", "UL", "UN", "US", "UV")
)


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as a person or a message names it."""

    patient_id: str
    issuer: str | None = None
    """Issuer of Patient ID; "": the patient without one; None: the only patient of this ID."""


@dataclass(frozen=True, slots=True)
class Known:
    """A patient as the index has it."""

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
    """The patient that ID or ID^^^ISSUER names; with nothing after ^^^ the one without an issuer."""
    patient_id, mark, issuer = text.partition("^^^")
    return Patient(patient_id, issuer if mark else None)


def identity_of(names: tuple[bytes, bytes]) -> dict[int, bytes]:
    """The attributes that say who a patient of this ID and issuer is."""
    return dict(zip(IDENTITY, (*names, b""), strict=True))


def _found(snapshot: Snapshot, patient: Patient) -> list[Known]:
    """The patients that are known by this name. Raises CorrectionRefused for one that is no more."""
    patient_id = patient.patient_id.strip(" ").encode()
    issuer = None if patient.issuer is None else patient.issuer.strip(" ").encode()
    if not patient_id:
        raise CorrectionRefused("a patient is named by an ID; studies without one are named themselves")
    merged = snapshot.merge_of(patient_id, issuer)
    patients = []
    for one in snapshot.patients_with(patient_id, issuer):
        names = (one.items.get(IDENTITY[0], b"").strip(b" "), one.items.get(IDENTITY[1], b"").strip(b" "))
        patients.append(Known(one.key, names, one.studies))
    if not patients and merged:
        raise CorrectionRefused(
            f"this patient has been merged into another one, by correction {number_of(merged)}: name that one"
        )
    return patients


def known(snapshot: Snapshot, patient: Patient, *, in_advance: bool = False) -> Known:
    """The one patient that is meant. Raises CorrectionRefused when there is none, or more than one."""
    patients = _found(snapshot, patient)
    if len(patients) > 1:
        raise CorrectionRefused(
            f"{len(patients)} patients have this ID, each from another issuer: say whose it is, as ID^^^ISSUER"
            " (ID^^^ for the one without an issuer)"
        )
    if patients:
        return patients[0]
    if in_advance:
        return Known(*_named(patient), 0)
    raise PatientUnknown(patient.patient_id, patient.issuer)


def unknown(snapshot: Snapshot, patient: Patient) -> Known:
    """A patient that has no study yet. Raises CorrectionRefused."""
    if _found(snapshot, Patient(patient.patient_id, patient.issuer or "")):
        raise CorrectionRefused("there is a patient of this ID: move the studies there")
    return Known(*_named(patient), 0)


def _named(patient: Patient) -> tuple[bytes, tuple[bytes, bytes]]:
    """Key, ID and issuer of a patient that need not be known. Raises CorrectionRefused."""
    texts = (patient.patient_id.strip(" "), (patient.issuer or "").strip(" "))
    for tag, text in zip(IDENTITY, texts, strict=False):
        check_value(tag, tags.vr_of(tag), text)
        if "\\" in text:
            raise CorrectionRefused(f"{tags.keyword_of(tag)} cannot have two values")
    names = (texts[0].encode(), texts[1].encode())
    return Snapshot.patient_key(*names), names


def called(snapshot: Snapshot, patient: Known) -> dict[int, bytes]:
    """The patient attributes for studies that move to this patient. They lose attributes that it does not have."""
    identity = identity_of(patient.names)
    if not patient.studies:
        return identity
    names = snapshot.uncorrected_patient(patient.key)
    at_level = {tag: names.get(tag, b"") for tag, level in snapshot.schema.level_of.items() if level == Level.PATIENT}
    return {**at_level, **dict(zip(IDENTITY, patient.names, strict=False))}


def check_value(tag: int, vr: str, text: str) -> None:
    """Raises CorrectionRefused for a value that the VR does not allow."""
    what = f"its VR is {vr}, which is no text" if vr in _TEXTLESS_VRS and text else conformance.fault(vr, text)
    if what:
        raise CorrectionRefused(f"{tags.keyword_of(tag)} cannot be set to that: {what}")
