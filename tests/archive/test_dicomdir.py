"""engine.archive.interchange.dicomdir: what it writes, as pydicom reads it; which record an instance gets."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.fileset import FileSet

from engine.archive.interchange import dicomdir
from engine.archive.interchange import directory_records as records
from engine.dicom import tags, transfer_syntax, uids
from tests import samples

LITTLE = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN


def added(builder: dicomdir.DirectoryBuilder, ds: pydicom.Dataset, *file_id: str, syntax: str = LITTLE.uid) -> None:
    data = samples.encoded(ds)
    builder.add(
        records.keys_of([data], LITTLE, records.record_type(ds.SOPClassUID)),
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
    assert records.record_type(sop_class_uid) == kind


def test_the_record_types_are_those_of_pydicom_where_it_has_one() -> None:
    from pydicom.fileset import _FOUR_LEVEL_SOP_CLASSES

    told = {uid: kind for uid, kind in _FOUR_LEVEL_SOP_CLASSES.items() if kind != records.record_type(uid)}
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
        keys = records.keys_of([samples.encoded(ds)], syntax, "SR DOCUMENT")
        builder = dicomdir.DirectoryBuilder()
        builder.add(keys, ("X",), sop_class_uid=ds.SOPClassUID, sop_instance_uid="1", transfer_syntax_uid=uid,
                    study_instance_uid="1", series_instance_uid="1")  # fmt: skip
        patient, _, _, document = pydicom.dcmread(io.BytesIO(encoded(builder))).DirectoryRecordSequence
        assert patient.PatientName == "山田^太郎"
        assert document.DirectoryRecordType == "SR DOCUMENT"
        assert document.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Report"
        assert document.CompletionFlag == "COMPLETE"


def test_a_data_set_that_is_cut_gives_what_is_in_it() -> None:
    data = samples.encoded(samples.instance())
    whole = records.keys_of([data], LITTLE, "IMAGE")
    for length in range(0, len(data), 7):
        assert set(records.keys_of([data[:length]], LITTLE, "IMAGE")) <= set(whole)
    assert records.keys_of([b"\xff" * 40], transfer_syntax.of("1.2.840.10008.1.2.1.99"), "IMAGE") == {}
    assert tags.PatientID in whole


def document(sop_class_uid: str, modality: str, **values: object) -> pydicom.Dataset:
    ds = samples.instance(sop_class_uid=sop_class_uid, modality=modality)
    del ds.PixelData
    ds.ContentDate, ds.ContentTime = "20260101", "1200"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def code(value: str, meaning: str) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def leaf_of(ds: pydicom.Dataset) -> pydicom.Dataset:
    builder = dicomdir.DirectoryBuilder()
    added(builder, ds, "X")
    return pydicom.dcmread(io.BytesIO(encoded(builder))).DirectoryRecordSequence[3]


def test_keys_behind_a_value_of_any_length_are_found_wherever_the_pieces_end() -> None:
    ds = document(
        uids.EncapsulatedPDFStorage, "DOC", DocumentTitle="Letter", EncapsulatedDocument=bytes(3 << 20),
        MIMETypeOfEncapsulatedDocument="application/pdf", HL7InstanceIdentifier="1.2^3",
    )  # fmt: skip
    for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"):
        ds.file_meta.TransferSyntaxUID = syntax
        data = samples.encoded(ds)
        expected = records.keys_of([data], transfer_syntax.of(syntax), "ENCAP DOC")
        assert expected[tags.MIMETypeOfEncapsulatedDocument].endswith(b"application/pdf ")
        for size in (len(data) - 3, 1 << 20, 70_001):
            pieces = (data[at : at + size] for at in range(0, len(data), size))
            assert records.keys_of(pieces, transfer_syntax.of(syntax), "ENCAP DOC") == expected
    small = samples.encoded(document(uids.EncapsulatedPDFStorage, "DOC", ConceptNameCodeSequence=[code("1", "x")]))
    whole = records.keys_of([small], LITTLE, "ENCAP DOC")
    assert records.keys_of((small[at : at + 1] for at in range(len(small))), LITTLE, "ENCAP DOC") == whole


def test_a_deflated_document_is_read_too() -> None:
    ds = document(
        uids.EncapsulatedPDFStorage, "DOC", EncapsulatedDocument=bytes(6 << 20),
        MIMETypeOfEncapsulatedDocument="application/pdf",
    )  # fmt: skip
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(samples.encoded(ds)) + deflater.flush()
    pieces = (data[at : at + 1000] for at in range(0, len(data), 1000))
    keys = records.keys_of(pieces, transfer_syntax.of("1.2.840.10008.1.2.1.99"), "ENCAP DOC")
    assert tags.MIMETypeOfEncapsulatedDocument in keys


def test_a_verified_document_has_the_time_of_its_latest_verification() -> None:
    observers = []
    for time in ("20260101120000", "20260301120000", "20260201120000"):
        observer = pydicom.Dataset()
        observer.VerifyingOrganization, observer.VerificationDateTime = "St. Elsewhere", time
        observers.append(observer)
    verified = leaf_of(
        document(uids.EnhancedSRStorage, "SR", VerificationFlag="VERIFIED", VerifyingObserverSequence=observers)
    )
    assert verified.VerificationDateTime == "20260301120000"
    assert "VerifyingObserverSequence" not in verified
    assert "VerificationDateTime" not in leaf_of(document(uids.EnhancedSRStorage, "SR", VerificationFlag="UNVERIFIED"))


@pytest.mark.parametrize(
    ("sop_class_uid", "modality"), [(uids.EnhancedSRStorage, "SR"), (uids.KeyObjectSelectionDocumentStorage, "KO")]
)
@pytest.mark.parametrize("undefined", [False, True])
def test_content_that_modifies_the_title_is_in_the_record_and_no_other(
    sop_class_uid: str, modality: str, undefined: bool
) -> None:
    content = []
    for relation, value in (("CONTAINS", "1"), ("HAS CONCEPT MOD", "121049"), ("CONTAINS", "2")):
        item = pydicom.Dataset()
        item.RelationshipType, item.ValueType = relation, "CODE"
        item.ConceptNameCodeSequence = [code(value, "Language")]
        item.is_undefined_length_sequence_item = undefined
        content.append(item)
    ds = document(sop_class_uid, modality, ConceptNameCodeSequence=[code("126000", "Report")], ContentSequence=content)
    ds["ContentSequence"].is_undefined_length = undefined
    leaf = leaf_of(ds)
    assert [item.ConceptNameCodeSequence[0].CodeValue for item in leaf.ContentSequence] == ["121049"]
    del content[1]
    ds.ContentSequence = content
    assert "ContentSequence" not in leaf_of(ds)


def test_a_conditional_sequence_that_is_not_there_is_not_in_the_record() -> None:
    state = document(uids.GrayscaleSoftcopyPresentationStateStorage, "PR", ContentLabel="X", BlendingSequence=[])
    leaf = leaf_of(state)
    assert "BlendingSequence" not in leaf and "ReferencedSeriesSequence" not in leaf
    assert leaf.ContentLabel == "X" and "ContentDescription" in leaf


def patients(*data_sets: pydicom.Dataset) -> int:
    builder = dicomdir.DirectoryBuilder()
    for number, ds in enumerate(data_sets):
        added(builder, ds, f"X{number}")
    found = pydicom.dcmread(io.BytesIO(encoded(builder))).DirectoryRecordSequence
    return sum(record.DirectoryRecordType == "PATIENT" for record in found)


def test_a_patient_is_an_id_and_its_issuer_however_the_name_is_written() -> None:
    spelled = [samples.instance(1, 1, 1, patient_id="7", patient_name="Müller^Jörg")]
    spelled.append(samples.instance(2, 1, 1, patient_id="7 ", patient_name="MUELLER^JOERG"))
    spelled.append(samples.instance(3, 1, 1, patient_id="7", patient_name="Müller^Jörg"))
    spelled[2].SpecificCharacterSet = "ISO_IR 100"
    assert patients(*spelled) == 1
    spelled[1].IssuerOfPatientID = "Elsewhere"
    assert patients(*spelled) == 2
    nameless = [samples.instance(number, 1, 1, patient_id="", patient_name=name) for number, name in
                enumerate(("Doe^Jane", "Doe^Jane^^", "Roe^Jane"), 1)]  # fmt: skip
    assert patients(*nameless) == 2
