"""Patient of the attributes that the newest study of a patient has (patient.html)."""

from __future__ import annotations

from typing import Final

from engine.dicom import tags
from engine.fhir.datatypes import Attributes, Json, day, human_names, identifier, system_of, text_of, without_empty
from engine.fhir.imaging_study import patient_key
from engine.fhir.resource_id import spell

PATIENT_ATTRIBUTES: Final = (
    tags.PatientID, tags.IssuerOfPatientID, tags.PatientName, tags.PatientBirthDate, tags.PatientSex,
)  # fmt: skip

GENDERS: Final = {"F": "female", "M": "male", "O": "other"}


def patient(values: Attributes) -> Json:
    """The resource; it has no id if the Patient ID is none that can be spelt."""
    key = patient_key(values)
    return {
        "resourceType": "Patient",
        **without_empty(
            {
                "id": spell(key),
                "identifier": [*filter(None, [identifier(key.patient_id, system_of(key.issuer), "MR", key.issuer)])],
                "name": human_names(values.get(tags.PatientName, b"").decode("utf-8", "replace")),
                "gender": GENDERS.get(text_of(values, tags.PatientSex).upper(), ""),
                "birthDate": day(text_of(values, tags.PatientBirthDate)),
            }
        ),
    }
