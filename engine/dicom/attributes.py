"""Which attributes of an instance the index keeps, by the level of the Query/Retrieve information model.

Only names: `dicom.elements` extracts them. A blob of a level holds these and no others.
The order within a table is free; blobs are in ascending order of tags.
Adding a tag changes what new instances bring along; instances stored before keep the old set until a rebuild.
Standard: PS3.4 C.6.1.1 and C.6.2.1 (required and unique keys, and the optional ones that peers ask for).
"""

from __future__ import annotations

from typing import Final

from . import tags

PATIENT: Final[tuple[int, ...]] = (
    tags.PatientName,
    tags.PatientID,
    tags.IssuerOfPatientID,
    tags.PatientBirthDate,
    tags.PatientBirthTime,
    tags.PatientSex,
    tags.OtherPatientIDs,
    tags.OtherPatientNames,
    tags.OtherPatientIDsSequence,
    tags.EthnicGroup,
    tags.PatientComments,
)

STUDY: Final[tuple[int, ...]] = (
    tags.StudyDate,
    tags.StudyTime,
    tags.AccessionNumber,
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
)

SERIES: Final[tuple[int, ...]] = (
    tags.SeriesDate,
    tags.SeriesTime,
    tags.Modality,
    tags.Manufacturer,
    tags.InstitutionName,
    tags.StationName,
    tags.SeriesDescription,
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
    tags.CompletionFlag,
    tags.VerificationFlag,
    tags.ContentLabel,
    tags.ContentDescription,
)

LEVELS: Final = (PATIENT, STUDY, SERIES, INSTANCE)
"""From the root of the information model down."""

PIXEL_DATA: Final = (tags.FloatPixelData, tags.DoubleFloatPixelData, tags.PixelData)
"""Each of these at the top level ends the head of a data set."""

VALUE_BYTES_MAX: Final = 1024
"""Of one value in a blob; what is longer is cut. Only LT may have 10240; the keys of C.6 stay below 64 characters."""
SEQUENCE_BYTES_MAX: Final = 4096
"""Of one sequence in a blob; whole items only. A request or a code is some 300 bytes."""
