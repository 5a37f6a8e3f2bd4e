"""DICOM JSON Model: against pydicom, the same in every encoding, and what annex F leaves open."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import json_model, tags, transfer_syntax
from engine.dicom.json_model import BINARY_INLINE_BYTES_MAX, TABLE_INLINE_BYTES_MAX, TEXT_INLINE_BYTES_MAX
from engine.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from engine.errors import DataSetError
from tests.corpus import STRIDE, corpus_files, corpus_part, needs_corpus
from tests.oracle import data_sets, foreign
from tests.oracle.data_sets import Item, Plain, text
from tests.oracle.json_model import differences, foreign_model

SYNTAXES = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
# pydicom does not read the escapes of the first, has no Latin-9, and gives what there is of a value that is cut.
OTHERWISE_READ = {"chrGB2312.dcm", "syn-latin9-ir203.dcm", "rtplan_truncated.dcm"}


def model_of(
    elements: list[Plain], syntax: transfer_syntax.TransferSyntax = EXPLICIT_VR_LITTLE_ENDIAN
) -> dict[str, Any]:
    encoded = json_model.encode(data_sets.encode(elements, syntax.encoding), syntax, "/bulk")
    model: dict[str, Any] = json.loads(encoded)
    return model


def one(element: Plain) -> dict[str, Any]:
    (attribute,) = model_of([element]).values()
    return dict(attribute)


@needs_corpus()
def test_every_corpus_file_has_the_values_that_pydicom_reads() -> None:
    compared = 0
    for path in corpus_part(corpus_files()):
        file = foreign.read_file(path)
        if file is None or path.name in OTHERWISE_READ:
            continue
        ours = json.loads(json_model.encode(file.data, file.transfer_syntax, "/bulk", may_be_cut=True))
        assert list(ours) == sorted(ours), path
        assert differences(ours, foreign_model(file.dataset)) == [], path
        compared += 1
    assert compared > 500 // STRIDE


VALUES = {
    "LO": st.text(st.characters(codec="ascii", exclude_characters="\\\0\x1b"), min_size=1).map(str.encode),
    "UT": st.text(st.characters(exclude_characters="\0\x1b", exclude_categories=["Cs"])).map(str.encode),
    "PN": st.text(st.sampled_from("^=ab é山"), max_size=20).map(str.encode),
    "US": st.lists(st.integers(0, 0xFFFF)).map(lambda numbers: struct.pack(f"<{len(numbers)}H", *numbers)),
    "SL": st.lists(st.integers(-(1 << 31), (1 << 31) - 1)).map(
        lambda numbers: struct.pack(f"<{len(numbers)}i", *numbers)
    ),
    "FD": st.lists(st.floats()).map(lambda numbers: struct.pack(f"<{len(numbers)}d", *numbers)),
    "OB": st.binary(max_size=40),
    "OW": st.binary(max_size=20).map(lambda value: value * 2),
    "AT": st.binary(max_size=10).map(lambda value: value * 4),
}
PLACES = {
    "LO": tags.StudyDescription, "UT": tags.TextValue, "PN": tags.PatientName, "US": tags.Rows,
    "SL": 0x00186020, "FD": 0x00189073, "OB": 0x00420011, "OW": tags.LUTData, "AT": tags.FrameIncrementPointer,
}  # fmt: skip


@st.composite
def some_elements(draw: st.DrawFn, depth: int = 2) -> list[Plain]:
    vrs = draw(st.sets(st.sampled_from([*VALUES])))
    elements = [text(tags.SpecificCharacterSet, "ISO_IR 192")]
    for vr in vrs:
        value = draw(VALUES[vr])
        pad = b"\0" if vr == "OB" else b" "
        elements.append(Plain(PLACES[vr], vr, value + pad * (len(value) % 2)))
    if depth and draw(st.booleans()):
        items = draw(st.lists(some_elements(depth - 1), max_size=3))
        undefined = draw(st.booleans())
        elements.append(Plain(tags.ContentSequence, "SQ", [Item(item, undefined) for item in items], undefined))
    return sorted(elements, key=lambda element: element.tag)


@given(some_elements())
def test_the_encoding_of_a_data_set_makes_no_difference(elements: list[Plain]) -> None:
    first, *others = [model_of(elements, syntax) for syntax in SYNTAXES]
    assert others == [first, first]
    assert list(first) == sorted(first)
    for element in elements:
        assert first[f"{element.tag:08X}"]["vr"] == element.vr


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("DS", b"1.50\\-0.5\\+.5\\5.\\007\\1E-5", [1.5, -0.5, 0.5, 5, 7, 1e-5]),
        ("DS", b"1,5\\1e999\\nan\\-\\.\\12345678901234567", ["1,5", "1e999", "nan", "-", ".", "12345678901234567"]),
        ("DS", b"0.1234567890123456\\1e", [0.1234567890123456, "1e"]),
        ("IS", b"+7\\-2147483648\\2147483648\\1.0\\x", [7, -2147483648, "2147483648", "1.0", "x"]),
        ("LO", b"a\\\\b ", ["a", None, "b"]),
        ("LO", b" \\ ", [None, None]),
        ("LO", b"  ", None),
        ("LT", b" a\\b ", [" a\\b"]),
        ("ST", b'"\x01\n', ['"\x01\n']),
        ("UR", b"http://a/b ", ["http://a/b"]),
        ("PN", b"Doe^John\\=I\\==P\\A=B=C=D", [
            {"Alphabetic": "Doe^John"}, {"Ideographic": "I"}, {"Phonetic": "P"},
            {"Alphabetic": "A", "Ideographic": "B", "Phonetic": "C=D"},
        ]),
        ("PN", b"==", None),
        ("PN", b"= =", None),
        ("PN", b"A = B^C ", [{"Alphabetic": "A", "Ideographic": "B^C"}]),
        ("PN", b"==\\a ", [None, {"Alphabetic": "a"}]),
        ("UI", b"1.2\\1.3\0", ["1.2", "1.3"]),
        ("AT", bytes.fromhex("2000 0d00 e07f 1000"), ["0020000D", "7FE00010"]),
        ("SV", struct.pack("<qq", -(1 << 53) + 1, -(1 << 53)), [-(1 << 53) + 1, str(-(1 << 53))]),
        ("UV", struct.pack("<QQ", (1 << 53) - 1, (1 << 64) - 1), [(1 << 53) - 1, str((1 << 64) - 1)]),
        ("FL", struct.pack("<3f", 0.1, -2, 1e30), [struct.unpack("<f", struct.pack("<f", 0.1))[0], -2.0,
                                                  struct.unpack("<f", struct.pack("<f", 1e30))[0]]),
        ("SS", struct.pack("<2h", -1, 5), [-1, 5]),
    ],
)  # fmt: skip
def test_a_value_is_written_by_annex_f(vr: str, value: bytes, expected: list[Any] | None) -> None:
    attribute = one(Plain(0x00191010, vr, value))
    assert attribute == ({"vr": vr} if expected is None else {"vr": vr, "Value": expected})


def test_negative_zero_keeps_its_sign() -> None:
    (number,) = one(Plain(0x00191010, "FD", struct.pack("<d", -0.0)))["Value"]
    assert math.copysign(1, number) == -1


def test_numbers_that_json_lacks_are_bulk_data() -> None:
    for number in (math.nan, math.inf, -math.inf):
        for vr, form in (("FL", "<2f"), ("FD", "<2d")):
            assert one(Plain(0x00191010, vr, struct.pack(form, 1, number))) == {
                "vr": vr,
                "BulkDataURI": "/bulk/00191010",
            }


def test_bytes_are_inline_in_little_endian_up_to_a_limit() -> None:
    value = bytes(range(8))
    for vr in ("OB", "OW", "OF", "OD", "OL", "OV", "UN"):
        for syntax in (EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN):
            (attribute,) = model_of([Plain(0x00191010, vr, value)], syntax).values()
            assert base64.b64decode(attribute["InlineBinary"]) == value
    assert "InlineBinary" in one(Plain(0x00191010, "OB", bytes(BINARY_INLINE_BYTES_MAX)))
    assert one(Plain(0x00191010, "OB", bytes(BINARY_INLINE_BYTES_MAX + 2)))["BulkDataURI"] == "/bulk/00191010"
    assert "InlineBinary" in one(Plain(tags.LUTData, "OW", bytes(TABLE_INLINE_BYTES_MAX)))
    assert "BulkDataURI" in one(Plain(tags.LUTData, "OW", bytes(TABLE_INLINE_BYTES_MAX + 2)))


def test_long_text_is_bulk_data_where_annex_f_allows_it() -> None:
    long = b"1" * (TEXT_INLINE_BYTES_MAX + 2)
    assert one(Plain(0x00191010, "UT", long))["BulkDataURI"] == "/bulk/00191010"
    assert one(Plain(0x00191010, "UR", long))["Value"] == [long.decode()]


def test_pixel_data_is_bulk_data_and_may_be_missing() -> None:
    whole = data_sets.encode(data_sets.ct_head(), 1)
    model = json.loads(json_model.encode(whole, EXPLICIT_VR_LITTLE_ENDIAN, "/bulk"))
    assert model["7FE00010"] == {"vr": "OW", "BulkDataURI": "/bulk/7FE00010"}
    for missing in (1, 63, 64):
        assert json.loads(json_model.encode(whole[:-missing], EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")) == model


def test_elements_after_pixel_data_are_passed_separately() -> None:
    head = data_sets.encode([text(tags.Modality, "CT"), Plain(tags.PixelData, "OW", b"1234")], 1)
    tail = data_sets.encode([Plain(0xFFFCFFFC, "OB", b"\0\0")], 1)
    for data in (head, head[:-4]):
        model = json.loads(json_model.encode(data, EXPLICIT_VR_LITTLE_ENDIAN, "/bulk", tail=tail))
        assert list(model) == ["00080060", "7FE00010", "FFFCFFFC"]


def test_fragments_are_bulk_data() -> None:
    for tag, depth in ((tags.PixelData, 0), (tags.PixelData, 1)):
        fragments = Plain(tag, "OB", [Item([]), Item([])], undefined=True)
        element = fragments if not depth else Plain(tags.IconImageSequence, "SQ", [Item([fragments])])
        way = "/bulk/7FE00010" if not depth else "/bulk/00880200/1/7FE00010"
        assert way in json.dumps(model_of([element]))


def test_a_bulk_data_uri_has_the_path_to_its_element() -> None:
    item = Item([Plain(0x54001010, "OW", bytes(2000))])
    model = model_of([Plain(0x54000100, "SQ", [item, item])])
    uris = [inner["54001010"]["BulkDataURI"] for inner in model["54000100"]["Value"]]
    assert uris == ["/bulk/54000100/1/54001010", "/bulk/54000100/2/54001010"]


def test_text_beyond_ascii_is_utf_8_and_declares_it() -> None:
    name = Plain(tags.PatientName, "PN", "Müller".encode("latin-1"))
    declared = Plain(tags.SpecificCharacterSet, "CS", b"ISO_IR 100")
    for elements in ([declared, name], [name]):  # without a declaration it is taken for Latin-1
        encoded = json_model.encode(data_sets.encode(elements, 1), EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")
        assert "Müller".encode() in encoded
        assert [*json.loads(encoded)] == ["00080005", "00100010"]
        assert json.loads(encoded)["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}


def test_an_item_has_a_character_set_of_its_own() -> None:
    name = Plain(tags.PatientName, "PN", b"\xd6")
    greek = Item([Plain(tags.SpecificCharacterSet, "CS", b"ISO_IR 126"), name])
    elements = [
        Plain(tags.SpecificCharacterSet, "CS", b"ISO_IR 100"),
        Plain(tags.ContentSequence, "SQ", [greek, Item([name])]),
    ]
    items = model_of(elements)["0040A730"]["Value"]
    assert [item["00100010"]["Value"][0]["Alphabetic"] for item in items] == ["Φ", "Ö"]


def test_keys_ascend_and_of_two_with_one_tag_the_last_counts() -> None:
    def level(order: list[tuple[int, bytes]]) -> list[Plain]:
        return [Plain(tag, "LO", value) for tag, value in order]

    disorder = level([(0x00104000, b"a "), (0x00080080, b"b "), (0x00104000, b"c "), (0x00081040, b"d ")])
    model = model_of([*disorder, Plain(tags.ContentSequence, "SQ", [Item(disorder)]), text(tags.Modality, "CT")])
    expected = {"00080080": "b", "00081040": "d", "00104000": "c"}
    assert {tag: attribute["Value"][0] for tag, attribute in model["0040A730"]["Value"][0].items()} == expected
    assert list(model) == ["00080060", "00080080", "00081040", "00104000", "0040A730"]


def test_groups_0_and_2_and_group_lengths_are_left_out() -> None:
    elements = [
        Plain(0x00000002, "UI", b"1.2\0"), Plain(0x00020010, "UI", b"1.2\0"), Plain(0x00080000, "UL", bytes(4)),
        text(tags.Modality, "CT"),
    ]  # fmt: skip
    assert list(model_of(elements)) == ["00080060"]


def test_us_or_ss_follows_pixel_representation_into_items() -> None:
    def data_set(representation: int) -> list[Plain]:
        inner = Item([Plain(tags.LUTDescriptor, "SS", struct.pack("<3h", 1, -1, 16))])
        return [
            Plain(0x00280103, "US", struct.pack("<H", representation)),
            Plain(tags.SmallestImagePixelValue, "SS", struct.pack("<h", -1)),
            Plain(0x00283000, "SQ", [inner]),
        ]

    signed = model_of(data_set(1), IMPLICIT_VR_LITTLE_ENDIAN)
    assert signed["00280106"] == {"vr": "SS", "Value": [-1]}
    assert signed["00283000"]["Value"][0]["00283002"] == {"vr": "SS", "Value": [1, -1, 16]}
    assert model_of(data_set(0), IMPLICIT_VR_LITTLE_ENDIAN)["00280106"] == {"vr": "US", "Value": [65535]}


def test_a_number_of_the_wrong_length_is_bytes() -> None:
    assert one(Plain(tags.Rows, "US", b"\1\2\3\4"[:3])) == {"vr": "UN", "InlineBinary": "AQID"}


def test_an_invalid_sequence_is_bytes_and_the_elements_after_it_are_read() -> None:
    broken = data_sets.header(tags.ContentSequence, "SQ", 12, 1) + b"nothing here"
    data = (
        data_sets.encode([text(tags.Modality, "CT")], 1)
        + broken
        + data_sets.encode([Plain(0x00411010, "LO", b"x ")], 1)
    )
    model = json.loads(json_model.encode(data, EXPLICIT_VR_LITTLE_ENDIAN, "/bulk"))
    assert model["0040A730"] == {"vr": "UN", "BulkDataURI": "/bulk/0040A730"}
    assert model["00411010"] == {"vr": "LO", "Value": ["x"]}


def test_un_of_a_public_tag_has_its_own_vr_and_un_of_undefined_length_is_a_sequence() -> None:
    assert one(Plain(tags.Modality, "UN", b"CT")) == {"vr": "CS", "Value": ["CT"]}
    inner = data_sets.encode_item(Item([text(tags.Modality, "CT")]), 0)
    assert one(Plain(tags.ContentSequence, "UN", inner))["Value"] == [{"00080060": {"vr": "CS", "Value": ["CT"]}}]
    end = data_sets.header(data_sets.SEQUENCE_END, "", 0, 1)
    data = data_sets.header(0x00191010, "UN", 0xFFFFFFFF, 1) + inner + end
    assert json.loads(json_model.encode(data, EXPLICIT_VR_LITTLE_ENDIAN, "/bulk"))["00191010"]["vr"] == "SQ"


def test_empty_sequences_and_empty_items_differ() -> None:
    assert one(Plain(tags.ContentSequence, "SQ", [])) == {"vr": "SQ"}
    assert one(Plain(tags.ContentSequence, "SQ", [], undefined=True)) == {"vr": "SQ"}
    assert one(Plain(tags.ContentSequence, "SQ", [Item([]), Item([], undefined=True)])) == {
        "vr": "SQ",
        "Value": [{}, {}],
    }


def test_a_cut_data_set_is_refused_unless_cuts_are_allowed() -> None:
    whole = data_sets.encode(data_sets.ct_head(undefined=True)[:-1], 1)
    expected = json.loads(json_model.encode(whole, EXPLICIT_VR_LITTLE_ENDIAN, "/bulk"))
    refused = 0
    for end in range(len(whole)):
        model = json.loads(json_model.encode(whole[:end], EXPLICIT_VR_LITTLE_ENDIAN, "/bulk", may_be_cut=True))
        assert set(model) <= set(expected)
        try:
            json_model.encode(whole[:end], EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")
        except DataSetError:
            refused += 1
    assert refused > len(whole) / 2


def test_nesting_and_numbers_of_elements_are_limited() -> None:
    deep: list[Plain] = []
    for _ in range(130):
        deep = [Plain(tags.ContentSequence, "SQ", [Item(deep)], undefined=True)]
    with pytest.raises(DataSetError, match="too deeply"):
        model_of(deep)
    many = bytes.fromhex("19000110") + b"LO\0\0"
    with pytest.raises(DataSetError, match="more elements"):
        json_model.encode(many * ((1 << 20) + 2), EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")


def encoded_element(tag: int, vr: str, value: bytes) -> bytes:
    return json_model.element_writer()(tag, json_model.vr_number(vr), value)


def test_one_element_of_the_index_can_be_written() -> None:
    assert encoded_element(tags.PatientName, "PN", "Ä^B".encode()) == (
        '"00100010":{"vr":"PN","Value":[{"Alphabetic":"Ä^B"}]}'.encode()
    )
    assert encoded_element(tags.PatientID, "LO", b"") == b'"00100020":{"vr":"LO"}'
    item = data_sets.encode_item(Item([text(tags.CodeValue, "X")]), 1)
    assert encoded_element(tags.ProcedureCodeSequence, "SQ", item) == (
        b'"00081032":{"vr":"SQ","Value":[{"00080100":{"vr":"SH","Value":["X"]}}]}'
    )
    assert encoded_element(tags.ProcedureCodeSequence, "SQ", b"nonsense") == b'"00081032":{"vr":"UN"}'
    assert encoded_element(0x00191010, "FD", struct.pack("<d", math.nan)) == (b'"00191010":{"vr":"FD","Value":[null]}')
    assert b"InlineBinary" in encoded_element(0x00191010, "OB", bytes(5000))


def test_a_prefix_that_json_cannot_hold_is_refused() -> None:
    for prefix in ('a"', "a\\", "ä", "a\n"):
        with pytest.raises(ValueError, match="URI"):
            json_model.encode(b"", EXPLICIT_VR_LITTLE_ENDIAN, prefix)


def test_bulk_data_uris_deep_in_sequences_cost_no_more_than_a_multiple_of_the_data_set() -> None:
    elements = [Plain(0x00191010, "FD", struct.pack("<d", math.nan))] * 100_000
    for _ in range(100):
        elements = [Plain(tags.ContentSequence, "SQ", [Item(elements)], undefined=True)]
    with pytest.raises(DataSetError):
        model_of(elements)


def test_a_deflated_data_set_is_inflated_only_as_far_as_necessary(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = data_sets.encode([*data_sets.ct_head()[:-1], Plain(tags.PixelData, "OW", bytes(1 << 20))], 1)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(plain) + deflater.flush()
    expected = json_model.encode(plain, EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")
    for step_bytes in (100, 1 << 20):
        monkeypatch.setattr(json_model, "INFLATED_STEP_BYTES", step_bytes)
        assert json_model.encode(deflated, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "/bulk") == expected
    head = json_model.encode(deflated[:500], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")
    assert head == expected  # what is missing is in Pixel Data
    with pytest.raises(DataSetError):
        json_model.encode(deflated[:50], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")
    cut = json_model.encode(deflated[:200], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "/bulk", may_be_cut=True)
    assert set(json.loads(cut)) < set(json.loads(expected))
    with pytest.raises(DataSetError, match="inflated"):
        json_model.encode(b"\xff" * 100, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")


def test_a_deflated_bomb_is_inflated_only_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_model, "INFLATED_BYTES_MAX", 1 << 22)
    bomb = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    item = data_sets.encode([Plain(0x00191010, "OB", bytes(1 << 26))], 1)
    data = bomb.compress(item) + bomb.flush()
    with pytest.raises(DataSetError, match="within"):
        json_model.encode(data, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "/bulk")
