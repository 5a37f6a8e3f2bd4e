"""dicom.convert: through every uncompressed transfer syntax and back, judged by pydicom and a plain encoder."""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pydicom.config
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from engine.dicom import elements, reencoding, sources, tags, transfer_syntax
from engine.dicom.convert import Conversion, convert
from engine.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    UNCOMPRESSED,
)
from engine.errors import TranscodeError
from tests.corpus import corpus_files, corpus_part, needs_corpus
from tests.oracle import data_sets, foreign
from tests.oracle.data_sets import Item, Plain, text, us
from tests.oracle.elements import UNITS, swapped

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
UNREADABLE = {"MR_truncated.dcm", "rtplan_truncated.dcm", "GH626.dcm", "3gb-bulk-data-truncated.dcm"}
CUT_IN_PIXELS = {"MR_truncated.dcm", "3gb-bulk-data-truncated.dcm"}
TOO_DEEP = {"syn-nested-3000.dcm", "syn-nested-100.dcm"}


def convertible_files() -> list[foreign.ForeignFile]:
    """Two files of each folder of a series, all files of other folders."""
    of_folder: dict[Path, int] = Counter()
    results = []
    for path in corpus_files():
        of_folder[path.parent] += "series" in path.parts
        file = foreign.read_file(path) if of_folder[path.parent] <= 2 and path.name not in TOO_DEEP else None
        if file and file.transfer_syntax.convertible:
            results.append(file)
    return results


# against pydicom -------------------------------------------------------------------------------------------------


def assert_equal(one: Dataset, other: Dataset, path: object) -> None:
    """Every element's value; VRs may differ only where implicit VR or the standard's open choices lose them."""
    ones = {element.tag: element for element in one if element.tag.element != 0}
    others = {element.tag: element for element in other if element.tag.element != 0}
    assert ones.keys() == others.keys(), path
    for tag, element in ones.items():
        where = (path, tag)
        if element.VR == "SQ" and others[tag].VR == "SQ":
            assert len(element.value) == len(others[tag].value), where
            for one_item, other_item in zip(element.value, others[tag].value, strict=True):
                assert_equal(one_item, other_item, where)
        elif element.VR == others[tag].VR or {element.VR, others[tag].VR} <= {"US", "SS", "US or SS"}:
            padded = isinstance(element.value, bytes) and len(element.value) % 2 and tag == max(ones)
            if not padded or others[tag].value != element.value + b"\0":
                assert plain(element, one) == plain(others[tag], other), where


def plain(element: Any, dataset: Dataset) -> Any:
    """A comparable value: NaN by its text, empty as "", and the words that pydicom leaves in file order in ours."""
    if isinstance(element.value, bytes) and element.VR in UNITS and not dataset.original_encoding[1]:
        return str(swapped(element.value, UNITS[element.VR]))
    return str(element.value) if element.value else ""


def assert_same_raw_values(data: bytes, other: bytes, encoding: int, other_encoding: int, path: object) -> None:
    """Plain top-level values byte by byte, for two little endian encodings; only group lengths may be gone.

    The last odd one is padded where the data set would be of odd length.
    """
    ones = {e.tag: e for e in elements.walk(data, encoding) if e.tag & 0xFFFF}
    last_odd = max((e.tag for e in ones.values() if e.length % 2), default=0)
    others = {e.tag: e for e in elements.walk(other, other_encoding)}
    assert ones.keys() == others.keys(), path
    for tag, one in ones.items():
        if one.vr != "SQ" and others[tag].vr != "SQ":
            value = data[one.value_offset : one.value_offset + one.length]
            start = others[tag].value_offset
            padding = b"\0" if tag == last_odd else b""
            assert other[start : start + others[tag].length] in (value, value + padding), (path, hex(tag))


@needs_corpus()
def test_the_corpus_survives_conversion_to_every_other_syntax_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydicom.config, "replace_un_with_known_vr", False)  # UN has no byte order to tell of
    monkeypatch.setattr(pydicom.config, "convert_wrong_length_to_UN", True)
    count = 0
    # The values of all files: the next test compares their bytes.
    for file in corpus_part(convertible_files()):
        if file.path.name in UNREADABLE:
            continue
        source = file.transfer_syntax
        for middle in (IMPLICIT, EXPLICIT, BIG):
            converted = convert(file.data, source, middle)
            back = convert(converted, middle, source)
            assert_equal(file.dataset, foreign.read_data_set(converted, middle), file.path)
            assert_equal(file.dataset, foreign.read_data_set(back, source), file.path)
        count += 1
    assert count


