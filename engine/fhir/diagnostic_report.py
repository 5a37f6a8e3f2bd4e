"""DiagnosticReport of a stored report: structured, or an encapsulated PDF or CDA (R4 and R5 diagnosticreport.html).

id                    SOP Instance UID
identifier            the UID; the accession number (ACSN), which is the identifier of basedOn too
status                VERIFIED, or Preliminary Flag FINAL                 final
                      Preliminary Flag PRELIMINARY                        preliminary
                      Completion Flag PARTIAL                             partial
                      COMPLETE without verification                       preliminary
                      a document that says none of these                  unknown
code                  Concept Name Code Sequence: the title of a report
effectiveDateTime     when the study began (`datatypes.moment`)
issued                when the report was made, if it says in which zone; else when it arrived
presentedForm         the document as DICOMweb renders it: HTML and text of a structured report, PDF, CDA

R4  imagingStudy, performer        R5  study, performer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from engine.dicom import plain_values, tags
from engine.fhir.datatypes import (
    DCM,
    DICOM_UID,
    Attributes,
    Json,
    coding,
    display_name,
    identifier,
    moment,
    text,
    text_of,
    uri_of_uid,
    without_empty,
)
from engine.fhir.imaging_study import subject
from engine.fhir.release import Release

FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    **{
        f"1.2.840.10008.5.1.4.1.1.88.{number}": ("text/html", "text/plain")
        for number in (11, 22, 33, 34, 35)  # basic text, enhanced, comprehensive, comprehensive 3D, extensible
    },
    "1.2.840.10008.5.1.4.1.1.104.1": ("application/pdf",),
    "1.2.840.10008.5.1.4.1.1.104.2": ("text/xml",),
}
"""The SOP classes of reports, and the media types in which DICOMweb renders them. CAD, dose, key objects are none."""

REPORT_ATTRIBUTES: Final = (
    tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.SOPInstanceUID, tags.SOPClassUID, tags.PatientID,
    tags.IssuerOfPatientID, tags.PatientName, tags.AccessionNumber, tags.StudyDate, tags.StudyTime,
    tags.TimezoneOffsetFromUTC, tags.ConceptNameCodeSequence, tags.CompletionFlag, tags.VerificationFlag,
    tags.PreliminaryFlag, tags.ContentDate, tags.ContentTime, tags.ContentCreatorName,
    tags.NameOfPhysiciansReadingStudy, tags.InstitutionName, tags.SeriesDescription,
)  # fmt: skip
RADIOLOGY: Final = (
    ("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology"),
    ("http://loinc.org", "LP29684-5", "Radiology"),
)
"""The categories of each report: what base FHIR and what US Core search for."""
_SCHEMES: Final = {"LN": "http://loinc.org", "SCT": "http://snomed.info/sct", "DCM": DCM}
_USUAL: Final = ("http://loinc.org", "18748-4", "Diagnostic imaging study")


@dataclass(frozen=True, slots=True)
class Report:
    """All that a resource needs."""

    attributes: Attributes
    received: str
    """When it arrived: an instant; "" if nobody knows."""


def status_of(values: Attributes) -> str:
    """The status of a report."""
    preliminary = text_of(values, tags.PreliminaryFlag)
    if text_of(values, tags.VerificationFlag) == "VERIFIED" or preliminary == "FINAL":
        return "final"
    completion = text_of(values, tags.CompletionFlag)
    if completion == "PARTIAL":
        return "partial"
    return "preliminary" if completion or preliminary else "unknown"


def codes_of(values: Attributes) -> list[tuple[str, str, str]]:
    """System, code and meaning of what kind of report it is."""
    items = plain_values.value_of(tags.ConceptNameCodeSequence, values.get(tags.ConceptNameCodeSequence, b""))
    found = [_code(item) for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    return [each for each in found if each[1]] or [_USUAL]


def _code(item: Mapping[str, Any]) -> tuple[str, str, str]:
    value = item.get("CodeValue") or item.get("LongCodeValue") or ""
    scheme = text(item.get("CodingSchemeDesignator"))
    return _SCHEMES.get(scheme, ""), text(value), text(item.get("CodeMeaning"))


def diagnostic_report(report: Report, release: Release, dicomweb: str) -> Json:
    """The resource. `dicomweb`: the root of DICOMweb as clients reach it; "": the document has no address."""
    values = report.attributes
    uid, study = text_of(values, tags.SOPInstanceUID), text_of(values, tags.StudyInstanceUID)
    accession = identifier(text_of(values, tags.AccessionNumber), kind="ACSN")
    zone = text_of(values, tags.TimezoneOffsetFromUTC)
    made = moment(text_of(values, tags.ContentDate), text_of(values, tags.ContentTime), zone)
    codes = codes_of(values)
    readers = text_of(values, tags.NameOfPhysiciansReadingStudy) or text_of(values, tags.ContentCreatorName)
    reader, place = display_name(readers.partition("\\")[0]), text_of(values, tags.InstitutionName)
    issued = made if "T" in made else report.received
    return {
        "resourceType": "DiagnosticReport",
        **without_empty(
            {
                "id": uid,
                "meta": without_empty({"lastUpdated": report.received}),
                "identifier": [identifier(uri_of_uid(uid), DICOM_UID), *filter(None, [accession])],
                "basedOn": [{"type": "ServiceRequest", "identifier": accession}] if accession else [],
                "status": status_of(values),
                "category": [{"coding": [coding(*each)]} for each in RADIOLOGY],
                "code": without_empty({"coding": [coding(*each) for each in codes], "text": codes[0][2]}),
                "subject": subject(values),
                "effectiveDateTime": moment(text_of(values, tags.StudyDate), text_of(values, tags.StudyTime), zone),
                "issued": issued,
                "performer": [{"display": place}] if place else [],
                "resultsInterpreter": [{"display": reader}] if reader else [],
                "study" if release is Release.R5 else "imagingStudy": [
                    {"reference": f"ImagingStudy/{study}", "type": "ImagingStudy"}
                ],
                "presentedForm": _forms(values, codes[0][2], dicomweb) if dicomweb else [],
            }
        ),
    }


def _forms(values: Attributes, title: str, dicomweb: str) -> list[Json]:
    study, series, instance = (
        quote(text_of(values, tag), safe="")
        for tag in (tags.StudyInstanceUID, tags.SeriesInstanceUID, tags.SOPInstanceUID)
    )
    address = f"{dicomweb}/studies/{study}/series/{series}/instances/{instance}/rendered"
    return [
        without_empty({"contentType": form, "url": f"{address}?accept={quote(form, safe='')}", "title": title})
        for form in FORMS.get(text_of(values, tags.SOPClassUID), ())
    ]
