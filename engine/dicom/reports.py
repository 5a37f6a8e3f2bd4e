"""Documents of other systems as instances: Encapsulated PDF and CDA (PS3.3 A.45), text as Basic Text SR (A.35.1).

pydicom takes as long to import as the rest of a worker: only the process of messages imports this module.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import NamedTuple

import pydicom
from pydicom.dataset import Dataset

from engine.dicom.document import Document

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
CLASSES = {
    "pdf": "1.2.840.10008.5.1.4.1.1.104.1",
    "cda": "1.2.840.10008.5.1.4.1.1.104.2",
    "text": "1.2.840.10008.5.1.4.1.1.88.11",
}
_TYPES = {"pdf": "application/pdf", "cda": "text/XML"}
_REPORT = ("18748-4", "LN", "Diagnostic imaging report")
_FINDING = ("121071", "DCM", "Finding")


class Uids(NamedTuple):
    """Where the instance belongs, and its own UID."""

    study: str
    series: str
    instance: str


def data_set(document: Document, values: Mapping[str, str], uids: Uids) -> bytes:
    """The data set in Explicit VR Little Endian. `values`: of patient and study, by keyword."""
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 192"
    found.SOPClassUID = CLASSES[document.kind]
    found.SOPInstanceUID = uids.instance
    found.StudyInstanceUID = uids.study
    found.SeriesInstanceUID = uids.series
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        setattr(found, keyword, "")
    for keyword in ("StudyDate", "StudyTime", "ReferringPhysicianName"):
        setattr(found, keyword, "")
    for keyword, value in values.items():
        setattr(found, keyword, value)
    found.SeriesNumber = 9900
    found.InstanceNumber = 1
    found.Manufacturer = ""
    found.ContentDate = document.date
    found.ContentTime = document.time
    if document.kind == "text":
        _structure(found, document)
    else:
        _encapsulate(found, document)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, found, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return stream.getvalue()


def _encapsulate(found: Dataset, document: Document) -> None:
    found.Modality = "DOC"
    found.ConversionType = "WSD"
    found.AcquisitionDateTime = ""
    found.BurnedInAnnotation = "YES"
    found.DocumentTitle = document.title[:1024]
    found.ConceptNameCodeSequence = [_code(*_REPORT)]
    found.MIMETypeOfEncapsulatedDocument = _TYPES[document.kind]
    found.EncapsulatedDocument = document.data + b"\0" * (len(document.data) % 2)
    found.EncapsulatedDocumentLength = len(document.data)


def _structure(found: Dataset, document: Document) -> None:
    found.Modality = "SR"
    found.ReferencedPerformedProcedureStepSequence = []
    found.PerformedProcedureCodeSequence = []
    found.CompletionFlag = "COMPLETE"
    found.VerificationFlag = "UNVERIFIED"
    found.ValueType = "CONTAINER"
    found.ConceptNameCodeSequence = [_code(*_REPORT)]
    found.ContinuityOfContent = "SEPARATE"
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = [_code(*_FINDING)]
    item.TextValue = document.data.decode("utf-8", "replace") or " "
    found.ContentSequence = [item]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = scheme
    code.CodeMeaning = meaning
    return code