@needs_corpus()
def test_plain_values_and_pixels_keep_their_bytes() -> None:
    for file in corpus_part(convertible_files()):
        if file.path.name in UNREADABLE or file.transfer_syntax.deflated or file.transfer_syntax.big_endian:
            continue
        encoding = elements.encoding_of(file.data, file.transfer_syntax)
        for middle in (IMPLICIT, BIG):
            back = convert(convert(file.data, file.transfer_syntax, middle), middle, EXPLICIT)
            assert_same_raw_values(file.data, back, encoding, EXPLICIT.encoding, file.path)


@needs_corpus()
def test_a_conversion_settles_after_one_round() -> None:
    for file in corpus_part(convertible_files()):
        if file.path.name in UNREADABLE:
            continue
        implicit = convert(convert(file.data, file.transfer_syntax, EXPLICIT), EXPLICIT, IMPLICIT)
        explicit = convert(implicit, IMPLICIT, EXPLICIT)
        assert convert(explicit, EXPLICIT, IMPLICIT) == implicit, file.path
        assert convert(convert(explicit, EXPLICIT, BIG), BIG, EXPLICIT) == explicit, file.path


@needs_corpus()
def test_damage_before_pixel_data_is_refused_with_the_names_of_both_syntaxes() -> None:
    for file in convertible_files():
        if file.path.name in UNREADABLE:
            target = IMPLICIT if file.transfer_syntax.explicit_vr else EXPLICIT
            if file.path.name in CUT_IN_PIXELS:
                assert len(file.data) - 20 < len(convert(file.data, file.transfer_syntax, target)) <= len(file.data)
                continue
            with pytest.raises(TranscodeError, match="offset"):
                convert(file.data, file.transfer_syntax, target)


@needs_corpus("odd")
def test_a_hundred_levels_survive_conversion_and_back() -> None:
    for path in corpus_files("odd"):
        if path.name == "syn-nested-100.dcm":
            file = foreign.read_file(path)
            assert file is not None
            implicit = convert(file.data, EXPLICIT, IMPLICIT)
            assert convert(implicit, IMPLICIT, EXPLICIT) == convert(convert(file.data, EXPLICIT, BIG), BIG, EXPLICIT)


# against a plain encoder -----------------------------------------------------------------------------------------

# Tags of every kind of VR that do not depend on other elements.
VALUES: dict[int, st.SearchStrategy[bytes]] = {
    tags.SpecificCharacterSet: st.just(b"ISO_IR 100"),
    tags.PatientName: st.sampled_from([b"", b"Doe^John", b"X " * 40]),
    tags.Rows: st.binary(min_size=2, max_size=2),
    tags.FrameIncrementPointer: st.binary(min_size=4, max_size=4),
    tags.ReferencedFrameNumbers: st.just(b"1\\2 "),
    tags.SimpleFrameList: st.binary(min_size=8, max_size=8),
    tags.ReferencePixelX0: st.binary(min_size=4, max_size=4),
    tags.RealWorldValueIntercept: st.binary(min_size=8, max_size=8),
    tags.ExtendedOffsetTable: st.binary(min_size=16, max_size=16),
    tags.EncapsulatedDocument: st.binary(min_size=2, max_size=2),
    tags.VectorGridData: st.binary(min_size=4, max_size=4),
    tags.TrackPointIndexList: st.binary(min_size=8, max_size=8),
    tags.TextValue: st.just(b"some text "),
    0x60003000: st.binary(min_size=4, max_size=4),
    0x00090010: st.just(b"CREATOR "),
}
SEQUENCES = (tags.ReferencedStudySequence, tags.ContentSequence, tags.RequestAttributesSequence)


@st.composite
def data_set(draw: st.DrawFn, depth: int = 0) -> list[Plain]:
    results = []
    for tag in sorted(draw(st.sets(st.sampled_from([*VALUES, *SEQUENCES]), max_size=7))):
        if tag not in SEQUENCES:
            results.append(Plain(tag, tags.vr_of(tag), draw(VALUES[tag])))
        elif depth < 3:
            items = draw(st.lists(st.builds(Item, data_set(depth + 1), st.booleans()), max_size=2))
            results.append(Plain(tag, "SQ", items, draw(st.booleans())))
    return results


@settings(max_examples=300)
@given(plain_data_set=data_set(), source=st.sampled_from((0, 1, 3)), target=st.sampled_from((0, 1, 3)))
def test_conversion_gives_the_bytes_of_a_plain_encoder(plain_data_set: list[Plain], source: int, target: int) -> None:
    data = data_sets.encode(plain_data_set, source)
    assert reencoding.reencode(data, source, target) == data_sets.encode(plain_data_set, target)


