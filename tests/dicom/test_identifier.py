"""dicom.identifier: values by tag, decoded and encoded, judged by pydicom and by a plain encoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import elements, tags, transfer_syntax
from engine.dicom.identifier import (
    ELEMENT_COUNT_MAX,
    NESTING_MAX,
    Identifier,
    Value,
    decode_identifier,
    encode_identifier,
)
from engine.dicom.transfer_syntax import UNCOMPRESSED, TransferSyntax
from engine.errors import DataSetError
from tests.corpus import corpus_files, needs_corpus
from tests.oracle import data_sets, foreign
from tests.oracle.data_sets import Item, Plain, text

SYNTAXES = pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: syntax.name)
EXPLICIT = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN
IMPLICIT = transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN

VALUES = {
    tags.QueryRetrieveLevel: b"STUDY",
    tags.StudyInstanceUID: b"1.2.3",
    tags.PatientName: b"Doe*",
    tags.StudyDate: b"",
    tags.Rows: b"\x00\x02",
    tags.SimpleFrameList: b"\1\0\0\0\2\0\0\0",
    tags.RealWorldValueIntercept: bytes(range(8)),
    0x00091001: b"private",
}


@SYNTAXES
def test_values_come_back(syntax: TransferSyntax) -> None:
    decoded = decode_identifier(encode_identifier(VALUES, syntax), syntax)
    assert decoded.items == {**VALUES, 0x00091001: b"private\0"}  # UN keeps its padding: nobody knows what it is
    assert decoded.character_set == b""


@SYNTAXES
def test_sequences_come_back(syntax: TransferSyntax) -> None:
    code: dict[int, Value] = {tags.CodeValue: b"CT1", tags.CodeMeaning: b"CT head"}
    request: dict[int, Value] = {tags.ScheduledProtocolCodeSequence: [code, {}], tags.RequestedProcedureID: b"RP1"}
    items: dict[int, Value] = {tags.RequestAttributesSequence: [request], tags.ReferencedStudySequence: []}
    decoded = decode_identifier(encode_identifier(items, syntax), syntax)
    (item,) = decoded.sequence(tags.RequestAttributesSequence)
    assert item.value(tags.RequestedProcedureID) == b"RP1"
    assert [inner.items for inner in item.sequence(tags.ScheduledProtocolCodeSequence)] == [code, {}]
    assert decoded.items[tags.ReferencedStudySequence] == []
    assert encode_identifier(decoded.items, syntax) == encode_identifier(items, syntax)


@SYNTAXES
def test_pydicom_reads_encoded_identifiers(syntax: TransferSyntax) -> None:
    data = encode_identifier({**VALUES, tags.OtherPatientIDsSequence: [VALUES]}, syntax)
    dataset = foreign.read_data_set(data, syntax)
    assert dataset.PatientName == "Doe*"
    assert dataset.Rows == 512
    assert dataset.SimpleFrameList == [1, 2]
    assert dataset.OtherPatientIDsSequence[0].StudyInstanceUID == "1.2.3"


@SYNTAXES
def test_a_sequence_may_be_passed_as_in_a_blob(syntax: TransferSyntax) -> None:
    head = elements.extract(data_sets.encode(data_sets.ct_head(undefined=True), 1), EXPLICIT)
    value = elements.blob_items(head.series)[tags.RequestAttributesSequence]
    decoded = decode_identifier(encode_identifier({tags.RequestAttributesSequence: value}, syntax), syntax)
    (item,) = decoded.sequence(tags.RequestAttributesSequence)
    assert item.value(tags.ScheduledProcedureStepID) == b"SPS1"
    assert len(item.sequence(tags.ScheduledProtocolCodeSequence)) == 2


def test_elements_are_ascending_and_of_even_length() -> None:
    data = encode_identifier({tags.StudyInstanceUID: b"1.2", tags.PatientID: b"1"}, EXPLICIT)
    assert data == b"\x10\0\x20\0LO\x02\x001 " + b"\x20\0\x0d\0UI\x04\x001.2\0"


def test_the_character_set_is_separate_and_items_inherit_it() -> None:
    inner = Item([text(tags.PatientID, "1")])
    own = Item([text(tags.SpecificCharacterSet, "ISO_IR 144"), Plain(tags.PatientID, "LO", b"\xb8\xd2")])
    data = data_sets.encode(
        [
            text(tags.SpecificCharacterSet, "ISO_IR 192"),
            text(tags.PatientName, "Müller "),
            Plain(tags.OtherPatientIDsSequence, "SQ", [inner, own]),
        ],
        1,
    )
    decoded = decode_identifier(data, EXPLICIT)
    assert tags.SpecificCharacterSet not in decoded.items
    assert decoded.character_set == b"ISO_IR 192"
    assert decoded.text(tags.PatientName) == "Müller"
    items = decoded.sequence(tags.OtherPatientIDsSequence)
    assert [item.character_set for item in items] == [b"ISO_IR 192", b"ISO_IR 144"]
    assert items[1].text(tags.PatientID) == "Ив"


def test_absent_values_are_empty() -> None:
    identifier = Identifier({tags.OtherPatientIDsSequence: []})
    assert identifier.value(tags.PatientID) == b""
    assert identifier.value(tags.OtherPatientIDsSequence) == b""
    assert identifier.sequence(tags.PatientID) == []
    assert identifier.text(tags.PatientID) == ""


def test_group_lengths_and_padding_are_dropped() -> None:
    data = data_sets.encode([Plain(0x00080000, "UL", b"\4\0\0\0"), Plain(tags.PatientID, "LO", b"12  \0\0")], 1)
    assert decode_identifier(data, EXPLICIT).items == {tags.PatientID: b"12"}


def test_nesting_is_limited_both_ways() -> None:
    deep: dict[int, object] = {tags.PatientID: b"1"}
    for _ in range(NESTING_MAX):
        deep = {tags.ContentSequence: [deep]}
    data = encode_identifier(deep, EXPLICIT)  # type: ignore[arg-type]
    decode_identifier(data, EXPLICIT)
    with pytest.raises(DataSetError, match="nests more than"):
        encode_identifier({tags.ContentSequence: [deep]}, EXPLICIT)  # type: ignore[list-item]
    opening = b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    with pytest.raises(DataSetError, match="nests more than"):
        decode_identifier(opening * 33 + closing * 33, EXPLICIT)
    with pytest.raises(DataSetError, match="nests sequences too deeply"):
        decode_identifier(opening * 20_000 + closing * 20_000, EXPLICIT)


def test_elements_are_counted_at_every_depth() -> None:
    empty = b"\x10\0\x20\0LO\0\0"
    decode_identifier(empty * ELEMENT_COUNT_MAX, EXPLICIT)
    item = b"\xfe\xff\0\xe0" + (8 * 100).to_bytes(4, "little") + empty * 100
    sequence = b"\x40\0\x30\xa7SQ\0\0" + (len(item) * 50).to_bytes(4, "little") + item * 50
    for data in (empty * (ELEMENT_COUNT_MAX + 1), sequence):
        with pytest.raises(DataSetError, match=f"more than {ELEMENT_COUNT_MAX} elements"):
            decode_identifier(data, EXPLICIT)


def test_a_key_with_another_vr_than_sq_for_the_tag_of_a_sequence_is_dropped() -> None:
    """Found by the fuzzer: (0008,0305), a sequence, as CS; after encoding it was taken for items."""
    data = data_sets.encode([Plain(0x00080305, "CS", b"ISO_IR 100"), Plain(tags.PatientID, "LO", b"12")], 1)
    result = decode_identifier(data, EXPLICIT)
    assert result.items == {tags.PatientID: b"12"}
    assert decode_identifier(encode_identifier(result.items, EXPLICIT), EXPLICIT) == result


def test_a_value_beyond_its_length_field_is_written_as_un() -> None:
    uids = "\\".join(f"1.2.826.0.1.3680043.10.1599.99.{number}" for number in range(3000)).encode()
    for syntax in (EXPLICIT, IMPLICIT, transfer_syntax.EXPLICIT_VR_BIG_ENDIAN):
        data = encode_identifier({tags.FailedSOPInstanceUIDList: uids, tags.PatientID: b"1"}, syntax)
        decoded = decode_identifier(data, syntax).items
        assert decoded[tags.FailedSOPInstanceUIDList].rstrip(b"\0") == uids  # type: ignore[union-attr]
        assert decoded[tags.PatientID] == b"1"
    data = encode_identifier({tags.FailedSOPInstanceUIDList: uids}, EXPLICIT)
    element = foreign.read_data_set(data, EXPLICIT)["FailedSOPInstanceUIDList"]
    assert element.VR == "UN"
    assert bytes(element.value).rstrip(b"\0") == uids


def test_a_deflated_bomb_is_refused() -> None:
    syntax = transfer_syntax.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    bomb = encode_identifier({tags.EncapsulatedDocument: bytes(5 << 20)}, syntax)
    with pytest.raises(DataSetError, match="more than"):
        decode_identifier(bomb, syntax)


def test_an_identifier_cut_at_any_byte_is_read_or_refused() -> None:
    for syntax in UNCOMPRESSED:
        data = encode_identifier({**VALUES, tags.OtherPatientIDsSequence: [VALUES]}, syntax)
        for size in range(len(data)):
            try:
                decode_identifier(data[:size], syntax)
            except DataSetError:
                pass


@given(st.binary(max_size=120), st.sampled_from(UNCOMPRESSED))
def test_any_bytes_are_read_or_refused(data: bytes, syntax: TransferSyntax) -> None:
    try:
        decode_identifier(data, syntax)
    except DataSetError:
        pass


@needs_corpus("sr", "rt", "charset")
def test_small_data_sets_of_the_corpus_have_the_elements_that_pydicom_finds() -> None:
    for path in corpus_files("sr", "rt", "charset"):
        file = foreign.read_file(path)
        if file is None or file.transfer_syntax.deflated:
            continue
        decoded = decode_identifier(file.data, file.transfer_syntax)
        assert set(decoded.items) == {int(t) for t in tuple(file.dataset.keys()) if t.element and t != 0x00080005}, path
        for tag in decoded.items:
            if isinstance(decoded.items[tag], list):
                assert len(decoded.sequence(tag)) == len(file.dataset[tag].value)
