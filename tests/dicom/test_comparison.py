"""dicom.comparison against pydicom: re-encoded data sets are the same, and those that pydicom finds changed are not."""

from __future__ import annotations

import copy
import io
import random
import struct
import zlib

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from engine.dicom import transfer_syntax
from engine.dicom.comparison import Comparison, Difference
from engine.dicom.content import Contents
from engine.dicom.sources import Inflated, Whole
from engine.errors import DataSetError
from tests import effort

ILE, ELE, EBE, DEFLATED = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
)  # fmt: skip
SYNTAXES = (ILE, ELE, EBE, DEFLATED)
SEED = 20261129
PAIRS = 300


def contents(data: bytes, syntax: str) -> Contents:
    source = Whole(data)
    return Contents(Inflated(source) if syntax == DEFLATED else source, transfer_syntax.of(syntax))


def differences(left: tuple[bytes, str], right: tuple[bytes, str]) -> list[Difference]:
    return list(Comparison(contents(*left), contents(*right)).differences())


def names(left: tuple[bytes, str], right: tuple[bytes, str]) -> list[str]:
    return [difference.name for difference in differences(left, right)]


def is_same(left: tuple[bytes, str], right: tuple[bytes, str]) -> bool:
    return Comparison(contents(*left), contents(*right)).is_same


def a_dataset(rng: random.Random, depth: int = 0) -> Dataset:
    """Values of every kind, in the order of their tags."""
    dataset = Dataset()
    dataset.SOPInstanceUID = UID(f"1.2.3.{rng.randrange(10**9)}")
    dataset.PatientName = rng.choice(["DOE^JANE", "A", "ROE^RICHARD "])
    dataset.StudyDate = "20261129"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"][: rng.randrange(1, 4)]
    dataset.Rows = rng.randrange(1, 1 << 16)
    dataset.PixelRepresentation = rng.randrange(2)
    dataset.SliceThickness = rng.choice(["1.5", "2"])
    dataset.ImagePositionPatient = ["0", str(rng.randrange(99)), "-7.25"]
    dataset.FrameIncrementPointer = 0x00181063
    dataset.add_new(0x00189087, "FD", rng.random())
    dataset.add_new(0x00081160, "IS", [1, 2, rng.randrange(99)])
    dataset.ImageComments = "a\\b  c" if rng.random() < 0.5 else ""
    dataset.add_new(0x00090010, "LO", "CREATOR")
    dataset.add_new(0x00091001, "LO", rng.choice(["x", "private  text"]))
    dataset.add_new(0x00091002, "US", [1, rng.randrange(1 << 16)])
    dataset.add_new(0x00091003, "OB", rng.randbytes(2 * rng.randrange(9)))
    if depth < 2:
        for tag in (0x00081140, 0x00400275, 0x00091010):
            items = Sequence([a_dataset(rng, depth + 1) for _ in range(rng.randrange(3))])
            dataset.add_new(tag, "SQ", items)
    if depth == 0:
        dataset.BitsAllocated = 16
        dataset.add_new(0x7FE00010, "OW", rng.randbytes(2 * rng.randrange(200)))
    return dataset


def forms(rng: random.Random, dataset: Dataset) -> Dataset:
    """Other forms of length at random."""
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = rng.random() < 0.5
            for item in element.value:
                item.is_undefined_length_sequence_item = rng.random() < 0.5
    return dataset


def encoded(dataset: Dataset, syntax: str) -> bytes:
    file = io.BytesIO()
    out = DicomFileLike(file)
    out.is_little_endian = syntax != EBE
    out.is_implicit_VR = syntax == ILE
    dataset = copy.deepcopy(dataset)
    if syntax == EBE and 0x7FE00010 in dataset:
        dataset[0x7FE00010].value = swapped(dataset[0x7FE00010].value)
    write_dataset(out, dataset)
    data = file.getvalue()
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    return data


def swapped(data: bytes) -> bytes:
    return b"".join(data[at : at + 2][::-1] for at in range(0, len(data), 2))


