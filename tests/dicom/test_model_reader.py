"""dicom.model_reader: round trips with our own JSON, and every kind of refusal."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dicom import json_model, model_reader, tags
from engine.dicom.model_reader import ATTRIBUTE_COUNT_MAX, BulkData, draft, parse
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError
from tests.corpus import corpus_files, needs_corpus
from tests.dicom.test_json_model import some_elements
from tests.oracle import data_sets, foreign
from tests.oracle.data_sets import Plain


def no_bulk(bulk: BulkData) -> bytes:
    raise AssertionError(bulk)


def encode(model: Any) -> bytes:
    return draft(model).whole(no_bulk)


def again(data: bytes) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(json_model.encode(data, EXPLICIT_VR_LITTLE_ENDIAN, None))
    return model


def as_read(model: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """The differences after reading: bytes of odd length are padded, items have the character set of the data set."""
    elements_by_tag = {}
    for key, attribute in model.items():
        if attribute["vr"] == "SQ" and "Value" in attribute:
            attribute = {"vr": "SQ", "Value": [as_read(item, depth + 1) for item in attribute["Value"]]}
        elif "InlineBinary" in attribute:
            value = base64.b64decode(attribute["InlineBinary"])
            value += b"\0" * (len(value) % 2)
            attribute = {"vr": attribute["vr"], "InlineBinary": base64.b64encode(value).decode()}
        if key == "00080005":
            attribute = {"vr": "CS", "Value": ["ISO_IR 192"]}
        if not depth or key != "00080005":
            elements_by_tag[key] = attribute
    return elements_by_tag


@given(some_elements())
def test_json_comes_back_as_the_same_data_set(elements: list[Plain]) -> None:
    encoded = json_model.encode(data_sets.encode(elements, 1), EXPLICIT_VR_LITTLE_ENDIAN, None)
    (model,) = parse(encoded)
    if b"null" in encoded:  # NaN, which has no number
        return
    assert again(encode(model)) == as_read(model)


@needs_corpus()
def test_every_corpus_file_comes_back_from_its_json() -> None:
    compared, refused = 0, []
    for path in [path for path in corpus_files() if "series" not in path.parts] + corpus_files("series")[::20]:
        file = foreign.read_file(path)
        if file is None:
            continue
        encoded = json_model.encode(file.data, file.transfer_syntax, None, may_be_cut=True)
        model = json.loads(encoded)
        try:
            data = encode(model)
        except DataSetError as error:
            refused.append(f"{path.name} {error}")
            continue
        assert again(data) == as_read(model), path
        compared += 1
    assert compared > 100
    assert len(refused) < 12, refused  # whose values are none, which is what is to be refused


def test_bulk_data_leaves_gaps_in_the_order_of_the_data_set() -> None:
    model = {
        "7FE00010": {"vr": "OW", "BulkDataURI": "pixels"},
        "54000100": {"vr": "SQ", "Value": [{"54001010": {"vr": "OW", "BulkDataURI": "wave"}}, {}]},
        "00080060": {"vr": "CS", "Value": ["ECG"]},
        "00282000": {"vr": "OB", "InlineBinary": "AQI="},
    }
    result = draft(model)
    assert [bulk.uri for bulk in result.bulk_data] == ["wave", "pixels"]
    data = result.whole(lambda bulk: bulk.uri.encode())
    (item, empty) = again(data)["54000100"]["Value"]
    assert base64.b64decode(item["54001010"]["InlineBinary"]) == b"wave"
    assert empty == {}
    assert list(again(data)) == sorted(model)


def test_a_value_too_long_for_its_length_field_becomes_one_of_un() -> None:
    assert BulkData(0x00281201, "US", "").header(0x10000) == struct.pack("<HH2s2xI", 0x28, 0x1201, b"UN", 0x10000)
    assert BulkData(0x00281201, "US", "").header(0xFFFE) == struct.pack("<HH2sH", 0x28, 0x1201, b"US", 0xFFFE)
    assert BulkData(0x7FE00010, "OW", "").header(2) == struct.pack("<HH2s2xI", 0x7FE0, 0x10, b"OW", 2)
    long = {"00281201": {"vr": "US", "Value": [1] * 40_000}}
    assert encode(long)[4:6] == b"UN"


def test_text_beyond_ascii_declares_utf_8_and_other_declarations_are_dropped() -> None:
    name = {"vr": "PN", "Value": [{"Alphabetic": "Müller", "Phonetic": "x"}]}
    inner = {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "00100010": name}
    model = {"0040A730": {"vr": "SQ", "Value": [inner]}, "00080008": {"vr": "CS", "Value": ["A"]}}
    data = encode(model)
    assert list(again(data)) == ["00080005", "00080008", "0040A730"]
    assert "Müller==x".encode() in data
    assert data.count(b"ISO_IR 192") == 1 and b"ISO_IR 100" not in data
    assert b"ISO_IR" not in encode({"00080008": {"vr": "CS", "Value": ["A"]}})
    assert again(encode({"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}}))["00080005"]["Value"] == ["ISO_IR 192"]


def test_the_file_meta_is_returned_separately() -> None:
    result = draft({"00020010": {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]}, "00080000": {"vr": "UL", "Value": [1]}})
    assert result.file_meta == {tags.TransferSyntaxUID: b"1.2.840.10008.1.2.1"}
    assert result.pieces == ()


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("DS", 1, b"1 "), ("DS", 1.0, b"1 "), ("DS", 0.1, b"0.1 "), ("DS", "1,5", b"1,5 "),
        ("DS", 0.3333333333333333, b"0.33333333333333"), ("DS", -1.2345678901234567e-100, b"-1.23456789e-100"),
        ("DS", None, b""), ("IS", 5, b"5 "), ("IS", 5.0, b"5 "), ("IS", "05", b"05"),
        ("PN", "Doe^J", b"Doe^J "), ("PN", {"Ideographic": "I"}, b"=I"), ("PN", {}, b""), ("PN", None, b""),
        ("AT", "0020000d", bytes.fromhex("20000d00")), ("US", 65535, b"\xff\xff"), ("SS", -1, b"\xff\xff"),
        ("US", 1.0, b"\1\0"), ("SV", "-1", b"\xff" * 8), ("UV", str((1 << 64) - 1), b"\xff" * 8),
        ("FL", 1, struct.pack("<f", 1)), ("FD", "NaN", struct.pack("<d", float("nan"))),
        ("FD", "-Infinity", struct.pack("<d", float("-inf"))), ("LT", "a\\b", b"a\\b "), ("UI", "1.2", b"1.2\0"),
        ("UT", "ä", "ä".encode()),
    ],
)  # fmt: skip
def test_a_value_of_another_form_is_accepted(vr: str, value: Any, expected: bytes) -> None:
    data = encode({"00191010": {"vr": vr, "Value": [value]}})
    assert data.endswith(expected)
    header_bytes = 12 if vr in ("SV", "UV", "UT") else 8
    assert len(data) - (18 if vr == "UT" else 0) == header_bytes + len(expected)


def test_several_values_have_backslashes_between_them() -> None:
    assert encode({"00080008": {"vr": "CS", "Value": ["A", None, "B"]}}).endswith(b"A\\\\B")
    assert encode({"00080008": {"vr": "CS"}}).endswith(b"CS\0\0")


def test_inline_binary_may_be_in_a_list_and_have_line_ends() -> None:
    for value in ("AQID\nBA==", ["AQIDBA=="]):
        assert encode({"00420011": {"vr": "OB", "InlineBinary": value}}).endswith(b"\1\2\3\4")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ([], "not an object"), ({}, "no vr"), ({"vr": "XX"}, "no vr"), ({"vr": 5}, "no vr"), ({"vr": ["CS"]}, "no vr"),
        ({"vr": "CS", "Value": "A"}, "not an array"), ({"vr": "CS", "Value": [5]}, "not a text"),
        ({"vr": "CS", "Value": [True]}, "not a text"), ({"vr": "CS", "Value": ["a\\b"]}, "backslash"),
        ({"vr": "CS", "Value": ["ä"]}, "ASCII"), ({"vr": "LO", "Value": ["a\0"]}, "NUL"),
        ({"vr": "LO", "Value": ["\x1b$B"]}, "escape"),
        ({"vr": "UI", "Value": ["1.2/../3"]}, "not a UID"), ({"vr": "UI", "Value": ["1" * 65]}, "not a UID"),
        ({"vr": "LT", "Value": ["a", "b"]}, "only one value"),
        ({"vr": "US", "Value": [65536]}, "range"), ({"vr": "US", "Value": [-1]}, "range"),
        ({"vr": "US", "Value": ["1"]}, "whole number"), ({"vr": "US", "Value": [1.5]}, "whole number"),
        ({"vr": "US", "Value": [None]}, "whole number"), ({"vr": "US", "Value": [True]}, "whole number"),
        ({"vr": "SV", "Value": [str(1 << 63)]}, "range"), ({"vr": "SV", "Value": ["9" * 5000]}, "whole number"),
        ({"vr": "FL", "Value": [1e300]}, "range"), ({"vr": "FL", "Value": ["x"]}, "not a number"),
        ({"vr": "IS", "Value": [1.5]}, "whole number"), ({"vr": "IS", "Value": [1 << 40]}, "whole number"),
        ({"vr": "AT", "Value": ["00"]}, "not a tag"), ({"vr": "AT", "Value": [5]}, "not a tag"),
        ({"vr": "PN", "Value": [{"Other": "x"}]}, "groups of a person name"),
        ({"vr": "PN", "Value": [{"Alphabetic": 5}]}, "groups"),
        ({"vr": "PN", "Value": [{"Alphabetic": "a=b"}]}, "equals"),
        ({"vr": "PN", "Value": [{"Alphabetic": "a\\b"}]}, "backslash"),
        ({"vr": "OB", "Value": [1]}, "InlineBinary"), ({"vr": "OB", "InlineBinary": "!"}, "base64"),
        ({"vr": "OB", "InlineBinary": 5}, "a text"), ({"vr": "OW", "InlineBinary": "AQ=="}, "multiple"),
        ({"vr": "LO", "InlineBinary": "AQ=="}, "for binary VRs"),
        ({"vr": "OB", "InlineBinary": "AQ==", "BulkDataURI": "x"}, "only one"),
        ({"vr": "OB", "BulkDataURI": ""}, "BulkDataURI"), ({"vr": "OB", "BulkDataURI": 5}, "BulkDataURI"),
        ({"vr": "SQ", "BulkDataURI": "x"}, "BulkDataURI"), ({"vr": "SQ", "Value": ["x"]}, "not an object"),
        ({"vr": "SQ", "Value": [{"x": {}}]}, "not a tag"), ({"vr": "LO", "Value": ["\ud800"]}, "surrogate"),
    ],
)  # fmt: skip
def test_an_invalid_attribute_is_refused_by_its_path(attribute: Any, message: str) -> None:
    for model, way in (
        ({"00191010": attribute}, "00191010"),
        ({"0040A730": {"vr": "SQ", "Value": [{}, {"00191010": attribute}]}}, "0040A730/2/00191010"),
    ):
        with pytest.raises(DataSetError, match=message) as raised:
            draft(model)
        assert way in str(raised.value)


@pytest.mark.parametrize(
    "key", ["", "0008", "PatientName", "0008006G", "0008,0060", "00000002", "FFFEE000", " 0080060"]
)
def test_an_invalid_tag_is_refused(key: str) -> None:
    with pytest.raises(DataSetError):
        draft({key: {"vr": "CS"}})


def test_one_tag_in_two_spellings_is_refused() -> None:
    with pytest.raises(DataSetError, match="twice"):
        draft({"0020000D": {"vr": "UI"}, "0020000d": {"vr": "UI"}})


def test_depth_and_number_of_attributes_are_limited() -> None:
    deep: Any = {}
    for _ in range(model_reader.NESTING_MAX + 1):
        deep = {"0040A730": {"vr": "SQ", "Value": [deep]}}
    with pytest.raises(DataSetError, match="within each other"):
        draft(deep)
    with pytest.raises(DataSetError, match="more than"):
        draft({"0040A730": {"vr": "SQ", "Value": [{}] * (ATTRIBUTE_COUNT_MAX + 1)}})


def test_a_text_of_too_many_values_is_refused_before_they_are_objects() -> None:
    for value in (b"{}", b"[]", b"0"):
        with pytest.raises(DataSetError, match="more than"):
            parse(b"[" + b",".join([value] * (model_reader.VALUE_COUNT_MAX + 1)) + b"]")


def test_an_invalid_json_model_is_refused() -> None:
    for text in (b"", b"nonsense", b"5", b'["x"]', b"[" * 100_000, b"\xff", b'{"a":NaN}', b'{"a":1e999999}x'):
        with pytest.raises(DataSetError):
            parse(text)
    assert parse(b"[]") == []
    assert parse(b"{}") == parse(b"[{}]") == [{}]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["NaN", "1.5", "AQ=="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ATTRIBUTES = st.fixed_dictionaries(
    {"vr": st.sampled_from(sorted(model_reader._VRS)) | ANYTHING},
    optional={"Value": st.lists(ANYTHING, max_size=3) | ANYTHING, "InlineBinary": ANYTHING, "BulkDataURI": ANYTHING},
)
KEYS = st.sampled_from(["00080005", "00080018", "00100010", "0040A730", "00191010", "7FE00010", "00020010"])


@given(st.dictionaries(KEYS | st.text(max_size=9), ATTRIBUTES | ANYTHING, max_size=4))
def test_any_model_gives_a_data_set_or_our_own_error(model: dict[str, Any]) -> None:
    try:
        result = draft(model)
    except DataSetError:
        return
    again(result.whole(lambda bulk: b"ab"))