@settings(max_examples=300)
@given(data_set(), st.sampled_from((0, 1, 3)), st.sampled_from((0, 1, 3)), st.randoms())
def test_mutated_data_sets_are_converted_or_refused(
    plain_data_set: list[Plain], source: int, target: int, rng: Any
) -> None:
    data = bytearray(data_sets.encode(plain_data_set, source))
    for _ in range(3):
        if data:
            data[rng.randrange(len(data))] = rng.choice((0, 0xFF, 0xFE, 0x20))
    syntaxes = {syntax.encoding: syntax for syntax in (IMPLICIT, EXPLICIT, BIG)}
    try:
        convert(data, syntaxes[source], syntaxes[target])
    except TranscodeError:
        pass


def test_a_data_set_cut_at_any_byte_is_converted_up_to_the_cut_or_refused() -> None:
    """Whole elements are converted, and a cut plain value with its own length; a cut sequence is not."""
    plain_data_set = data_sets.ct_head(undefined=True)
    data, whole = data_sets.encode(plain_data_set, 1), data_sets.encode(plain_data_set, 0)
    refused = 0
    for size in range(len(data)):
        try:
            assert whole.startswith(convert(data[:size], EXPLICIT, IMPLICIT).rstrip(b"\0 "))
        except TranscodeError:
            refused += 1
    assert 0 < refused < len(data) // 2


@settings(max_examples=150)
@given(
    plain_data_set=data_set(),
    source=st.sampled_from(UNCOMPRESSED),
    target=st.sampled_from(UNCOMPRESSED),
    piece_bytes=st.integers(1, 300),
    cuts=st.lists(st.integers(0, 2000), max_size=4),
)
def test_pieces_of_any_length_give_the_same_bytes_as_the_whole(
    plain_data_set: list[Plain], source: Any, target: Any, piece_bytes: int, cuts: list[int]
) -> None:
    data = data_sets.encode(plain_data_set, source.encoding)
    if source is DEFLATED:
        data = convert(data, EXPLICIT, DEFLATED)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    joined = sources.Concatenation(*(sources.Whole(data[a:b]) for a, b in pairwise(places)))
    conversion = Conversion(joined, source, target)
    result = b"".join([bytes(piece) for piece in conversion.pieces(piece_bytes)])
    whole = convert(data, source, target)
    if target is DEFLATED and source is not DEFLATED:
        assert convert(result, DEFLATED, EXPLICIT) == convert(whole, DEFLATED, EXPLICIT)
    else:
        assert result == whole
        assert conversion.length == len(whole)


@needs_corpus()
@pytest.mark.parametrize("target", [IMPLICIT, BIG])
def test_the_corpus_converts_in_pieces_as_it_does_whole(target: Any) -> None:
    for file in corpus_part(convertible_files()):
        if file.path.name not in UNREADABLE:
            pieces = Conversion(sources.Whole(file.data), file.transfer_syntax, target).pieces(997)
            assert b"".join([bytes(piece) for piece in pieces]) == convert(file.data, file.transfer_syntax, target)


def test_pixel_data_that_is_cut_keeps_its_declared_length() -> None:
    data = data_sets.encode([text(tags.PatientID, "12"), Plain(tags.PixelData, "OW", bytes(range(100)))], 1)
    for target, header in (
        (IMPLICIT, data_sets.header(tags.PixelData, "", 100, 0)),
        (BIG, b"\x7f\xe0\0\x10OW\0\0\0\0\0\x64"),
    ):
        result = convert(data[:-60], EXPLICIT, target)
        assert header in result
        assert len(result) - result.index(header) - len(header) == 40


