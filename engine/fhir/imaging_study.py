"""ImagingStudy of the attributes of a study, its series and their instances (R4 and R5 imagingstudy.html).

id                    Study Instance UID: the same on every node and after each rebuild
identifier            the UID; the accession number (ACSN), which R5 also has as basedOn.identifier
status                available
subject               the patient's id if it can be spelt, and always the identifier
started               as exact as FHIR allows (`datatypes.moment`)
endpoint              the root of this server's DICOMweb; a viewer appends /studies/{id}
series[].instance[]   when they are asked for: a thousand are 120 kB

R4  modality, series.modality   Coding            series.bodySite  Coding            procedureCode, description
R5  modality, series.modality   CodeableConcept   series.bodySite  {"concept": …}    basedOn
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from engine.dicom import plain_values, tags
from engine.fhir.datatypes import (
    DCM,
    DICOM_UID,
    SUBSETTED,
    URI,
    Attributes,
    Json,
    coding,
    concept,
    display_name,
    identifier,
    moment,
    system_of,
    text,
    text_of,
    uri_of_uid,
    without_empty,
)
from engine.fhir.release import Release
from engine.fhir.resource_id import PatientKey, spell

ENDPOINT_ID: Final = "dicom-wado-rs"
"""The one Endpoint of this server."""

STUDY_ATTRIBUTES: Final = (
    tags.StudyInstanceUID, tags.StudyDate, tags.StudyTime, tags.TimezoneOffsetFromUTC, tags.AccessionNumber,
    tags.ModalitiesInStudy, tags.StudyDescription, tags.ReferringPhysicianName, tags.PatientID, tags.PatientName,
    tags.IssuerOfPatientID, tags.NumberOfStudyRelatedSeries, tags.NumberOfStudyRelatedInstances,
)  # fmt: skip
SERIES_ATTRIBUTES: Final = (
    tags.SeriesInstanceUID, tags.SeriesNumber, tags.Modality, tags.SeriesDescription, tags.BodyPartExamined,
    tags.Laterality, tags.SeriesDate, tags.SeriesTime, tags.NumberOfSeriesRelatedInstances,
)  # fmt: skip
INSTANCE_ATTRIBUTES: Final = (tags.SeriesInstanceUID, tags.SOPInstanceUID, tags.SOPClassUID, tags.InstanceNumber)


@dataclass(frozen=True, slots=True)
class Study:
    """All that a resource needs."""

    attributes: Attributes
    series: Sequence[Attributes]
    instances: Sequence[Attributes] | None = None
    """None: they are left out."""
    last_updated: str = ""
    """When an instance of it arrived last: an instant."""


def imaging_study(study: Study, release: Release) -> Json:
    """The resource."""
    values = study.attributes
    uid, accession = text_of(values, tags.StudyInstanceUID), text_of(values, tags.AccessionNumber)
    zone = text_of(values, tags.TimezoneOffsetFromUTC)
    modalities = [text(part) for part in text_of(values, tags.ModalitiesInStudy).split("\\")]
    is_r5 = release is Release.R5
    by_series = _by_series(study.instances)
    referrer = display_name(text_of(values, tags.ReferringPhysicianName))
    meta = {"lastUpdated": study.last_updated, "tag": [SUBSETTED] if study.instances is None else []}
    return {
        "resourceType": "ImagingStudy",
        **without_empty(
            {
                "id": uid,
                "meta": without_empty(meta),
                "identifier": [
                    identifier(uri_of_uid(uid), DICOM_UID),
                    *filter(None, [identifier(accession, kind="ACSN")]),
                ],
                "status": "available",
                "modality": [_modality(code, release) for code in modalities if code],
                "subject": subject(values),
                "started": moment(text_of(values, tags.StudyDate), text_of(values, tags.StudyTime), zone),
                "basedOn": [{"type": "ServiceRequest", "identifier": identifier(accession, kind="ACSN")}]
                if is_r5 and accession
                else [],
                "referrer": {"display": referrer} if referrer else {},
                "endpoint": [{"reference": f"Endpoint/{ENDPOINT_ID}"}],
                "numberOfSeries": _number(values, tags.NumberOfStudyRelatedSeries),
                "numberOfInstances": _number(values, tags.NumberOfStudyRelatedInstances),
                "description": text_of(values, tags.StudyDescription),
                "series": [_series(series, by_series, zone, release) for series in study.series],
            }
        ),
    }


def patient_key(values: Attributes) -> PatientKey:
    """Whose study it is."""
    return PatientKey(text_of(values, tags.PatientID), text_of(values, tags.IssuerOfPatientID))


def subject(values: Attributes) -> Json:
    """The reference to the patient."""
    key = patient_key(values)
    resource_id = spell(key)
    reference = without_empty(
        {
            "reference": f"Patient/{resource_id}" if resource_id else "",
            "type": "Patient",
            "identifier": identifier(key.patient_id, system_of(key.issuer), "MR", key.issuer),
            "display": display_name(text_of(values, tags.PatientName)),
        }
    )
    # A subject is required, also of a study whose patient has neither id nor name.
    return reference if len(reference) > 1 else {**reference, "display": "unknown"}


def _series(values: Attributes, instances: Mapping[str, list[Attributes]], zone: str, release: Release) -> Json:
    uid, part = text_of(values, tags.SeriesInstanceUID), text_of(values, tags.BodyPartExamined)
    side = {"L": "left", "R": "right"}.get(text_of(values, tags.Laterality), "")
    body_site = {"text": part} if release is Release.R5 else {"display": part}
    laterality = {"text": side} if release is Release.R5 else {"display": side}
    return without_empty(
        {
            "uid": uid,
            "number": _number(values, tags.SeriesNumber),
            "modality": _modality(text_of(values, tags.Modality) or "OT", release),
            "description": text_of(values, tags.SeriesDescription),
            "numberOfInstances": _number(values, tags.NumberOfSeriesRelatedInstances),
            "bodySite": ({"concept": body_site} if release is Release.R5 else body_site) if part else {},
            "laterality": laterality if side else {},
            "started": moment(text_of(values, tags.SeriesDate), text_of(values, tags.SeriesTime), zone),
            "instance": [_instance(each) for each in instances.get(uid, ())],
        }
    )


def _instance(values: Attributes) -> Json:
    return without_empty(
        {
            "uid": text_of(values, tags.SOPInstanceUID),
            "sopClass": coding(URI, uri_of_uid(text_of(values, tags.SOPClassUID))),
            "number": _number(values, tags.InstanceNumber),
        }
    )


def _by_series(instances: Iterable[Attributes] | None) -> dict[str, list[Attributes]]:
    found: dict[str, list[Attributes]] = {}
    for each in instances or ():
        found.setdefault(text_of(each, tags.SeriesInstanceUID), []).append(each)
    return found


def _modality(code: str, release: Release) -> Json:
    return concept(DCM, code) if release is Release.R5 else coding(DCM, code)


def _number(values: Attributes, tag: int) -> int | None:
    """A count or number; None if there is none that FHIR can hold (unsignedInt)."""
    value = plain_values.value_of(tag, values.get(tag, b""))
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else None
