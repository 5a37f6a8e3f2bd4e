"""dicom.part10: file meta of whole, damaged and missing kinds."""

from __future__ import annotations

import io

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import part10, tags, transfer_syntax, uids
from engine.errors import DataSetError
from tests.corpus import corpus_files, needs_corpus
from tests.oracle import data_sets
from tests.oracle.data_sets import Plain, text

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN.uid
DATA_SETS = {
    syntax.uid: data_sets.encode(data_sets.ct_head(), syntax.encoding)
    for syntax in transfer_syntax.UNCOMPRESSED
    if not syntax.deflated
}


def test_pydicom_reads_our_file_meta() -> None:
    meta = part10.write_file_meta(
        CT, "1.2.3", EXPLICIT, source_ae_title="MODALITY", sending_ae_title="A", receiving_ae_title="FILMROOM"
    )
    dataset = pydicom.dcmread(io.BytesIO(meta + DATA_SETS[EXPLICIT]))
    assert dataset.PatientID == "4711"
    file_meta = dataset.file_meta
    assert file_meta.MediaStorageSOPClassUID == CT
    assert file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert file_meta.TransferSyntaxUID == EXPLICIT
    assert file_meta.ImplementationClassUID == uids.IMPLEMENTATION_CLASS_UID
    assert file_meta.ImplementationVersionName == uids.IMPLEMENTATION_VERSION_NAME
    assert file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert (file_meta[0x00020017].value, file_meta[0x00020018].value) == ("A", "FILMROOM")
    assert file_meta.FileMetaInformationGroupLength == len(meta) - 144


@given(st.from_regex(r"[0-9.]{1,64}", fullmatch=True), st.from_regex(r"[A-Z]{0,16}", fullmatch=True))
def test_file_meta_comes_back(uid: str, ae_title: str) -> None:
    file_meta = part10.write_file_meta(CT, uid, EXPLICIT, source_ae_title=ae_title)
    assert len(file_meta) % 2 == 0
    meta = part10.read_file_meta(file_meta + DATA_SETS[EXPLICIT])
    assert meta.media_storage_sop_class_uid == CT
    assert meta.media_storage_sop_instance_uid == uid
    assert (meta.transfer_syntax_uid, meta.is_guessed) == (EXPLICIT, False)
    assert meta.source_ae_title == ae_title
    assert meta.data_set_offset == len(file_meta)


@needs_corpus()
def test_the_corpus_reads_as_pydicom_reads_it() -> None:
    count = 0
    for path in corpus_files():
        if "odd" in path.parts:
            continue
        theirs = pydicom.filereader.read_file_meta_info(path)
        ours = part10.read_file_meta(path.read_bytes()[: part10.FILE_META_BYTES_MAX])
        assert ours.transfer_syntax_uid == theirs.TransferSyntaxUID, path
        assert ours.media_storage_sop_instance_uid == theirs.get("MediaStorageSOPInstanceUID", "")
        if path.name != "GH364.dcm":  # its group length is wrong
            assert ours.data_set_offset == 144 + theirs.FileMetaInformationGroupLength, path
        assert not ours.is_guessed
        count += 1
    assert count > 400


@needs_corpus("odd")
def test_odd_files_of_the_corpus_are_read_or_refused() -> None:
    refused = set()
    for path in corpus_files("odd"):
        try:
            part10.read_file_meta(path.read_bytes())
        except DataSetError:
            refused.add(path.name)
    # The first element of no_meta is (0820,…), the data set of meta_missing_tsyntax begins with (0001,0001).
    assert refused <= {"syn-empty-file.dcm", "syn-not-dicom.dcm", "no_meta.dcm", "meta_missing_tsyntax.dcm"}


@pytest.mark.parametrize("uid", DATA_SETS)
@pytest.mark.parametrize("before", [b"", b"DICM", bytes(128) + b"DICM"], ids=["bare", "magic", "preamble"])
def test_without_file_meta_the_transfer_syntax_is_guessed(uid: str, before: bytes) -> None:
    meta = part10.read_file_meta(before + DATA_SETS[uid])
    assert (meta.transfer_syntax_uid, meta.is_guessed, meta.data_set_offset) == (uid, True, len(before))
    assert meta.media_storage_sop_instance_uid == ""


@pytest.mark.parametrize("uid", DATA_SETS)
def test_file_meta_without_a_transfer_syntax_is_completed_by_a_guess(uid: str) -> None:
    group = data_sets.encode([text(tags.MediaStorageSOPInstanceUID, "1.2.3")], 1)
    meta = part10.read_file_meta(bytes(128) + b"DICM" + group + DATA_SETS[uid])
    assert (meta.transfer_syntax_uid, meta.is_guessed) == (uid, True)
    assert meta.media_storage_sop_instance_uid == "1.2.3"
    assert meta.data_set_offset == 132 + len(group)


@pytest.mark.parametrize("before", [b"", bytes(128) + b"DICM"], ids=["no preamble", "preamble"])
@pytest.mark.parametrize("length", [None, 0, 4, 0x10000000])
def test_the_group_length_is_ignored(before: bytes, length: int | None) -> None:
    elements = [text(tags.MediaStorageSOPInstanceUID, "1.2.3"), text(tags.TransferSyntaxUID, "1.2.840.10008.1.2")]
    if length is not None:
        elements.insert(0, Plain(tags.FileMetaInformationGroupLength, "UL", length.to_bytes(4, "little")))
    group = data_sets.encode(elements, 1)
    meta = part10.read_file_meta(before + group + DATA_SETS["1.2.840.10008.1.2"])
    assert meta.data_set_offset == len(before) + len(group)
    assert (meta.transfer_syntax_uid, meta.is_guessed) == ("1.2.840.10008.1.2", False)


def test_an_empty_data_set_after_whole_file_meta_is_fine() -> None:
    file_meta = part10.write_file_meta(CT, "1.2.3", EXPLICIT)
    assert part10.read_file_meta(file_meta).data_set_offset == len(file_meta)


def test_file_meta_cut_at_any_byte_is_refused_or_guessed_but_never_misread() -> None:
    file_meta = part10.write_file_meta(CT, "1.2.3.4", EXPLICIT)
    for size in range(len(file_meta)):
        try:
            meta = part10.read_file_meta(file_meta[:size])
        except DataSetError:
            continue
        assert meta.transfer_syntax_uid == EXPLICIT


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for before in (b"", bytes(128) + b"DICM", b"\x02\0\x10\0UI"):
        try:
            meta = part10.read_file_meta(before + data)
        except DataSetError:
            continue
        assert 0 <= meta.data_set_offset <= len(before) + len(data)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(300), b"%PDF-1.7 and so on", bytes(1000), b"\xff" * 1000])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(DataSetError, match="not a DICOM file"):
        part10.read_file_meta(data)
