"""engine.archive.interchange.dicomdir: what it writes, as pydicom reads it; which record an instance gets."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from engine.archive.interchange import dicomdir
from engine.dicom import tags, transfer_syntax, uids
from tests import samples

LITTLE = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN


def added(builder: dicomdir.DirectoryBuilder, ds: pydicom.Dataset, *file_id: str, syntax: str = LITTLE.uid) -> None:
    data = samples.encoded(ds)
    builder.add(
        dicomdir.keys_of(data, LITTLE),
        file_id,
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        transfer_syntax_uid=syntax,
        study_instance_uid=ds.StudyInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
    )


def encoded(builder: dicomdir.DirectoryBuilder) -> bytes:
    return b"".join(builder.encode("1.2.3.4"))


def test_pydicom_walks_the_records_by_their_offsets(tmp_path: Path) -> None:
    builder = dicomdir.DirectoryBuilder("FILMROOM")
    expected = []
    for patient in ("P1", "P2"):
        for study in (1, 2):
            for series in (1, 2, 3):
                for number in (1, 2):
                    ds = samples.instance(
                        study + 10 * int(patient[1]), series, number, patient_id=patient, patient_name="Müller^Jörg"
                    )
                    expected.append(ds)
                    file_id = (patient, f"ST{study}", f"SE{series}", f"IM{number}")
                    added(builder, ds, *file_id)
                    path = tmp_path.joinpath(*file_id)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(samples.part10(ds))
    (tmp_path / "DICOMDIR").write_bytes(encoded(builder))
    read = FileSet(tmp_path / "DICOMDIR")
    assert read.ID == "FILMROOM"
    assert [instance.SOPInstanceUID for instance in read] == [ds.SOPInstanceUID for ds in expected]
    for instance, ds in zip(read, expected, strict=True):
        assert instance.load().SOPInstanceUID == ds.SOPInstanceUID
        assert instance.PatientName == "Müller^Jörg"
        for keyword in ("PatientID", "StudyDate", "StudyID", "Modality", "SeriesNumber", "InstanceNumber"):
            assert getattr(instance, keyword) == getattr(ds, keyword)


def test_what_an_instance_lacks_stands_there_without_a_value() -> None:
    builder = dicomdir.DirectoryBuilder()
    ds = samples.instance()
    for keyword in ("PatientID", "PatientName", "StudyDate", "StudyTime", "StudyID", "SeriesNumber", "InstanceNumber"):
        delattr(ds, keyword)
    added(builder, ds, "X")
    patient, study, series, image = pydicom.dcmread(io.BytesIO(encoded(builder))).DirectoryRecordSequence
    assert "PatientID" in patient and not patient.PatientID
    assert "StudyDate" in study and not study.StudyDate
    assert study.StudyInstanceUID == ds.StudyInstanceUID
    assert "SeriesNumber" in series and series.SeriesNumber is None
    assert image.InstanceNumber is None
    assert image.ReferencedFileID == "X"
    assert image.ReferencedTransferSyntaxUIDInFile == LITTLE.uid


def test_an_empty_directory_is_one() -> None:
    read = pydicom.dcmread(io.BytesIO(encoded(dicomdir.DirectoryBuilder())))
    assert read.file_meta.MediaStorageSOPClassUID == uids.MediaStorageDirectoryStorage
    assert read.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity == 0
    assert not read.DirectoryRecordSequence


@pytest.mark.parametrize(
    ("sop_class_uid", "kind"),
    [
        (samples.CT, "IMAGE"),
        (uids.GrayscaleSoftcopyPresentationStateStorage, "PRESENTATION"),
        (uids.KeyObjectSelectionDocumentStorage, "KEY OBJECT DOC"),
        (uids.EnhancedSRStorage, "SR DOCUMENT"),
        (uids.EncapsulatedPDFStorage, "ENCAP DOC"),
        (uids.SegmentationStorage, "IMAGE"),
        (uids.SurfaceSegmentationStorage, "SURFACE"),
        (uids.RTDoseStorage, "RT DOSE"),
        (uids.RTPlanStorage, "RT PLAN"),
        (uids.RTImageStorage, "IMAGE"),
        (uids.RTStructureSetStorage, "RT STRUCTURE SET"),
        (uids.TwelveLeadECGWaveformStorage, "WAVEFORM"),
        (uids.RawDataStorage, "RAW DATA"),
        (uids.SpatialRegistrationStorage, "REGISTRATION"),
        (uids.MRSpectroscopyStorage, "SPECTROSCOPY"),
        ("1.3.46.670589.11.0.0.12.1", "IMAGE"),
    ],
)
def test_record_types(sop_class_uid: str, kind: str) -> None:
    assert dicomdir.record_type(sop_class_uid) == kind


def test_the_record_types_are_those_of_pydicom_where_it_has_one() -> None:
    from pydicom.fileset import _FOUR_LEVEL_SOP_CLASSES

    told = {uid: kind for uid, kind in _FOUR_LEVEL_SOP_CLASSES.items() if kind != dicomdir.record_type(uid)}
    assert not told


def test_sequences_and_character_sets_come_along_from_any_encoding() -> None:
    ds = samples.instance(sop_class_uid=uids.EnhancedSRStorage, modality="SR", patient_name="山田^太郎")
    ds.ContentDate, ds.ContentTime = "20260101", "1200"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "126000", "DCM", "Imaging Report"
    ds.ConceptNameCodeSequence = [code]
    del ds.PixelData
    for uid in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"):
        syntax = transfer_syntax.of(uid)
        ds.file_meta.TransferSyntaxUID = uid
        keys = dicomdir.keys_of(samples.encoded(ds), syntax)
        builder = dicomdir.DirectoryBuilder()
        builder.add(keys, ("X",), sop_class_uid=ds.SOPClassUID, sop_instance_uid="1", transfer_syntax_uid=uid,
                    study_instance_uid="1", series_instance_uid="1")  # fmt: skip
        patient, _, _, document = pydicom.dcmread(io.BytesIO(encoded(builder))).DirectoryRecordSequence
        assert patient.PatientName == "山田^太郎"
        assert document.DirectoryRecordType == "SR DOCUMENT"
        assert document.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Report"
        assert document.CompletionFlag == "COMPLETE"


def test_a_head_that_is_cut_gives_what_is_in_it() -> None:
    data = samples.encoded(samples.instance())
    for length in range(0, len(data), 7):
        assert set(dicomdir.keys_of(data[:length], LITTLE)) <= set(dicomdir.keys_of(data, LITTLE))
    assert dicomdir.keys_of(b"\xff" * 40, transfer_syntax.of("1.2.840.10008.1.2.1.99")) == {}
    assert tags.PatientID in dicomdir.keys_of(data, LITTLE)
