"""Synthetic instances: images of a phantom, and what the assistant makes of them (a report and a segmentation).

images          128 by 128 pixels, 12 of 16 bits, MONOCHROME2: circles of another brightness in each image
report          Basic Text SR: one observation
segmentation    BINARY, one segment, a frame for each image
"""

from __future__ import annotations

import time
from typing import Final

import numpy
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence

from perf.hospital import invented
from perf.hospital.day import Examination, Fate

SIDE: Final = 128
SOP_CLASSES: Final = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
}
TEXT_SR: Final = "1.2.840.10008.5.1.4.1.1.88.11"
SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"


def image(one: Examination, number: int) -> Dataset:
    """Image `number`, from 1, of an examination, as its modality sends it."""
    data_set = _common(one, SOP_CLASSES[one.modality], 1, number)
    data_set.Modality, data_set.SeriesDescription = one.modality, f"Invented {one.modality}"
    data_set.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data_set.InstanceNumber = number
    data_set.PixelSpacing, data_set.SliceThickness = [1, 1], 5
    data_set.ImagePositionPatient = [-SIDE / 2, -SIDE / 2, 5 * number]
    data_set.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data_set.BodyPartExamined, data_set.PatientPosition = "PHANTOM", "HFS"
    data_set.RescaleIntercept, data_set.RescaleSlope = -1024, 1
    data_set.WindowCenter, data_set.WindowWidth = 40, 400
    _pixels(data_set, bits=12)
    data_set.PixelData = _phantom(number).tobytes()
    return data_set


def report(one: Examination) -> Dataset:
    """The assistant's findings."""
    data_set = _common(one, TEXT_SR, 8, 1, patient_of_study=True)
    data_set.Modality, data_set.SeriesDescription, data_set.InstanceNumber = "SR", "Invented findings", 1
    data_set.ContentDate, data_set.ContentTime = data_set.StudyDate, data_set.StudyTime
    data_set.CompletionFlag, data_set.VerificationFlag = "COMPLETE", "UNVERIFIED"
    data_set.ReferencedPerformedProcedureStepSequence = Sequence([])
    data_set.PerformedProcedureCodeSequence = Sequence([])
    data_set.ValueType, data_set.ContinuityOfContent = "CONTAINER", "SEPARATE"
    data_set.ConceptNameCodeSequence = Sequence([code("18748-4", "LN", "Diagnostic imaging report")])
    finding = Dataset()
    finding.RelationshipType, finding.ValueType = "CONTAINS", "TEXT"
    finding.ConceptNameCodeSequence = Sequence([code("121071", "DCM", "Finding")])
    finding.TextValue = "Nothing is found, since nothing is there: these images are invented."
    data_set.ContentSequence = Sequence([finding])
    return data_set


def segmentation(one: Examination) -> Dataset:
    """The bright circle of each image."""
    data_set = _common(one, SEGMENTATION, 9, 1, patient_of_study=True)
    data_set.Modality, data_set.SeriesDescription, data_set.InstanceNumber = "SEG", "Invented segments", 1
    data_set.ImageType, data_set.ContentLabel = ["DERIVED", "PRIMARY"], "INVENTED"
    data_set.ContentDate, data_set.ContentTime = data_set.StudyDate, data_set.StudyTime
    data_set.ContentDescription, data_set.ContentCreatorName = "Invented", "Invented^Assistant"
    data_set.SegmentationType, data_set.LossyImageCompression = "BINARY", "00"
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = 1, "Circle", "AUTOMATIC"
    segment.SegmentAlgorithmName = "simulation"
    segment.SegmentedPropertyCategoryCodeSequence = Sequence([code("91723000", "SCT", "Anatomical structure")])
    segment.SegmentedPropertyTypeCodeSequence = Sequence([code("85756007", "SCT", "Tissue")])
    data_set.SegmentSequence = Sequence([segment])
    data_set.NumberOfFrames = one.image_count
    _pixels(data_set, bits=1)
    frames = [_phantom(number) > 2000 for number in range(1, one.image_count + 1)]
    data_set.PixelData = pack_bits(numpy.concatenate(frames).ravel().astype(numpy.uint8), pad=True)
    return data_set


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _common(one: Examination, sop_class: str, series: int, number: int, *, patient_of_study: bool = False) -> Dataset:
    """Patient, study, series and equipment. `patient_of_study`: as the archive shows the patient."""
    person = one.person
    if one.mistaken_for is not None and (patient_of_study or one.fate is Fate.MISTAKEN):
        person = one.mistaken_for
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.SOPClassUID, data_set.SOPInstanceUID = sop_class, f"{one.uid}.{series}.{number}"
    data_set.StudyDate, data_set.StudyTime = time.strftime("%Y%m%d"), "090000"
    data_set.AccessionNumber = "" if one.fate in (Fate.NUMBERLESS, Fate.UNORDERED) else one.accession
    data_set.Manufacturer, data_set.InstitutionName = "Filmroom simulation", invented.INSTITUTION
    data_set.ReferringPhysicianName, data_set.StationName = "Invented^Referrer", one.station
    data_set.StudyDescription = f"Invented {one.fate}"
    data_set.PatientName, data_set.PatientID = person.name, person.patient_id
    data_set.IssuerOfPatientID = invented.AUTHORITY
    data_set.PatientBirthDate, data_set.PatientSex = person.birth_date, person.sex
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = one.uid, f"{one.uid}.{series}"
    data_set.StudyID, data_set.SeriesNumber = str(one.number), series
    data_set.FrameOfReferenceUID = f"{one.uid}.7"
    return data_set


def _pixels(data_set: Dataset, bits: int) -> None:
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows = data_set.Columns = SIDE
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = (1 if bits == 1 else 16), bits, bits - 1
    data_set.PixelRepresentation = 0


def _phantom(number: int) -> numpy.ndarray:
    """A bright circle, which moves from image to image, in a darker one."""
    rows, columns = numpy.ogrid[:SIDE, :SIDE]
    pixels = numpy.full((SIDE, SIDE), 24, "<u2")
    pixels[(rows - SIDE // 2) ** 2 + (columns - SIDE // 2) ** 2 < (SIDE * 2 // 5) ** 2] = 1060
    angle = number * 0.8
    row, column = SIDE // 2 + 24 * numpy.sin(angle), SIDE // 2 + 24 * numpy.cos(angle)
    pixels[(rows - row) ** 2 + (columns - column) ** 2 < 144] = 2100
    return pixels
