"""dicom.elements: what is kept of an instance, judged by pydicom; and how it is read from parts and from odd bytes."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import attributes, elements, tags, transfer_syntax
from engine.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from engine.errors import DataSetError
from tests.corpus import corpus_files, needs_corpus
from tests.oracle import data_sets, foreign
from tests.oracle.data_sets import Plain, text, us

PLAIN_SYNTAXES = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)


def encoded(syntax: TransferSyntax, *, undefined: bool = False) -> bytes:
    data = data_sets.encode(data_sets.ct_head(undefined=undefined), syntax.encoding)
    if syntax.deflated:
        deflater = zlib.compressobj(wbits=-15)
        return deflater.compress(data) + deflater.flush()
    return data


def all_items(head: elements.Head) -> dict[int, bytes]:
    items: dict[int, bytes] = {}
    for blob in (head.patient, head.study, head.series, head.instance):
        items.update(elements.blob_items(blob))
    return items


# against pydicom -------------------------------------------------------------------------------------------------


def expected_value(dataset: Any, tag: int, big_endian: bool) -> bytes | None:
    raw = foreign.raw_value(dataset, tag)
    if raw is None:
        return None
    raw = raw[: attributes.VALUE_BYTES_MAX]
    if tags.vr_of(tag) == "US":
        return raw[::-1] if big_endian else raw
    return raw.rstrip(b" \0")


def assert_same_sequence(dataset: Any, tag: int, kept: bytes, character_set: bytes) -> None:
    element = Plain(tags.SpecificCharacterSet, "CS", character_set)
    data = data_sets.encode([element], 1) + data_sets.header(tag, "SQ", len(kept), 1) + kept
    ours = foreign.read_data_set(data, EXPLICIT_VR_LITTLE_ENDIAN)[tag].value
    theirs = dataset[tag].value
    assert len(ours) == len(theirs) or len(kept) > 2048
    for our_item, their_item in zip(ours, theirs, strict=False):
        assert {e.tag: e.value for e in our_item} == {e.tag: e.value for e in their_item if e.tag.element != 0}


@needs_corpus()
def test_the_corpus_gives_the_values_and_the_pixel_data_offset_that_pydicom_finds() -> None:
    for path in corpus_files():
        file = foreign.read_file(path)
        if file is None:
            continue
        head = elements.extract(file.data, file.transfer_syntax, complete=True)
        assert head.pixel_data_offset == foreign.pixel_data_offset(file), path
        items = all_items(head)
        for tag in (tag for level in attributes.LEVELS for tag in level):
            if tags.vr_of(tag) == "SQ":
                if tag in items and tag in file.dataset:
                    assert_same_sequence(file.dataset, tag, items[tag], head.specific_character_set)
            else:
                expected = expected_value(file.dataset, tag, file.transfer_syntax.big_endian)
                assert items.get(tag) == expected, (path, hex(tag))
        assert head.sop_instance_uid == items.get(tags.SOPInstanceUID, b"")


@needs_corpus()
def test_walk_finds_the_elements_that_pydicom_finds() -> None:
    for path in corpus_files("ct", "mr", "sr", "us", "syntax", "series/ct-legacy-converted", "rt"):
        file = foreign.read_file(path)
        if file is None or file.transfer_syntax.deflated:
            continue
        encoding = elements.encoding_of(file.data, file.transfer_syntax)
        found = {element.tag: element for element in elements.walk(file.data, encoding)}
        assert sorted(found) == sorted(int(tag) for tag in tuple(file.dataset.keys())), path
        for tag, element in found.items():
            raw = foreign.raw_value(file.dataset, tag)
            if raw is not None and not element.is_undefined_length:
                assert file.data[element.value_offset : element.value_offset + element.length] == raw


@needs_corpus("odd")
def test_whatever_is_odd_is_read_or_refused_with_our_own_error() -> None:
    for path in corpus_files("odd"):
        raw = path.read_bytes()
        for offset in (0, 132, 300):
            for syntax in (*PLAIN_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN):
                for complete in (True, False):
                    try:
                        elements.extract(raw[offset:], syntax, complete=complete)
                    except DataSetError:
                        pass


# what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*PLAIN_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN], ids=lambda s: s.name)
def test_every_encoding_of_one_data_set_gives_the_same_blobs(syntax: TransferSyntax) -> None:
    reference = elements.extract(encoded(EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    head = elements.extract(encoded(syntax), syntax, complete=True)
    assert (head.patient, head.study, head.series, head.instance) == (
        reference.patient,
        reference.study,
        reference.series,
        reference.instance,
    )
    assert head.sop_class_uid == b"1.2.840.10008.5.1.4.1.1.2"
    assert head.study_instance_uid == b"1.2.3.4"
    assert head.series_instance_uid == b"1.2.3.44"
    assert head.specific_character_set == b"ISO_IR 100"
    assert elements.blob_items(head.patient) == {tags.PatientName: b"Doe^John", tags.PatientID: b"4711"}
    assert elements.blob_items(head.study)[tags.AccessionNumber] == b""
    assert elements.blob_items(head.instance)[tags.Columns] == (384).to_bytes(2, "little")


def test_blobs_hold_ascending_tags_of_their_own_level_only() -> None:
    head = elements.extract(encoded(EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    for level, blob in zip(attributes.LEVELS, (head.patient, head.study, head.series, head.instance), strict=True):
        found = list(elements.blob_items(blob))
        assert found == sorted(found)
        assert set(found) <= set(level)


def test_long_values_are_cut_and_then_stripped() -> None:
    data = data_sets.encode([text(tags.PatientComments, "a" * 1020 + " " * 6 + "b" * 100)], 1)
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    assert elements.blob_items(head.patient)[tags.PatientComments] == b"a" * 1020


def test_tags_out_of_order_are_found_and_the_last_of_a_double_one_counts() -> None:
    data = data_sets.encode(
        [text(tags.PatientID, "2"), text(tags.Modality, "MR"), text(tags.PatientID, "1"), us(tags.Rows, 3)], 1
    )
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    assert elements.blob_items(head.patient) == {tags.PatientID: b"1"}
    assert elements.blob_items(head.series) == {tags.Modality: b"MR"}


def test_a_value_of_the_wrong_kind_of_vr_is_left_out() -> None:
    data = data_sets.encode(
        [Plain(tags.PatientID, "FD", bytes(8)), Plain(tags.Rows, "LO", b"12"), Plain(tags.Columns, "UN", b"\x10\0")], 1
    )
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    assert head.patient == b""
    assert elements.blob_items(head.instance) == {tags.Columns: b"\x10\0"}


def test_a_wrong_transfer_syntax_is_seen_by_the_first_element() -> None:
    for stated, real in ((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN),) * 2:
        for one, other in ((stated, real), (real, stated)):
            head = elements.extract(encoded(other), one, complete=True)
            assert head.sop_instance_uid == b"1.2.3.4.5"


def test_pixel_data_in_an_icon_is_not_the_pixel_data() -> None:
    icon = data_sets.Item([us(tags.Rows, 1), Plain(tags.PixelData, "OW", b"\1\2")], undefined=True)
    data_set = [
        Plain(tags.IconImageSequence, "SQ", [icon], undefined=True),
        Plain(tags.FloatPixelData, "OF", bytes(4)),
    ]
    data = data_sets.encode(data_set, 1)
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    assert data[head.pixel_data_offset :][:4] == b"\xe0\x7f\x08\x00"
    assert head.instance == b""


# parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("undefined", [False, True])
def test_a_head_cut_anywhere_needs_more_until_it_gives_what_the_whole_gives(
    syntax: TransferSyntax, undefined: bool
) -> None:
    data = encoded(syntax, undefined=undefined)
    whole = elements.extract(data, syntax, complete=True)
    given_up = True
    for size in range(len(data) + 1):
        try:
            head = elements.extract(data[:size], syntax, complete=False)
        except elements.NeedMore as error:
            assert error.needed_bytes > size
            assert size < whole.pixel_data_offset + 12
            continue
        given_up = False
        assert (head.patient, head.study, head.series, head.instance) == (
            whole.patient,
            whole.study,
            whole.series,
            whole.instance,
        )
        assert head.pixel_data_offset in (whole.pixel_data_offset, -1)
    assert not given_up


def test_needed_bytes_lead_to_the_end_in_few_steps() -> None:
    blob = Plain(0x00091010, "OB", bytes(200_000))
    data = data_sets.encode([blob, *data_sets.ct_head()], 1)
    size, steps = 1000, 0
    while True:
        try:
            elements.extract(data[:size], EXPLICIT_VR_LITTLE_ENDIAN, complete=False)
            break
        except elements.NeedMore as error:
            size, steps = error.needed_bytes + 4096, steps + 1
    assert steps == 1


def test_what_follows_the_last_wanted_attribute_is_not_needed() -> None:
    data = data_sets.encode([text(tags.PatientID, "1"), Plain(0x00E11002, "OB", bytes(100_000))], 1)
    head = elements.extract(data[:1000], EXPLICIT_VR_LITTLE_ENDIAN, complete=False)
    assert elements.blob_items(head.patient) == {tags.PatientID: b"1"}
    assert head.pixel_data_offset == -1


def test_a_complete_data_set_that_ends_early_names_the_offset() -> None:
    data = data_sets.encode([text(tags.PatientName, "Doe"), text(tags.PatientID, "4711")], 1)
    with pytest.raises(DataSetError, match="offset 12") as caught:
        elements.extract(data[:-1], EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    assert not isinstance(caught.value, elements.NeedMore)


# deflated --------------------------------------------------------------------------------------------------------


def test_a_deflated_head_is_inflated_as_far_as_needed() -> None:
    data = encoded(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    for size in range(len(data)):
        try:
            head = elements.extract(data[:size], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, complete=False)
        except elements.NeedMore as error:
            assert error.needed_bytes > size
        else:
            assert head.sop_instance_uid == b"1.2.3.4.5"


def test_a_deflated_bomb_stops_at_the_limit() -> None:
    deflater = zlib.compressobj(9, wbits=-15)
    start = data_sets.header(0x00091010, "OB", 1 << 30, 1)
    bomb = deflater.compress(start) + b"".join(deflater.compress(bytes(1 << 20)) for _ in range(40)) + deflater.flush()
    for complete in (True, False):
        with pytest.raises(DataSetError, match="inflated bytes"):
            elements.extract(bomb, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, complete=complete)


@given(st.binary(max_size=100))
def test_any_bytes_as_a_deflated_data_set_are_read_or_refused(data: bytes) -> None:
    for complete in (True, False):
        try:
            elements.extract(data, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, complete=complete)
        except DataSetError:
            pass


# walking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("undefined", [False, True])
def test_walk_goes_into_items(syntax: TransferSyntax, undefined: bool) -> None:
    data = encoded(syntax, undefined=undefined)
    sequence = next(e for e in elements.walk(data, syntax.encoding) if e.tag == tags.RequestAttributesSequence)
    assert sequence.vr == "SQ"
    (item,) = elements.walk(data, syntax.encoding, sequence.value_offset, sequence.value_offset + sequence.length)
    assert (item.tag, item.vr, item.is_undefined_length) == (tags.Item, "", undefined)
    inner = list(elements.walk(data, syntax.encoding, item.value_offset, item.value_offset + item.length))
    assert [element.tag for element in inner] == [
        tags.RequestedProcedureID,
        tags.ScheduledProtocolCodeSequence,
        tags.ScheduledProcedureStepID,
    ]
    codes = inner[1]
    assert len(list(elements.walk(data, syntax.encoding, codes.value_offset, codes.value_offset + codes.length))) == 2


def test_walk_refuses_what_ends_early_and_passes_over_a_stray_tail() -> None:
    data = data_sets.encode([text(tags.PatientID, "4711")], 1)
    assert len(list(elements.walk(data + b"\0" * 7, 1))) == 1
    with pytest.raises(DataSetError, match="offset 0"):
        list(elements.walk(data[:-1], 1))


def test_reading_does_not_depend_on_the_kind_of_buffer() -> None:
    data = encoded(EXPLICIT_VR_LITTLE_ENDIAN)
    heads = [
        elements.extract(buffer, EXPLICIT_VR_LITTLE_ENDIAN, complete=True).instance
        for buffer in (data, bytearray(data), memoryview(data), memoryview(b"x" + data)[1:])
    ]
    assert heads == [heads[0]] * 4


def test_an_unknown_transfer_syntax_is_read_as_explicit_little_endian() -> None:
    head = elements.extract(encoded(EXPLICIT_VR_LITTLE_ENDIAN), transfer_syntax.of("1.2.3.4"), complete=True)
    assert head.sop_instance_uid == b"1.2.3.4.5"


def test_an_empty_data_set_gives_an_empty_head_or_needs_more() -> None:
    head = elements.extract(b"", EXPLICIT_VR_LITTLE_ENDIAN, complete=True)
    assert (head.patient, head.sop_instance_uid, head.pixel_data_offset) == (b"", b"", -1)
    with pytest.raises(elements.NeedMore):
        elements.extract(b"", EXPLICIT_VR_LITTLE_ENDIAN, complete=False)