def element(tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in ("OB", "OW", "UN", "SQ", "UT"):
        return head + struct.pack("<xxI", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def mutated(rng: random.Random, dataset: Dataset) -> Dataset:
    """Changes, removes or adds one element at any depth."""
    dataset = copy.deepcopy(dataset)
    levels = [dataset, *(item for each in dataset.iterall() if each.VR == "SQ" for item in each.value)]
    level = rng.choice(levels)
    at = rng.choice([each for each in level if each.VR != "SQ"])
    kind = rng.randrange(3)
    if kind == 0:
        del level[at.tag]
    elif kind == 1:
        level.add_new(0x00104000, "LT", "something more")
    elif at.VR in ("OB", "OW"):
        level[at.tag].value = at.value + b"\1\2"
    elif at.VR == "UI":
        level[at.tag].value = "1.2.3.4"
    elif at.VR in ("US", "AT", "FD"):
        level[at.tag] = DataElement(at.tag, at.VR, 4711)
    elif at.VR in ("IS", "DS"):
        level[at.tag] = DataElement(at.tag, at.VR, "4711")
    elif at.VR == "DA":
        level[at.tag] = DataElement(at.tag, at.VR, "20261130")
    else:
        level[at.tag] = DataElement(at.tag, at.VR, "ANOTHER")
    return dataset


@pytest.mark.parametrize("number", effort.some(range(PAIRS), 4))
def test_a_re_encoding_is_the_same_and_one_changed_element_is_not(number: int) -> None:
    rng = random.Random(SEED + number)
    dataset = a_dataset(rng)
    left = forms(rng, copy.deepcopy(dataset))
    right = forms(rng, copy.deepcopy(dataset))
    one, other = rng.choice(SYNTAXES), rng.choice(SYNTAXES)
    written = encoded(left, one), one
    assert names(written, (encoded(right, other), other)) == [], (SEED + number, one, other)
    mutation = forms(rng, mutated(rng, dataset))
    assert mutation != dataset, SEED + number
    assert len(differences(written, (encoded(mutation, other), other))) == 1, SEED + number


BASE = element(0x00080018, "UI", b"1.2.3\0") + element(0x00100010, "PN", b"DOE^J ")
PIXELS = element(0x7FE00010, "OW", b"\1\2\3\4")


@pytest.mark.parametrize(
    "other",
    [
        element(0x00080000, "UL", struct.pack("<I", 14)) + BASE + PIXELS,
        BASE + element(0x00100000, "UL", b"\0\0\0\0") + PIXELS,
        element(0x00080001, "UL", b"\0\0\1\0") + BASE + PIXELS,
        BASE + PIXELS + element(0xFFFCFFFC, "OB", bytes(100)),
        BASE + PIXELS + bytes(2048),
        BASE + PIXELS + bytes(3),
        element(0x00100010, "PN", b"DOE^J ") + element(0x00080018, "UI", b"1.2.3\0") + PIXELS,
        element(0x00080018, "UI", b"1.2.3\0") + element(0x00100010, "PN", b"DOE^J\0\0   ") + PIXELS,
        element(0x00080018, "UI", b"1.2.3\0") + element(0x00100010, "UN", b"DOE^J ") + PIXELS,
        element(0x00080018, "UI", b"1.2.3 ") + element(0x00100010, "PN", b"DOE^J") + PIXELS,
        BASE + element(0x7FE00010, "OB", b"\1\2\3\4"),
    ],
    ids=["group length", "another group length", "length to end", "trailing padding", "sector padding", "a few zeros",
         "order", "padding of a value", "UN", "odd and spaces", "OB"],
)  # fmt: skip
def test_differences_of_encoding_do_not_count(other: bytes) -> None:
    assert names((BASE + PIXELS, ELE), (other, ELE)) == []
    assert names((other, ELE), (BASE + PIXELS, ELE)) == []


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (BASE + element(0x7FE00010, "OW", b"\1\2\3\5"), ["PixelData"]),
        (BASE, ["PixelData"]),
        (BASE + PIXELS + b"rubbish", ["(after the end)"]),
        (element(0x00080018, "UI", b"1.2.4\0") + element(0x00100010, "PN", b"DOE^J ") + PIXELS, ["SOPInstanceUID"]),
        (element(0x00080018, "UI", b"1.2.3\0") + element(0x00100010, "PN", b" DOE^J") + PIXELS, ["PatientName"]),
        (BASE + element(0x00100020, "LO", b"") + PIXELS, ["PatientID"]),
        (element(0x00080018, "UI", b"1.2.3\0") + PIXELS, ["PatientName"]),
    ],
)
def test_every_other_difference_is_named(other: bytes, named: list[str]) -> None:
    assert names((BASE + PIXELS, ELE), (other, ELE)) == named
    assert names((other, ELE), (BASE + PIXELS, ELE)) == named


