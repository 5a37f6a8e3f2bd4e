"""dicom.xml_model: XML comes back as the same data set, and names of attributes are those of pydicom."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given

from engine.dicom import json_model, xml_model
from engine.dicom.model_reader import NESTING_MAX, draft
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError
from tests.corpus import corpus_files, needs_corpus
from tests.dicom.test_json_model import some_elements
from tests.oracle import data_sets, foreign
from tests.oracle.data_sets import Plain

NAMESPACE = f"{{{xml_model.NAMESPACE}}}"
START = f'<NativeDicomModel xmlns="{xml_model.NAMESPACE}">'


def document(inner: str) -> bytes:
    return f"{START}{inner}</NativeDicomModel>".encode()


def attribute(vr: str, inner: str, tag: str = "00191010") -> bytes:
    return document(f'<DicomAttribute tag="{tag}" vr="{vr}">{inner}</DicomAttribute>')


def has_what_xml_has_not(model: Any) -> bool:
    if isinstance(model, str):
        return xml_model._NOT_XML.search(model) is not None
    inner = model.values() if isinstance(model, dict) else model if isinstance(model, list) else ()
    return any(map(has_what_xml_has_not, inner))


def meaning(model: Any) -> Any:
    """The data set as JSON keeps it: a DS is the same number in fewer digits."""
    result = draft(model)
    data = result.whole(lambda bulk: bulk.uri.encode())
    return result.bulk_data, json.loads(json_model.encode(data, EXPLICIT_VR_LITTLE_ENDIAN, None))


@given(some_elements())
def test_xml_comes_back_as_the_same_data_set(elements: list[Plain]) -> None:
    model = json.loads(json_model.encode(data_sets.encode(elements, 1), EXPLICIT_VR_LITTLE_ENDIAN, "/bulk"))
    if not has_what_xml_has_not(model):
        assert meaning(xml_model.parse(xml_model.encode(model))) == meaning(model)


@needs_corpus()
def test_every_corpus_file_comes_back_from_its_xml() -> None:
    compared = 0
    for path in [path for path in corpus_files() if "series" not in path.parts] + corpus_files("series")[::20]:
        file = foreign.read_file(path)
        if file is None:
            continue
        model = json.loads(json_model.encode(file.data, file.transfer_syntax, "/bulk", may_be_cut=True))
        text = xml_model.encode(model)
        ET.fromstring(text)
        try:
            expected = meaning(model)
        except DataSetError:
            continue
        if not has_what_xml_has_not(model):
            assert meaning(xml_model.parse(text)) == expected, path
            compared += 1
    assert compared > 100


def test_attributes_have_keyword_creator_and_numbered_values() -> None:
    model = {
        "00080008": {"vr": "CS", "Value": ["A", None, "B"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^J^^Dr", "Ideographic": "山"}]},
        "00190010": {"vr": "LO", "Value": ['AC"ME']},
        "00191010": {"vr": "OB", "InlineBinary": "AQI="},
        "0040A730": {"vr": "SQ", "Value": [{"00080060": {"vr": "CS", "Value": ["<&>"]}}, {}]},
        "60003000": {"vr": "OW", "BulkDataURI": "/a?b&c"},
    }
    root = ET.fromstring(xml_model.encode(model))
    attributes = {element.get("tag"): element for element in root}
    assert root.tag == NAMESPACE + "NativeDicomModel"
    assert attributes["00080008"].get("keyword") == "ImageType"
    assert [(value.get("number"), value.text) for value in attributes["00080008"]] == [
        ("1", "A"),
        ("2", None),
        ("3", "B"),
    ]
    assert attributes["00191010"].get("privateCreator") == 'AC"ME' and attributes["00191010"].get("keyword") is None
    assert attributes["60003000"].get("keyword") == "OverlayData" and attributes["60003000"][0].get("uri") == "/a?b&c"
    names = [(part.tag.removeprefix(NAMESPACE), part.text) for part in attributes["00100010"].iter()][1:]
    assert names[1:] == [
        ("Alphabetic", None), ("FamilyName", "Doe"), ("GivenName", "J"), ("NamePrefix", "Dr"),
        ("Ideographic", None), ("FamilyName", "山"),
    ]  # fmt: skip
    assert [item.get("number") for item in attributes["0040A730"]] == ["1", "2"]
    assert meaning(xml_model.parse(xml_model.encode(model))) == meaning(model)


def test_characters_that_xml_lacks_are_replaced() -> None:
    text = xml_model.encode({"00191010": {"vr": "LT", "Value": ["a\x01\x1b\r\n\ufffe b"]}})
    assert xml_model.parse(text)["00191010"]["Value"] == ["a\ufffd\ufffd\r\n\ufffd b"]


def test_documents_of_other_writers_are_read() -> None:
    inner = b'<DicomAttribute tag="0020000d" vr="UI"><Value number="1">1.2</Value></DicomAttribute>'
    plain = b"<NativeDicomModel>" + inner + b"</NativeDicomModel>"
    assert xml_model.parse(plain) == {"0020000D": {"vr": "UI", "Value": ["1.2"]}}
    prefixed = plain.replace(b"<", b"<d:").replace(b"<d:/", b"</d:").replace(b"Model>", b'Model xmlns:d="urn:x">', 1)
    assert xml_model.parse(prefixed) == xml_model.parse(plain)
    sparse = attribute("CS", '<Value number="2">B</Value>')
    assert xml_model.parse(sparse)["00191010"]["Value"] == [None, "B"]
    whole_name = attribute("PN", '<PersonName number="1"><Alphabetic>Doe^J</Alphabetic></PersonName>')
    assert xml_model.parse(whole_name)["00191010"]["Value"] == [{"Alphabetic": "Doe^J"}]
    assert xml_model.parse(plain.decode().encode("utf-16")) == xml_model.parse(plain)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"nonsense", b"<NativeDicomModel>", b"<x/>", document("<Value/>"), document("<x/>"),
        attribute("CS", "<Item/><x/>"), attribute("CS", '<Value number="2">B</Value><Value number="1">A</Value>'),
        attribute("CS", '<Value number="9999999"/>'),
        document('<DicomAttribute tag="00191010" vr="CS"/>' * 2),
        attribute("PN", "<PersonName><FamilyName/></PersonName>"),
        b'<?xml version="1.0" encoding="rot13"?>' + document(""),
        b'<?xml version="1.0" encoding="nothing"?>' + document(""),
        b'<?xml version="1.0" encoding="shift_jis"?>' + document(""),
        b'<!DOCTYPE x [<!ENTITY a "b">]>' + document(""),
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + document(""),
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:1/"> %p;]>' + document(""),
        (START + '<DicomAttribute tag="0040A730" vr="SQ"><Item>' * (NESTING_MAX + 10)).encode(),
    ],
)  # fmt: skip
def test_an_invalid_native_model_is_refused(text: bytes) -> None:
    with pytest.raises(DataSetError):
        xml_model.parse(text)


def test_an_invalid_value_is_refused_as_in_json() -> None:
    for text in (
        attribute("US", "<Value>x</Value>"),
        attribute("XX", ""),
        attribute("OB", "<InlineBinary>!</InlineBinary>"),
    ):
        with pytest.raises(DataSetError, match="00191010"):
            draft(xml_model.parse(text))
    with pytest.raises(DataSetError):
        draft(xml_model.parse(document("<DicomAttribute/>")))
