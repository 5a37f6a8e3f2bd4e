"""dicom.coercion against pydicom: the requested values change, and everything else reads as before."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Mapping
from pathlib import Path
from shutil import which

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from engine.dicom import part10, tags
from engine.dicom.coercion import Changes, coerce
from engine.dicom.convert import convert
from engine.dicom.transfer_syntax import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from tests.corpus import STRIDE, corpus_files, corpus_part, needs_corpus
from tests.oracle import data_sets, foreign

SYNTAXES = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
UNREADABLE = {"syn-nested-3000.dcm", "syn-nested-100.dcm", "syn-latin9-ir203.dcm", "GH364.dcm"}
"""For pydicom: too deep, with an unknown character set, with an item in place of an element."""


def encoded(ds: Dataset, syntax: TransferSyntax) -> bytes:
    stream = DicomBytesIO()
    stream.is_little_endian = not syntax.big_endian
    stream.is_implicit_VR = not syntax.explicit_vr
    write_dataset(stream, ds)
    return stream.getvalue()


def decoded(data: bytes, syntax: TransferSyntax) -> Dataset:
    ds = read_dataset(io.BytesIO(data), not syntax.explicit_vr, not syntax.big_endian)
    ds.decode()
    return ds


def sample(character_set: str = "ISO_IR 100") -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = character_set
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
    ds.StudyDescription = "Schädel"
    ds.PatientName, ds.PatientID = "Müller^Jörg", "A1"
    ds.PatientComments = "private"
    request = Dataset()
    request.RequestedProcedureDescription = "Kopf für Übung"
    deeper = Dataset()
    deeper.CodeMeaning = "Größe"
    request.RequestedProcedureCodeSequence = [deeper]
    ds.RequestAttributesSequence = [request]
    ds.Rows, ds.Columns, ds.BitsAllocated = 2, 2, 16
    ds.PixelData = bytes(range(8))
    ds["PixelData"].VR = "OW"
    return ds


def coerced(ds: Dataset, syntax: TransferSyntax, values: Mapping[int, bytes | None]) -> Dataset:
    data = encoded(ds, syntax)
    result = coerce(data, syntax, Changes(values, "FILMROOM", "CORRECT", "20261125010203"))
    return decoded(result.head + data[result.tail_offset :], syntax)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_values_are_replaced_added_emptied_and_removed(syntax: TransferSyntax) -> None:
    after = coerced(
        sample(),
        syntax,
        {
            tags.PatientName: "Möller^Ida".encode(),
            tags.PatientID: b"B2",
            tags.IssuerOfPatientID: b"HOSP",
            tags.StudyDescription: b"",
            tags.PatientComments: None,
            tags.Rows: b"\x03\x00",
        },
    )
    assert (after.PatientName, after.PatientID, after.IssuerOfPatientID) == ("Möller^Ida", "B2", "HOSP")
    assert after.StudyDescription == "" and "PatientComments" not in after
    assert (after.Rows, after.Columns, bytes(after.PixelData)) == (3, 2, bytes(range(8)))
    assert after.SpecificCharacterSet == "ISO_IR 100"
    assert after.RequestAttributesSequence[0].RequestedProcedureDescription == "Kopf für Übung"
    assert list(after.keys()) == sorted(after.keys())


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_original_values_are_in_original_attributes(syntax: TransferSyntax) -> None:
    once = coerced(sample(), syntax, {tags.PatientName: b"NEW", tags.IssuerOfPatientID: b"HOSP", tags.PatientID: b"A1"})
    (item,) = once.OriginalAttributesSequence
    assert (item.ModifyingSystem, item.ReasonForTheAttributeModification) == ("FILMROOM", "CORRECT")
    assert (item.AttributeModificationDateTime, item.SourceOfPreviousValues) == ("20261125010203", "")
    (modified,) = item.ModifiedAttributesSequence
    assert modified.PatientName == "Müller^Jörg" and not modified.IssuerOfPatientID
    assert "PatientID" not in modified, "its value is what it was"
    twice = coerced(once, syntax, {tags.PatientName: b"NEWER"})
    names = [item.ModifiedAttributesSequence[0].PatientName for item in twice.OriginalAttributesSequence]
    assert names == ["Müller^Jörg", "NEW"]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_a_name_that_the_character_set_lacks_converts_the_text_to_utf_8(syntax: TransferSyntax) -> None:
    after = coerced(sample(), syntax, {tags.PatientName: "王^小東".encode()})
    assert after.SpecificCharacterSet == "ISO_IR 192"
    assert (after.PatientName, after.StudyDescription) == ("王^小東", "Schädel")
    request = after.RequestAttributesSequence[0]
    assert request.RequestedProcedureDescription == "Kopf für Übung"
    assert request.RequestedProcedureCodeSequence[0].CodeMeaning == "Größe"
    assert after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientName == "Müller^Jörg"
    assert bytes(after.PixelData) == bytes(range(8))


def test_without_a_change_original_attributes_are_not_written() -> None:
    data = encoded(sample(), EXPLICIT_VR_LITTLE_ENDIAN)
    result = coerce(data, EXPLICIT_VR_LITTLE_ENDIAN, Changes({tags.PatientID: b"A1", tags.EthnicGroup: None}))
    assert result.head + data[result.tail_offset :] == data


def test_a_head_is_enough() -> None:
    data = encoded(sample(), EXPLICIT_VR_LITTLE_ENDIAN)
    pixels = data.index(b"\xe0\x7f\x10\x00")
    changes = Changes({tags.PatientID: b"B2"})
    whole, head = (coerce(part, EXPLICIT_VR_LITTLE_ENDIAN, changes) for part in (data, data[:pixels]))
    assert whole == head and head.tail_offset == pixels


def test_group_lengths_are_dropped() -> None:
    data = b"\x08\x00\x00\x00UL\x04\x00\x10\x00\x00\x00" + encoded(sample(), EXPLICIT_VR_LITTLE_ENDIAN)
    result = coerce(data, EXPLICIT_VR_LITTLE_ENDIAN, Changes({tags.PatientID: b"B2"}))
    after = decoded(result.head + data[result.tail_offset :], EXPLICIT_VR_LITTLE_ENDIAN)
    assert (0x0008, 0x0000) not in after and after.PatientID == "B2"


def files() -> list[Path]:
    """Every third one of a series, and all others."""
    files = [path for path in corpus_files() if "odd" not in path.parts and path.name not in UNREADABLE]
    return [path for number, path in enumerate(files) if "series" not in path.parts or number % 3 == 0]


def values_of(data: bytes, syntax: TransferSyntax) -> dict[int, object]:
    """Top-level tag → value as pydicom decodes it; sequences with their text, from any character set."""
    ds = foreign.read_data_set(data, syntax)
    ds.decode()
    return {int(element.tag): plain(element) for element in ds if element.tag.element}


def plain(element: DataElement) -> object:
    if element.VR != "SQ":
        return element.value if element.value != "" else None
    return [
        {int(inner.tag): plain(inner) for inner in item if inner.tag.element and inner.tag != tags.SpecificCharacterSet}
        for item in element.value
    ]


@needs_corpus()
def test_the_corpus_reads_as_before_except_for_the_changes() -> None:
    """A name that most declared sets lack, so that most heads are converted to UTF-8."""
    changes = Changes({tags.PatientName: "Łukasz^王".encode(), tags.PatientID: b"NEW"})
    changed_tags = {tags.PatientName, tags.PatientID, tags.SpecificCharacterSet, tags.OriginalAttributesSequence}
    count = 0
    for path in corpus_part(files()):
        file = foreign.read_file(path)
        if file is None or file.transfer_syntax.deflated:
            continue
        syntax = file.transfer_syntax
        result = coerce(file.data, syntax, changes)
        data = result.head + file.data[result.tail_offset :]
        before, after = values_of(file.data, syntax), values_of(data, syntax)
        assert (str(after[tags.PatientName]), after[tags.PatientID]) == ("Łukasz^王", "NEW"), path
        for tag in (before.keys() | after.keys()) - changed_tags:
            assert before.get(tag) == after.get(tag), f"{path} {tag:08x}"
        count += 1
    assert count > 120 // STRIDE


UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UMLAUT = "Größe".encode("latin-1") + b" "


def implicit_items(depth: int, *, undefined: bool) -> bytes:
    """An item in implicit VR with a text, and below it sequences of such items, public and private."""
    content = data_sets.header(tags.CodeMeaning, "", len(UMLAUT), 0) + UMLAUT
    if depth:
        below = implicit_items(depth - 1, undefined=undefined)
        for tag in (0x00291002, 0x0040A730):
            content += _implicit_sequence(tag, below, undefined=undefined)
    if undefined:
        return data_sets.header(ITEM, "", UNDEFINED, 0) + content + data_sets.header(ITEM_END, "", 0, 0)
    return data_sets.header(ITEM, "", len(content), 0) + content


def _implicit_sequence(tag: int, items: bytes, *, undefined: bool) -> bytes:
    if undefined or tag >> 16 & 1:
        return data_sets.header(tag, "", UNDEFINED, 0) + items + data_sets.header(SEQUENCE_END, "", 0, 0)
    return data_sets.header(tag, "", len(items), 0) + items


def with_unknown(tag: int, items: bytes, *, undefined: bool) -> bytes:
    """The sample in Explicit VR Little Endian, with UN that contains items in implicit VR (PS3.5 6.2.2)."""
    data = encoded(sample(), EXPLICIT_VR_LITTLE_ENDIAN)
    creator = data_sets.header(0x00290010, "LO", 4, 1) + b"ACME" if tag >> 16 == 0x29 else b""
    if undefined:
        unknown = data_sets.header(tag, "UN", UNDEFINED, 1) + items + data_sets.header(SEQUENCE_END, "", 0, 1)
    else:
        unknown = data_sets.header(tag, "UN", len(items), 1) + items
    at = data.index(b"\xe0\x7f\x10\0OW")
    return data[:at] + creator + unknown + data[at:]


def texts_below(ds: Dataset) -> list[str]:
    texts = [ds.CodeMeaning] if "CodeMeaning" in ds else []
    for element in ds:
        if element.VR == "SQ":
            texts += [text for item in element.value for text in texts_below(item)]
    return texts


@pytest.mark.parametrize("tag", [0x00291001, 0x00400275], ids=["private", "public"])
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("undefined", [True, False], ids=["undefined lengths", "defined lengths"])
def test_unknown_elements_keep_their_encoding_when_the_character_set_changes(
    tmp_path: Path, tag: int, depth: int, undefined: bool
) -> None:
    data = with_unknown(tag, implicit_items(depth, undefined=undefined), undefined=undefined)
    result = coerce(data, EXPLICIT_VR_LITTLE_ENDIAN, Changes({tags.PatientName: "Ким".encode()}))
    out = result.head + data[result.tail_offset :]
    at = out.index(data_sets.header(tag, "UN", 0, 1)[:6])
    assert out[at + 8 : at + 12] == b"\xff\xff\xff\xff" or not undefined
    path = tmp_path / "out.dcm"
    path.write_bytes(
        part10.write_file_meta("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", EXPLICIT_VR_LITTLE_ENDIAN.uid) + out
    )
    if which("dcmdump"):
        dump = subprocess.run(["dcmdump", "+L", path], capture_output=True, text=True, errors="replace")
        assert dump.returncode == 0 and "E:" not in dump.stderr, dump.stderr
    for syntax in SYNTAXES:
        after = decoded(convert(out, EXPLICIT_VR_LITTLE_ENDIAN, syntax), syntax)
        assert str(after.PatientName) == "Ким"
        if undefined:
            texts = texts_below(Dataset({tag: after[tag]}))
            assert texts and {text.strip() for text in texts} == {"Größe"}
        assert bytes(after.PixelData) in (bytes(range(8)), bytes(x ^ 1 for x in range(8)))


def test_earlier_items_of_original_attributes_are_converted_to_the_encoding_of_the_data_set() -> None:
    """An Original Attributes Sequence that another writer stored as UN contains implicit VR; we add an item to it."""
    before = data_sets.header(tags.ModifyingSystem, "", 4, 0) + b"OLD "
    items = data_sets.header(ITEM, "", len(before), 0) + before
    data = with_unknown(tags.OriginalAttributesSequence, items, undefined=True)
    result = coerce(data, EXPLICIT_VR_LITTLE_ENDIAN, Changes({tags.PatientID: b"B2"}))
    after = decoded(result.head + data[result.tail_offset :], EXPLICIT_VR_LITTLE_ENDIAN)
    assert [item.ModifyingSystem for item in after.OriginalAttributesSequence] == ["OLD", "FILMROOM"]


@pytest.mark.parametrize("tail_length", [1, 7, 8, 11, 100, 2048])
def test_bytes_after_the_last_element_stay_in_the_tail(tail_length: int) -> None:
    ds = sample()
    del ds.PixelData
    data = encoded(ds, EXPLICIT_VR_LITTLE_ENDIAN) + b"\xff" * tail_length
    result = coerce(data, EXPLICIT_VR_LITTLE_ENDIAN, Changes({tags.PatientID: b"B2"}))
    assert data[result.tail_offset :].endswith(b"\xff" * tail_length)
    assert decoded(result.head, EXPLICIT_VR_LITTLE_ENDIAN).PatientID == "B2"