def test_a_sequence_in_un_equals_a_declared_one() -> None:
    item = implicit(0x00091001, b"ab")
    within = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    nested = element(0x00091001, "LO", b"ab")
    as_sequence = element(0x00091010, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(nested)) + nested)
    open_un = (
        struct.pack("<HH2sxxI", 0x0009, 0x1010, b"UN", 0xFFFFFFFF)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )  # fmt: skip
    forms_of_both = [
        (BASE + element(0x00091010, "UN", within), ELE),
        (BASE + as_sequence, ELE),
        (BASE + open_un, ELE),
        (implicit(0x00080018, b"1.2.3\0") + implicit(0x00100010, b"DOE^J") + implicit(0x00091010, within), ILE),
    ]
    for left in forms_of_both:
        for right in forms_of_both:
            assert names(left, right) == []


def fragments(*pieces: bytes, table: bytes = b"") -> bytes:
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece for piece in (table, *pieces))
    head = struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF)
    return head + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def test_fragments_are_the_same_when_their_bytes_are() -> None:
    jpeg = "1.2.840.10008.1.2.4.50"
    one = BASE + fragments(b"abcd", b"ef")
    assert is_same((one, jpeg), (BASE + fragments(b"abcd", b"ef", table=bytes(4)), jpeg))
    assert not is_same((one, jpeg), (BASE + fragments(b"abcd", b"eg"), jpeg))
    assert not is_same((one, jpeg), (BASE + fragments(b"abcd"), jpeg))
    assert not is_same((one, jpeg), (BASE + element(0x7FE00010, "OB", b"abcdef"), ELE))


def test_a_cut_value_differs_from_the_whole_one_even_if_that_ends_with_zeros() -> None:
    whole = BASE + element(0x7FE00010, "OW", bytes(100))
    assert not is_same((whole, ELE), (whole[:-20], ELE))
    assert not is_same((whole[:-10], ELE), (whole[:-20], ELE))


def test_a_hundred_sequences_within_each_other_are_compared() -> None:
    begin = struct.pack("<HHIHHI", 0x0040, 0x0275, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 100
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * 100
    nested = begin + implicit(0x00400007, b"a ") + end
    assert is_same((nested, ILE), (nested, ILE))
    other = begin + implicit(0x00400007, b"b ") + end
    [difference] = differences((nested, ILE), (other, ILE))
    assert len(difference.path) == 100


def test_too_deep_or_too_many_elements_are_not_compared() -> None:
    deep = struct.pack("<HHIHHI", 0x0040, 0x0275, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 1000
    with pytest.raises(DataSetError):
        is_same((deep, ILE), (deep, ILE))
    many = b"".join(element(0x00090000 + number, "LO", b"") for number in range(0x1001, 0x1020))
    sides = [Contents(Whole(many), transfer_syntax.of(ELE), elements_max=10) for _ in range(2)]
    with pytest.raises(DataSetError, match="too many"):
        list(Comparison(*sides).differences())
