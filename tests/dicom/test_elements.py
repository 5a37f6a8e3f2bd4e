"""dicom.elements: the extracted attributes of an instance, judged by pydicom; reading from pieces and odd bytes."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import attributes, elements, tags, transfer_syntax
from engine.dicom.convert import convert
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


def assert_same_sequence(dataset: Any, tag: int, stored: bytes, character_set: bytes) -> None:
    element = Plain(tags.SpecificCharacterSet, "CS", character_set)
    data = data_sets.encode([element], 1) + data_sets.header(tag, "SQ", len(stored), 1) + stored
    ours = foreign.read_data_set(data, EXPLICIT_VR_LITTLE_ENDIAN)[tag].value
    theirs = dataset[tag].value
    assert len(ours) == len(theirs) or len(stored) > 2048
    for our_item, their_item in zip(ours, theirs, strict=False):
        assert {e.tag: e.value for e in our_item} == {e.tag: e.value for e in their_item if e.tag.element != 0}


@needs_corpus()
def test_the_corpus_gives_the_values_and_the_pixel_data_offset_that_pydicom_finds() -> None:
    for path in corpus_files():
        file = foreign.read_file(path)
        if file is None:
            continue
        head = elements.extract(file.data, file.transfer_syntax)
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
        walked = {element.tag: element for element in elements.walk(file.data, encoding)}
        assert sorted(walked) == sorted(int(tag) for tag in tuple(file.dataset.keys())), path
        for tag, element in walked.items():
            raw = foreign.raw_value(file.dataset, tag)
            if raw is not None and not element.is_undefined_length:
                assert file.data[element.value_offset : element.value_offset + element.length] == raw


@needs_corpus("odd")
def test_odd_files_are_read_or_refused_with_our_own_error() -> None:
    for path in corpus_files("odd"):
        raw = path.read_bytes()
        for offset in (0, 132, 300):
            for syntax in (*PLAIN_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN):
                try:
                    elements.extract(raw[offset:], syntax)
                except DataSetError:
                    pass


# what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [*PLAIN_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN], ids=lambda s: s.name)
def test_every_encoding_of_one_data_set_gives_the_same_blobs(syntax: TransferSyntax) -> None:
    reference = elements.extract(encoded(EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    head = elements.extract(encoded(syntax), syntax)
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


def test_blobs_have_only_ascending_tags_of_their_own_level() -> None:
    head = elements.extract(encoded(EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
    for level, blob in zip(attributes.LEVELS, (head.patient, head.study, head.series, head.instance), strict=True):
        blob_tags = list(elements.blob_items(blob))
        assert blob_tags == sorted(blob_tags)
        assert set(blob_tags) <= set(level)


def test_long_values_are_cut_and_then_stripped() -> None:
    long = "a" * (attributes.VALUE_BYTES_MAX - 4) + " " * 6 + "b" * 100
    data = data_sets.encode([Plain(tags.PatientComments, "UN", long.encode())], 1)
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert elements.blob_items(head.patient)[tags.PatientComments] == b"a" * (attributes.VALUE_BYTES_MAX - 4)


def request(number: int, codes: int, undefined: bool) -> data_sets.Item:
    """An item of Request Attributes Sequence, with a number of protocol codes of some 90 bytes between its two IDs."""
    code = data_sets.Item([text(tags.CodeValue, "C1"), text(tags.CodeMeaning, "x" * 60)], undefined)
    return data_sets.Item(
        [
            text(tags.AccessionNumber, f"A{number}"),
            Plain(tags.ScheduledProtocolCodeSequence, "SQ", [code] * codes, undefined),
            text(tags.RequestedProcedureID, f"RP{number:04}"),
        ],
        undefined,
    )


@pytest.mark.parametrize(("items", "codes"), [(8, 9), (1, 70), (40, 9), (40, 70), (90, 70), (300, 9), (1, 5000)])
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("piece_bytes", [0, 3000])
def test_every_request_of_a_large_sequence_is_kept_with_its_ids(
    items: int, codes: int, undefined: bool, piece_bytes: int
) -> None:
    requests = [request(number, codes, undefined) for number in range(items)]
    comments = "é" * 10_240
    sequence = Plain(tags.RequestAttributesSequence, "SQ", requests, undefined)
    data = data_sets.encode([Plain(tags.PatientComments, "UN", comments.encode()), sequence], 1)
    syntax = EXPLICIT_VR_LITTLE_ENDIAN
    head = scanned(data, syntax, piece_bytes) if piece_bytes else elements.extract(data, syntax)
    assert elements.blob_items(head.patient)[tags.PatientComments].decode() == comments
    blobs = (head.patient, head.study, head.series, head.instance)
    assert sum(map(len, blobs)) <= attributes.BLOBS_BYTES_MAX
    stored = elements.blob_items(head.series)[tags.RequestAttributesSequence]
    for number in range(items):
        assert f"RP{number:04}".encode() in stored


def test_tags_out_of_order_are_found_and_of_two_with_one_tag_the_last_counts() -> None:
    data = data_sets.encode(
        [text(tags.PatientID, "2"), text(tags.Modality, "MR"), text(tags.PatientID, "1"), us(tags.Rows, 3)], 1
    )
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert elements.blob_items(head.patient) == {tags.PatientID: b"1"}
    assert elements.blob_items(head.series) == {tags.Modality: b"MR"}


def test_a_value_of_the_wrong_kind_of_vr_is_left_out() -> None:
    data = data_sets.encode(
        [Plain(tags.PatientID, "FD", bytes(8)), Plain(tags.Rows, "LO", b"12"), Plain(tags.Columns, "UN", b"\x10\0")], 1
    )
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert head.patient == b""
    assert elements.blob_items(head.instance) == {tags.Columns: b"\x10\0"}


def test_a_wrong_transfer_syntax_is_seen_by_the_first_element() -> None:
    for declared, real in ((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN),) * 2:
        for one, other in ((declared, real), (real, declared)):
            head = elements.extract(encoded(other), one)
            assert head.sop_instance_uid == b"1.2.3.4.5"


LETTER_LENGTHS = [int.from_bytes(letters, "little") for letters in (b"BO", b"OB", b"SQ", b"LO", b"US", b"AA", b"UK")]


@pytest.mark.parametrize("length", LETTER_LENGTHS)
@pytest.mark.parametrize(
    ("syntax", "filling"),
    [
        *((IMPLICIT_VR_LITTLE_ENDIAN, filling) for filling in (b"\0", b"x", b"\xff", b"\x08\0")),
        *((EXPLICIT_VR_LITTLE_ENDIAN, filling) for filling in (b"\0", b"x", b"\xff")),  # 8 may be a length: as stated
    ],
)
def test_a_first_length_that_looks_like_a_vr_is_a_length(length: int, filling: bytes, syntax: TransferSyntax) -> None:
    value = (filling * length)[:length]
    data = data_sets.header(0x00080001, "", length, 0) + value + encoded(IMPLICIT_VR_LITTLE_ENDIAN)
    assert elements.encoding_of(data, syntax) == 0
    assert elements.extract(data, syntax).sop_instance_uid == b"1.2.3.4.5"
    for piece_bytes in (1, 7, 5000):
        assert scanned(data, syntax, piece_bytes).sop_instance_uid == b"1.2.3.4.5"
    assert elements.extract(convert(data, syntax, EXPLICIT_VR_BIG_ENDIAN), EXPLICIT_VR_BIG_ENDIAN).sop_instance_uid


@pytest.mark.parametrize("length", [*LETTER_LENGTHS, 0x2020, 0x6E75])
@pytest.mark.parametrize("filling", [b"\0", b"x", b"\xff"])
@pytest.mark.parametrize("undefined", [False, True])
def test_the_same_holds_in_an_implicit_item_of_an_explicit_data_set(
    length: int, filling: bytes, undefined: bool
) -> None:
    value = data_sets.header(0x00290010, "", length, 0) + filling * length + b"\x29\0\x11\0\2\0\0\0ab"
    item = data_sets.header(data_sets.ITEM, "", 0xFFFFFFFF if undefined else len(value), 0) + value
    item += b"\xfe\xff\x0d\xe0\0\0\0\0" if undefined else b""
    sequence = data_sets.header(0x00291001, "UN", 0xFFFFFFFF, 1) + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = encoded(EXPLICIT_VR_LITTLE_ENDIAN)
    at = data.index(b"\x40\0\x75\2")
    data = data[:at] + sequence + data[at:]
    whole = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert whole.pixel_data_offset > at and not whole.cut
    for piece_bytes in (1, 7, 5000):
        assert scanned(data, EXPLICIT_VR_LITTLE_ENDIAN, piece_bytes).pixel_data_offset == whole.pixel_data_offset
    assert filling * length in convert(data, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("plain_bytes", [2, 12, 40])
def test_deep_nesting_is_found_after_other_items(plain_bytes: int) -> None:
    def sequence(content: bytes) -> bytes:
        item = data_sets.header(data_sets.ITEM, "", len(content), 1) + content
        return data_sets.header(tags.ProcedureCodeSequence, "SQ", len(item), 1) + item

    plain = data_sets.header(tags.CodeValue, "SH", plain_bytes, 1) + b"x" * plain_bytes
    deep = plain
    for _ in range(140):
        deep = sequence(deep)
    assert elements.extract(sequence(sequence(plain) + sequence(plain)), EXPLICIT_VR_LITTLE_ENDIAN).cut == ""
    with pytest.raises(DataSetError, match="too deeply"):
        elements.extract(sequence(sequence(plain) + deep), EXPLICIT_VR_LITTLE_ENDIAN)


def test_pixel_data_in_an_icon_is_not_the_pixel_data() -> None:
    icon = data_sets.Item([us(tags.Rows, 1), Plain(tags.PixelData, "OW", b"\1\2")], undefined=True)
    data_set = [
        Plain(tags.IconImageSequence, "SQ", [icon], undefined=True),
        Plain(tags.FloatPixelData, "OF", bytes(4)),
    ]
    data = data_sets.encode(data_set, 1)
    head = elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert data[head.pixel_data_offset :][:4] == b"\xe0\x7f\x08\x00"
    assert head.instance == b""


# the end ---------------------------------------------------------------------------------------------------------


def scanned(data: bytes, syntax: TransferSyntax, piece_bytes: int) -> elements.Head:
    scanner = elements.Scanner(syntax)
    for at in range(0, len(data), piece_bytes):
        scanner.feed(data[at : at + piece_bytes])
    return scanner.finish()


ALL_SYNTAXES = [*PLAIN_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN]


@pytest.mark.parametrize("syntax", ALL_SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("undefined", [False, True])
def test_pieces_of_any_size_give_the_same_result_as_the_whole(syntax: TransferSyntax, undefined: bool) -> None:
    data = encoded(syntax, undefined=undefined)
    whole = elements.extract(data, syntax)
    assert whole.cut == ""
    for piece_bytes in (1, 5, 13, 64, 200):
        head = scanned(data, syntax, piece_bytes)
        assert head.cut == ""
        assert (head.patient, head.study, head.series, head.instance, head.pixel_data_offset) == (
            whole.patient,
            whole.study,
            whole.series,
            whole.instance,
            whole.pixel_data_offset,
        )


@pytest.mark.parametrize("syntax", ALL_SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("undefined", [False, True])
def test_a_data_set_cut_anywhere_except_between_two_elements_is_noticed(
    syntax: TransferSyntax, undefined: bool
) -> None:
    data = encoded(syntax, undefined=undefined)
    between = {0}
    if not syntax.deflated:
        between |= {element.value_offset for element in elements.walk(data, syntax.encoding) if element.length == 0}
        for element in elements.walk(data, syntax.encoding):
            after = element.value_offset + element.length
            between.add(after + 8 if element.is_undefined_length else after)
    for size in range(len(data)):
        is_cut = elements.extract(data[:size], syntax).cut != ""
        assert is_cut == (scanned(data[:size], syntax, 50).cut != "")
        if size in between or not data[max(between - set(range(size + 1, len(data)))) : size].strip(b"\0"):
            continue  # what is there is whole, or padded with zeros
        assert is_cut, size


IMAGE = [us(tags.Rows, 2), us(tags.Columns, 2), us(tags.BitsAllocated, 16)]
PIXELS = Plain(tags.PixelData, "OW", bytes(range(8)))


def fragments(*sizes: int) -> bytes:
    items = b"".join(data_sets.header(data_sets.ITEM, "", size, 1) + bytes([1]) * size for size in sizes)
    end = data_sets.header(data_sets.SEQUENCE_END, "", 0, 1)
    return data_sets.header(tags.PixelData, "OB", 0xFFFFFFFF, 1) + items + end


@pytest.mark.parametrize(
    ("tail", "is_cut"),
    [
        (b"", False),
        (bytes(1), False),
        (bytes(3), False),
        (bytes(100), False),
        (bytes(2048), False),
        (b"\xff" * 7, False),
        (b"rubbish that is no element at all", False),
        (b"\x10\0\x10\0PN\xff\x0fDoe", False),  # a tag that would have come before
        (data_sets.header(0xFFFCFFFC, "OB", 4, 1) + bytes(4), False),
        (data_sets.header(0xFFFCFFFC, "OB", 4, 1) + bytes(3), True),
        (data_sets.header(0xFFFCFFFC, "OB", 4, 1)[:6], True),
        (data_sets.header(0x7FE11010, "OB", 4, 1) + bytes(3), True),
        (data_sets.header(0xFFFAFFFA, "SQ", 0xFFFFFFFF, 1), True),
    ],
)
@pytest.mark.parametrize("pixels", ["native", "encapsulated"])
def test_after_pixel_data_only_a_certain_element_can_be_cut(tail: bytes, is_cut: bool, pixels: str) -> None:
    data = data_sets.encode(IMAGE, 1)
    data += data_sets.encode([PIXELS], 1) if pixels == "native" else fragments(0, 10, 4)
    for head in (elements.extract(data + tail, EXPLICIT_VR_LITTLE_ENDIAN),
                 scanned(data + tail, EXPLICIT_VR_LITTLE_ENDIAN, 17)):  # fmt: skip
        assert (head.cut != "") == is_cut
        assert head.pixel_data_offset == len(data_sets.encode(IMAGE, 1))


@pytest.mark.parametrize(
    ("tail", "is_cut"),
    [
        (bytes(3), False),
        (bytes(500), False),
        (b"\r\n", False),
        (b" ", False),
        (b"\x10\0\x10\0PN", False),  # below the tag before it
        (b"\x43", True),
        (b"\x43\0\x10\0OB\0", True),
        (b"\x43\0\x10\0OB\0\0\x04\0\0\0abc", True),
    ],
)
def test_without_pixel_data_bytes_that_may_be_an_element_are_one(tail: bytes, is_cut: bool) -> None:
    data = data_sets.encode([text(tags.PatientID, "1"), Plain(0x00420011, "OB", b"%PDF")], 1) + tail
    assert (elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN).cut != "") == is_cut
    assert (scanned(data, EXPLICIT_VR_LITTLE_ENDIAN, 3).cut != "") == is_cut


def test_encapsulated_pixel_data_cut_anywhere_is_noticed() -> None:
    whole = data_sets.encode(IMAGE, 1) + fragments(8, 30, 0, 5)
    for size in range(len(data_sets.encode(IMAGE, 1)) + 1, len(whole)):
        assert elements.extract(whole[:size], EXPLICIT_VR_LITTLE_ENDIAN).cut, size
    assert elements.extract(whole, EXPLICIT_VR_LITTLE_ENDIAN).cut == ""


def test_a_cut_has_its_place_and_the_number_of_missing_bytes() -> None:
    data = data_sets.encode([text(tags.PatientName, "Doe"), text(tags.PatientID, "4711")], 1)
    assert elements.extract(data[:-1], EXPLICIT_VR_LITTLE_ENDIAN).cut == "ends within (0010,0020), 1 bytes early"
    assert "header that follows (0010,0010)" in elements.extract(data[:15], EXPLICIT_VR_LITTLE_ENDIAN).cut
    deflated = encoded(DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    assert "deflate" in elements.extract(deflated[:-3], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN).cut
    assert elements.extract(deflated + bytes(5), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN).cut == ""


def test_the_expected_length_of_native_pixel_data_follows_from_its_attributes() -> None:
    for more, expected in (
        ([], 8),
        ([text(tags.NumberOfFrames, "3")], 24),
        ([us(tags.SamplesPerPixel, 3)], 24),
        ([us(tags.Rows, 0)], 0),
    ):
        by_tag = {element.tag: element for element in [*IMAGE, *more]}
        head = elements.extract(
            data_sets.encode([by_tag[tag] for tag in sorted(by_tag)] + [PIXELS], 1), EXPLICIT_VR_LITTLE_ENDIAN
        )
        assert (head.image_bytes, head.pixel_data_length) == (expected, 8)
    encapsulated = data_sets.encode(IMAGE, 1) + fragments(4)
    assert elements.extract(encapsulated, EXPLICIT_VR_LITTLE_ENDIAN).pixel_data_length == -1


# large values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda s: s.name)
def test_attributes_are_found_after_gigabytes_that_are_never_read(syntax: TransferSyntax) -> None:
    large = 0xFFFFFFF0
    private = data_sets.header(0x00291010, "OB", large, syntax.encoding) + bytes(16)
    name = data_sets.encode([text(tags.PatientName, "Doe^John")], syntax.encoding)
    creator = data_sets.encode([text(tags.ContentCreatorName, "Last^Wanted")], syntax.encoding)
    scanner = elements.Scanner(syntax)
    for piece in (name + private, creator[:3], creator[3:]):
        scanner.feed(piece)
        if piece.endswith(private):
            assert scanner.needed_from == len(name + private) + large - 16
            scanner.skip(large - 16)
    head = scanner.finish()
    assert (head.cut, elements.blob_items(head.instance)) == ("", {tags.ContentCreatorName: b"Last^Wanted"})
    assert elements.blob_items(head.patient) == {tags.PatientName: b"Doe^John"}


def test_a_large_content_tree_of_undefined_length_is_walked_without_being_stored() -> None:
    item = data_sets.Item([text(tags.TextValue, "x" * 900)], undefined=True)
    tree = data_sets.Item([Plain(tags.ContentSequence, "SQ", [item] * 50, undefined=True)], undefined=True)
    start = data_sets.header(tags.ContentSequence, "SQ", 0xFFFFFFFF, 1)
    end = data_sets.header(data_sets.SEQUENCE_END, "", 0, 1)
    last = data_sets.encode([text(tags.ContentCreatorName, "Last^Wanted")], 1)
    branch = data_sets.encode_item(tree, 1)
    scanner = elements.Scanner(EXPLICIT_VR_LITTLE_ENDIAN)
    scanner.feed(start)
    tracemalloc.start()
    for _ in range(200):
        scanner.feed(branch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    scanner.feed(end + last)
    assert elements.blob_items(scanner.finish().instance) == {tags.ContentCreatorName: b"Last^Wanted"}
    assert peak < 50_000 < 200 * len(branch)


@pytest.mark.parametrize("syntax", ALL_SYNTAXES, ids=lambda s: s.name)
def test_of_a_data_set_with_random_access_only_headers_are_read(syntax: TransferSyntax) -> None:
    elements_ = [text(tags.PatientName, "Doe"), Plain(0x00291010, "OB", bytes(range(256)) * 4000)]
    data = data_sets.encode([*elements_, text(tags.ContentCreatorName, "Last^Wanted")], syntax.encoding)
    if syntax.deflated:
        deflater = zlib.compressobj(wbits=-15)
        data = deflater.compress(data) + deflater.flush()
    read_bytes = 0

    def read(offset: int, count: int) -> bytes:
        nonlocal read_bytes
        read_bytes += count
        return data[offset : offset + count]

    head = elements.scan_at(read, len(data), syntax)
    assert (head.cut, elements.blob_items(head.instance)) == ("", {tags.ContentCreatorName: b"Last^Wanted"})
    assert read_bytes <= (len(data) if syntax.deflated else 40_000)


# deflated --------------------------------------------------------------------------------------------------------


def test_a_deflated_bomb_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "INFLATED_BYTES_MAX", 1 << 20)
    deflater = zlib.compressobj(9, wbits=-15)
    start = data_sets.header(0x00091010, "OB", 1 << 30, 1)
    bomb = deflater.compress(start) + b"".join(deflater.compress(bytes(1 << 20)) for _ in range(40)) + deflater.flush()
    with pytest.raises(DataSetError, match="inflated bytes"):
        elements.extract(bomb, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


@given(st.binary(max_size=100))
def test_any_bytes_as_a_deflated_data_set_are_read_or_refused(data: bytes) -> None:
    try:
        elements.extract(data, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
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


def test_walk_refuses_an_early_end_and_skips_a_stray_tail() -> None:
    data = data_sets.encode([text(tags.PatientID, "4711")], 1)
    assert len(list(elements.walk(data + b"\0" * 7, 1))) == 1
    with pytest.raises(DataSetError, match="offset 0"):
        list(elements.walk(data[:-1], 1))


def test_reading_does_not_depend_on_the_kind_of_buffer() -> None:
    data = encoded(EXPLICIT_VR_LITTLE_ENDIAN)
    heads = [
        elements.extract(buffer, EXPLICIT_VR_LITTLE_ENDIAN).instance
        for buffer in (data, bytearray(data), memoryview(data), memoryview(b"x" + data)[1:])
    ]
    assert heads == [heads[0]] * 4


def test_an_unknown_transfer_syntax_is_read_as_explicit_little_endian() -> None:
    head = elements.extract(encoded(EXPLICIT_VR_LITTLE_ENDIAN), transfer_syntax.of("1.2.3.4"))
    assert head.sop_instance_uid == b"1.2.3.4.5"


def test_an_empty_data_set_gives_an_empty_head() -> None:
    head = elements.extract(b"", EXPLICIT_VR_LITTLE_ENDIAN)
    assert (head.patient, head.sop_instance_uid, head.pixel_data_offset, head.cut) == (b"", b"", -1, "")
    assert elements.Scanner(EXPLICIT_VR_LITTLE_ENDIAN).finish().patient == b""


# odd VRs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vr", "length_bytes"),
    [
        *((vr, 2) for vr in (b"  ", b"??", b"\0\0", b"un", b"Lo", b"--", b"U1")),
        *((vr, 4) for vr in (b"ox", b"UK", b"ZZ", b"OX")),
    ],
)
@pytest.mark.parametrize("place", ["top", "sequence", "first"])
def test_an_invalid_vr_is_read_as_dcmtk_reads_it(vr: bytes, length_bytes: int, place: str) -> None:
    value = b"Some Study! "
    length = len(value).to_bytes(2, "little") if length_bytes == 2 else b"\0\0" + len(value).to_bytes(4, "little")
    odd = b"\x08\0\x30\x10" + vr + length + value
    uid = data_sets.encode([text(tags.SOPInstanceUID, "1.2.3")], 1)
    name = data_sets.encode([text(tags.PatientName, "Doe^John")], 1)
    if place == "sequence":
        item = data_sets.header(data_sets.ITEM, "", len(odd), 1) + odd
        odd = data_sets.header(tags.ProcedureCodeSequence, "SQ", len(item), 1) + item
    data = odd + name if place == "first" else uid + odd + name
    for head in (elements.extract(data, EXPLICIT_VR_LITTLE_ENDIAN), scanned(data, EXPLICIT_VR_LITTLE_ENDIAN, 9)):
        assert head.cut == ""
        assert elements.blob_items(head.patient) == {tags.PatientName: b"Doe^John"}
        if place != "sequence":
            assert elements.blob_items(head.study)[tags.StudyDescription] == b"Some Study!"