@pytest.mark.parametrize("source", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize(
    "tail",
    [bytes(k) for k in (1, 2, 3, 4, 5, 6, 7, 8, 11, 100, 2048)]
    + [b"\xff" * 11, b"AB" * 999, b" " * 3, b"\r\n", bytes(range(256))],
)
def test_bytes_after_pixel_data_are_tolerated(source: Any, target: Any, tail: bytes) -> None:
    plain_data_set = [*data_sets.ct_head(), Plain(tags.PixelData, "OW", bytes(range(100)))]
    native = EXPLICIT if source is DEFLATED else source
    data = data_sets.encode(plain_data_set, native.encoding) + tail
    result = convert(convert(data, native, source), source, target)
    if source.encoding != target.encoding:
        assert convert(result, target, EXPLICIT) == data_sets.encode(plain_data_set, 1)
    again = pydicom.dcmread(io.BytesIO(convert(result, target, EXPLICIT)), force=True, stop_before_pixels=True)
    assert again.PatientID


@pytest.mark.parametrize("tail", [bytes(k) for k in (1, 3, 7, 8, 11, 100, 2048)] + [b" " * 5, b"\0\x02" * 50])
def test_bytes_after_a_document_are_tolerated(tail: bytes) -> None:
    data = data_sets.encode(data_sets.ct_head(), 1)
    assert convert(data + tail, EXPLICIT, IMPLICIT) == data_sets.encode(data_sets.ct_head(), 0)


# what the rules say ----------------------------------------------------------------------------------------------


def implicit_to_explicit(plain_data_set: Sequence[Plain]) -> dict[int, str]:
    data = convert(data_sets.encode(plain_data_set, 0), IMPLICIT, EXPLICIT)
    return {element.tag: element.vr for element in elements.walk(data, 1)}


def test_private_elements_become_un_except_creators_and_sequences() -> None:
    result = implicit_to_explicit(
        [
            Plain(0x00090010, "LO", b"CREATOR "),
            Plain(0x00091001, "UN", b"1234"),
            Plain(0x00091002, "SQ", [Item([text(tags.PatientID, "1")])], undefined=True),
            Plain(0x00091003, "SQ", [Item([text(tags.PatientID, "1")])]),
        ]
    )
    assert result == {0x00090010: "LO", 0x00091001: "UN", 0x00091002: "SQ", 0x00091003: "UN"}


def test_a_private_sequence_comes_back_as_a_sequence() -> None:
    data_set = [Plain(0x00091003, "SQ", [Item([text(tags.PatientID, "12")])])]
    implicit = convert(data_sets.encode(data_set, 1), EXPLICIT, IMPLICIT)
    back = convert(implicit, IMPLICIT, EXPLICIT)
    assert back == data_sets.encode([Plain(0x00091003, "SQ", data_set[0].value, undefined=True)], 1)


@pytest.mark.parametrize(("representation", "vr"), [(0, "US"), (1, "SS")])
def test_pixel_representation_decides_the_vr_of_elements_before_it_too(representation: int, vr: str) -> None:
    mapped = Plain(tags.ZeroVelocityPixelValue, "US", b"\xff\xff")
    smallest = Plain(tags.SmallestImagePixelValue, "US", b"\1\0")
    result = implicit_to_explicit([mapped, us(tags.PixelRepresentation, representation), smallest])
    assert (result[tags.ZeroVelocityPixelValue], result[tags.SmallestImagePixelValue]) == (vr, vr)


@pytest.mark.parametrize(("bits", "vr"), [(1, "OB"), (8, "OB"), (16, "OW"), (32, "OW")])
def test_bits_allocated_decides_the_vr_of_pixel_data(bits: int, vr: str) -> None:
    data_set = [us(tags.BitsAllocated, bits), Plain(tags.PixelData, "OW", b"\1\2\3\4")]
    assert implicit_to_explicit(data_set)[tags.PixelData] == vr


@pytest.mark.parametrize(("bits", "vr"), [(8, "OB"), (16, "OW")])
def test_waveform_bits_decide_the_vr_of_waveform_data(bits: int, vr: str) -> None:
    group = Item([us(tags.WaveformBitsAllocated, bits), Plain(tags.WaveformData, "OW", b"\1\2")])
    data = data_sets.encode([Plain(tags.WaveformSequence, "SQ", [group])], 0)
    assert b"\x00\x54\x10\x10" + vr.encode() in convert(data, IMPLICIT, EXPLICIT)


def test_numbers_and_words_are_swapped_and_bytes_are_not() -> None:
    data = data_sets.encode([Plain(tags.PixelData, "OW", b"\1\2\3\4\5")], 1)
    assert convert(data, EXPLICIT, BIG).endswith(b"\0\0\0\6\2\1\4\3\5\0")
    data = data_sets.encode([Plain(tags.PixelData, "OB", b"\1\2\3\4")], 1)
    assert convert(data, EXPLICIT, BIG).endswith(b"\1\2\3\4")
    data = data_sets.encode([Plain(0x00091001, "UN", b"\1\2\3\4")], 1)
    assert convert(data, EXPLICIT, BIG).endswith(b"\1\2\3\4")


def test_a_value_too_long_for_its_explicit_length_becomes_un() -> None:
    long = Plain(tags.PatientComments, "LT", b"x" * 70_000)
    assert implicit_to_explicit([long]) == {tags.PatientComments: "UN"}
    back = convert(convert(data_sets.encode([long], 0), IMPLICIT, EXPLICIT), EXPLICIT, IMPLICIT)
    assert back == data_sets.encode([long], 0)


def test_un_of_undefined_length_becomes_the_sequence_it_is() -> None:
    items = data_sets.encode_item(Item([text(tags.PatientID, "12")], undefined=True), 0)
    end = data_sets.header(0xFFFEE0DD, "", 0, 1)
    data = data_sets.header(0x00091002, "UN", 0xFFFFFFFF, 1) + items + end
    expected = [Plain(0x00091002, "SQ", [Item([text(tags.PatientID, "12")], undefined=True)], undefined=True)]
    assert reencoding.reencode(data, 1, 1) == data_sets.encode(expected, 1)
    assert convert(data, EXPLICIT, IMPLICIT) == data_sets.encode(expected, 0)


def test_un_of_undefined_length_in_big_endian_holds_items_in_little_endian() -> None:
    items = data_sets.encode_item(Item([us(tags.Rows, 258), text(tags.PatientID, "12")], undefined=True), 0)
    end = data_sets.header(0xFFFEE0DD, "", 0, 0)
    data = data_sets.header(0x00091002, "UN", 0xFFFFFFFF, 3) + items + end + data_sets.encode([us(tags.Rows, 258)], 3)
    inner = Item([us(tags.Rows, 258), text(tags.PatientID, "12")], undefined=True)
    expected = [Plain(0x00091002, "SQ", [inner], undefined=True), us(tags.Rows, 258)]
    assert convert(data, BIG, EXPLICIT) == data_sets.encode(expected, 1)
    assert convert(data, BIG, IMPLICIT) == data_sets.encode(expected, 0)


def test_a_sequence_by_dictionary_without_items_stays_bytes() -> None:
    data = data_sets.encode([Plain(tags.ReferencedStudySequence, "UN", b"no items here ")], 0)
    assert convert(convert(data, IMPLICIT, EXPLICIT), EXPLICIT, IMPLICIT) == data


def test_group_lengths_are_dropped_at_every_level() -> None:
    length = Plain(0x00080000, "UL", b"\4\0\0\0")
    item = Item([length, text(tags.CodeMeaning, "x")])
    with_lengths = [length, Plain(tags.ReferencedStudySequence, "SQ", [item])]
    without = [Plain(tags.ReferencedStudySequence, "SQ", [Item([text(tags.CodeMeaning, "x")])])]
    assert convert(data_sets.encode(with_lengths, 1), EXPLICIT, IMPLICIT) == data_sets.encode(without, 0)


def test_fragments_in_an_uncompressed_syntax_are_refused() -> None:
    fragments = data_sets.header(tags.PixelData, "OB", 0xFFFFFFFF, 1) + data_sets.header(0xFFFEE0DD, "", 0, 1)
    with pytest.raises(TranscodeError, match="encapsulated"):
        convert(fragments, EXPLICIT, IMPLICIT)


def test_compressed_and_unknown_syntaxes_are_refused() -> None:
    for uid in ("1.2.840.10008.1.2.4.90", "1.2.3"):
        with pytest.raises(TranscodeError, match="uncompressed"):
            convert(b"", transfer_syntax.of(uid), EXPLICIT)
        with pytest.raises(TranscodeError, match="uncompressed"):
            convert(b"", EXPLICIT, transfer_syntax.of(uid))


def test_deflated_goes_both_ways() -> None:
    for syntax in UNCOMPRESSED:
        data = convert(data_sets.encode(data_sets.ct_head(), 1), EXPLICIT, syntax)
        deflated = convert(data, syntax, DEFLATED)
        assert len(deflated) % 2 == 0
        assert convert(deflated, DEFLATED, syntax) == data
    assert zlib.decompress(deflated, -15) == data_sets.encode(data_sets.ct_head(), 1)


def test_a_deflated_bomb_and_a_cut_stream_are_refused() -> None:
    deflated = convert(bytes(1 << 20), EXPLICIT, DEFLATED)
    with pytest.raises(TranscodeError, match="more than 1000 bytes"):
        convert(deflated, DEFLATED, EXPLICIT, inflated_bytes_max=1000)
    with pytest.raises(TranscodeError, match="ends early"):
        convert(deflated[:-20], DEFLATED, EXPLICIT)
    with pytest.raises(TranscodeError, match="cannot be inflated"):
        convert(b"\xff" * 20, DEFLATED, EXPLICIT)


def test_the_same_syntax_gives_the_same_bytes() -> None:
    for syntax in UNCOMPRESSED:
        assert convert(b"any\0bytes", syntax, syntax) == b"any\0bytes"
