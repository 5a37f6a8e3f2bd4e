"""The attributes of an instance that the index keeps, by the level of the Query/Retrieve information model.

Only tags: `dicom.elements` extracts the values. A blob of a level holds these attributes and no others.
The order within a table is free; blobs are in ascending order of tags.
A tag that you add here is extracted from new instances only; stored ones keep their blobs. A site that needs more
attributes names them in its configuration (`extra`); these are extracted from stored instances too.
Standard: PS3.4 C.6.1.1 and C.6.2.1: the unique and required keys; the optional keys of Tables C.6-1 to C.6-4 that
instances contain; and of "all others" those that peers query.
"""

from __future__ import annotations

from typing import Final

from . import tags

PATIENT: Final[tuple[int, ...]] = (
    tags.PatientName,
    tags.PatientID,
    tags.IssuerOfPatientID,
    tags.IssuerOfPatientIDQualifiersSequence,
    tags.PatientBirthDate,
    tags.PatientBirthTime,
    tags.PatientSex,
    tags.OtherPatientIDs,
    tags.OtherPatientNames,
    tags.OtherPatientIDsSequence,
    tags.EthnicGroup,
    tags.PatientComments,
    tags.ReferencedPatientSequence,
)

STUDY: Final[tuple[int, ...]] = (
    tags.StudyDate,
    tags.StudyTime,
    tags.AccessionNumber,
    tags.IssuerOfAccessionNumberSequence,
    tags.ReferringPhysicianName,
    tags.TimezoneOffsetFromUTC,
    tags.StudyDescription,
    tags.ProcedureCodeSequence,
    tags.NameOfPhysiciansReadingStudy,
    tags.AdmittingDiagnosesDescription,
    tags.ReferencedStudySequence,
    tags.PatientAge,
    tags.PatientSize,
    tags.PatientWeight,
    tags.Occupation,
    tags.AdditionalPatientHistory,
    tags.StudyInstanceUID,
    tags.StudyID,
    tags.OtherStudyNumbers,
    tags.RequestingPhysician,
    tags.RequestingService,
    tags.RequestedProcedureDescription,
)

SERIES: Final[tuple[int, ...]] = (
    tags.SeriesDate,
    tags.SeriesTime,
    tags.Modality,
    tags.Manufacturer,
    tags.InstitutionName,
    tags.StationName,
    tags.SeriesDescription,
    tags.ReferencedPerformedProcedureStepSequence,
    tags.InstitutionalDepartmentName,
    tags.PerformingPhysicianName,
    tags.OperatorsName,
    tags.ManufacturerModelName,
    tags.BodyPartExamined,
    tags.ProtocolName,
    tags.PatientPosition,
    tags.SeriesInstanceUID,
    tags.SeriesNumber,
    tags.FrameOfReferenceUID,
    tags.Laterality,
    tags.PerformedProcedureStepStartDate,
    tags.PerformedProcedureStepStartTime,
    tags.PerformedProcedureStepID,
    tags.PerformedProcedureStepDescription,
    tags.RequestAttributesSequence,
)

INSTANCE: Final[tuple[int, ...]] = (
    tags.ImageType,
    tags.InstanceCreationDate,
    tags.InstanceCreationTime,
    tags.SOPClassUID,
    tags.SOPInstanceUID,
    tags.RelatedGeneralSOPClassUID,
    tags.ContentDate,
    tags.ContentTime,
    tags.AcquisitionNumber,
    tags.InstanceNumber,
    tags.PhotometricInterpretation,
    tags.NumberOfFrames,
    tags.Rows,
    tags.Columns,
    tags.BitsAllocated,
    tags.ConceptNameCodeSequence,
    tags.ContentTemplateSequence,
    tags.AlternateRepresentationSequence,
    tags.ContainerIdentifier,
    tags.CompletionFlag,
    tags.VerificationFlag,
    tags.PreliminaryFlag,
    tags.ContentLabel,
    tags.ContentDescription,
    tags.ContentCreatorName,
)

LEVELS: Final = (PATIENT, STUDY, SERIES, INSTANCE)
"""From the root of the information model down."""

SEARCHED: Final[tuple[int, ...]] = (
    tags.PatientID,
    tags.AccessionNumber,
    tags.StudyID,
    tags.PatientName,
    tags.OtherPatientIDs,
    tags.PatientBirthDate,
    tags.StudyDate,
    tags.ReferringPhysicianName,
    tags.StudyTime,
    tags.PerformedProcedureStepStartDate,
    tags.StudyDescription,
    tags.Modality,
)
"""The attributes with search keys, the most selective ones first."""

PIXEL_DATA: Final = (tags.FloatPixelData, tags.DoubleFloatPixelData, tags.PixelData)
"""Each of these at the top level ends the head of a data set."""

VALUE_BYTES_MAX: Final = 40_960
"""Limit for one value in a blob: the longest that these VRs allow, an LT of 10 240 characters of up to 4 bytes."""
SEQUENCE_BYTES_MAX: Final = 40_960
"""Limit for one sequence in a blob. A request or a code has some 300 bytes; requests with many protocol codes reach
6 KiB."""
BLOBS_BYTES_MAX: Final = 56_000
"""Limit for all blobs of an instance. With UIDs and titles they are in the head of a record, which has 64 KiB when it
is streamed. Usual instances have 1 KiB."""
