"""Deterministic synthetic instances: CT 512x512x16, MR 256x256x16 and tiny ones, as raw Explicit VR Little Endian.

A `Template` is one data set with the offsets of its patchable values. Every patchable value has a fixed length, so a
sender makes the next instance by overwriting a few bytes and encodes nothing again. UIDs are ordered numbers:

    1.2.826.0.1.3680043.10.1599.9 .1SSSSSSSSSSS     study     42 bytes
    ...                           .1RRRR            series    48 bytes
    ...                           .1IIIIII          instance  56 bytes

Everything stored by these programs can be found again: its UIDs begin with UID_ROOT, and its Issuer of Patient ID is
ISSUER.

Pixel data is seeded noise of 12 bits, which does not compress. All instances of a template have the same pixels, so
these loads do not measure servers that compress or deduplicate by content.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from perf.harness import PerfError

UID_ROOT = b"1.2.826.0.1.3680043.10.1599.9"
ISSUER = b"FILMROOM BENCH"
SEED = 20240229

EXPLICIT_LITTLE_ENDIAN = b"1.2.840.10008.1.2.1"
IMPLICIT_LITTLE_ENDIAN = b"1.2.840.10008.1.2"

STUDY_UID_BYTES, SERIES_UID_BYTES, INSTANCE_UID_BYTES = 42, 48, 56

SOP_CLASS_OF_MODALITY = {
    "CT": b"1.2.840.10008.5.1.4.1.1.2",
    "MR": b"1.2.840.10008.5.1.4.1.1.4",
    "US": b"1.2.840.10008.5.1.4.1.1.6.1",
    "CR": b"1.2.840.10008.5.1.4.1.1.1",
    "DX": b"1.2.840.10008.5.1.4.1.1.1.1",
    "MG": b"1.2.840.10008.5.1.4.1.1.1.2",
    "PT": b"1.2.840.10008.5.1.4.1.1.128",
    "NM": b"1.2.840.10008.5.1.4.1.1.20",
    "OT": b"1.2.840.10008.5.1.4.1.1.7.3",
}


def study_uid(study: int) -> bytes:
    return b"%s.1%011d" % (UID_ROOT, study)


def series_uid(study: int, series: int) -> bytes:
    return b"%s.1%011d.1%04d" % (UID_ROOT, study, series)


def instance_uid(study: int, series: int, instance: int) -> bytes:
    return b"%s.1%011d.1%04d.1%06d" % (UID_ROOT, study, series, instance)


# template ----------------------------------------------------------------------------------------

# name → fixed length; the tag is where the value stands in the data set.
PATCHABLE: dict[str, tuple[int, int]] = {
    "sop_instance_uid": (0x00080018, INSTANCE_UID_BYTES),
    "study_date": (0x00080020, 8),
    "study_time": (0x00080030, 6),
    "accession_number": (0x00080050, 12),
    "institution": (0x00080080, 24),
    "referring_physician": (0x00080090, 24),
    "description": (0x00081030, 24),
    "department": (0x00081040, 16),
    "patient_name": (0x00100010, 32),
    "patient_id": (0x00100020, 18),
    "birth_date": (0x00100030, 8),
    "sex": (0x00100040, 2),
    "study_uid": (0x0020000D, STUDY_UID_BYTES),
    "series_uid": (0x0020000E, SERIES_UID_BYTES),
    "study_id": (0x00200010, 10),
    "series_number": (0x00200011, 6),
    "instance_number": (0x00200013, 8),
}


@dataclass(frozen=True, slots=True)
class Template:
    """A data set and the offsets of its patchable values."""

    name: str
    sop_class_uid: bytes
    data_set: bytes
    offsets: dict[str, tuple[int, int]]
    """Name of a patchable value → (offset in the data set, length)."""
    element_count: int
    pixel_data_offset: int
    """Offset of the tag (7FE0,0010)."""


@cache
def template(name: str) -> Template:
    """`ct`, `mr`, `mg` (27 MB), `ct-head` (a CT of 8x8 pixels), or `tiny` / `tiny-<modality>`. Raises PerfError."""
    if name == "ct":
        return _build(name, "CT", rows=512, columns=512, full=True)
    if name == "mr":
        return _build(name, "MR", rows=256, columns=256, full=True)
    if name == "mg":
        return _build(name, "MG", rows=4096, columns=3328, full=True)
    if name == "ct-head":
        return _build(name, "CT", rows=8, columns=8, full=True)
    modality = name.removeprefix("tiny").removeprefix("-").upper() or "CT"
    if not name.startswith("tiny") or modality not in SOP_CLASS_OF_MODALITY:
        raise PerfError(f"there is no template {name!r}; there are ct, mr, mg, ct-head and tiny-<modality>")
    return _build(name, modality, rows=8, columns=8, full=False)


def _build(name: str, modality: str, *, rows: int, columns: int, full: bool) -> Template:
    sop_class_uid = SOP_CLASS_OF_MODALITY[modality]
    elements = _header(modality, sop_class_uid, rows, columns)
    if full:
        elements += _acquisition(modality)
    elements.sort(key=lambda element: element[0])
    data_set = bytearray()
    offsets: dict[str, tuple[int, int]] = {}
    name_of_tag = {tag: (key, length) for key, (tag, length) in PATCHABLE.items()}
    for tag, vr, value in elements:
        encoded = element_bytes(tag, vr, value)
        if tag in name_of_tag:
            key, length = name_of_tag[tag]
            offsets[key] = (len(data_set) + len(encoded) - length, length)
        data_set += encoded
    pixel_data_offset = len(data_set)
    data_set += element_bytes(0x7FE00010, b"OW", _pixels(rows * columns))
    return Template(name, sop_class_uid, bytes(data_set), offsets, len(elements) + 1, pixel_data_offset)


def _pixels(count: int) -> bytes:
    """`count` little endian 16-bit words of 12 random bits."""
    rng = random.Random(SEED)
    words = bytearray(2 * count)
    words[0::2] = rng.randbytes(count)
    words[1::2] = rng.randbytes(count).translate(bytes(value & 0x0F for value in range(256)))
    return bytes(words)


# encoding (PS3.5 7.1.2) --------------------------------------------------------------------------

LONG_VRS = frozenset((b"OB", b"OW", b"OL", b"OV", b"OF", b"OD", b"SQ", b"UN", b"UC", b"UR", b"UT"))


def element_bytes(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element in Explicit VR Little Endian, padded to even length."""
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB", b"UN") else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in LONG_VRS:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def sequence_value(*items: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """The value of a sequence of defined length."""
    value = b""
    for item in items:
        encoded = b"".join(element_bytes(tag, vr, content) for tag, vr, content in item)
        value += struct.pack("<HHI", 0xFFFE, 0xE000, len(encoded)) + encoded
    return value


def _code(value: bytes, scheme: bytes, meaning: bytes) -> bytes:
    return sequence_value([(0x00080100, b"SH", value), (0x00080102, b"SH", scheme), (0x00080104, b"LO", meaning)])


def _blank(key: str, uid: bool = False) -> bytes:
    return (b"0" if uid else b" ") * PATCHABLE[key][1]


def _header(modality: str, sop_class_uid: bytes, rows: int, columns: int) -> list[tuple[int, bytes, bytes]]:
    """The elements of every instance: identification, and the description of its pixels."""
    return [
        (0x00080005, b"CS", b"ISO_IR 100"),
        (0x00080008, b"CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        (0x00080016, b"UI", sop_class_uid),
        (0x00080018, b"UI", _blank("sop_instance_uid", uid=True)),
        (0x00080020, b"DA", _blank("study_date")),
        (0x00080030, b"TM", _blank("study_time")),
        (0x00080050, b"SH", _blank("accession_number")),
        (0x00080060, b"CS", modality.encode()),
        (0x00080070, b"LO", b"Synthetic Imaging"),
        (0x00080080, b"LO", _blank("institution")),
        (0x00080090, b"PN", _blank("referring_physician")),
        (0x00081030, b"LO", _blank("description")),
        (0x0008103E, b"LO", b"Axial 1.0 soft tissue"),
        (0x00081040, b"LO", _blank("department")),
        (0x00100010, b"PN", _blank("patient_name")),
        (0x00100020, b"LO", _blank("patient_id")),
        (0x00100021, b"LO", ISSUER),
        (0x00100030, b"DA", _blank("birth_date")),
        (0x00100040, b"CS", _blank("sex")),
        (0x0020000D, b"UI", _blank("study_uid", uid=True)),
        (0x0020000E, b"UI", _blank("series_uid", uid=True)),
        (0x00200010, b"SH", _blank("study_id")),
        (0x00200011, b"IS", _blank("series_number")),
        (0x00200013, b"IS", _blank("instance_number")),
        (0x00280002, b"US", struct.pack("<H", 1)),
        (0x00280004, b"CS", b"MONOCHROME2"),
        (0x00280010, b"US", struct.pack("<H", rows)),
        (0x00280011, b"US", struct.pack("<H", columns)),
        (0x00280100, b"US", struct.pack("<H", 16)),
        (0x00280101, b"US", struct.pack("<H", 12)),
        (0x00280102, b"US", struct.pack("<H", 11)),
        (0x00280103, b"US", struct.pack("<H", 0)),
    ]


def _acquisition(modality: str) -> list[tuple[int, bytes, bytes]]:
    """The elements that a scanner adds."""
    day, time = b"20240229", b"101112.123456"
    elements = [
        (0x00080012, b"DA", day),
        (0x00080013, b"TM", time),
        (0x00080021, b"DA", day),
        (0x00080022, b"DA", day),
        (0x00080023, b"DA", day),
        (0x00080031, b"TM", time),
        (0x00080032, b"TM", time),
        (0x00080033, b"TM", time),
        (0x00080081, b"ST", b"1 Example Street, Example City"),
        (0x00081010, b"SH", b"SCANNER1"),
        (0x00081032, b"SQ", _code(b"CTABDPEL", b"99EXAMPLE", b"CT abdomen and pelvis with contrast")),
        (0x00081050, b"PN", b"Reader^Anne^^Dr."),
        (0x00081070, b"PN", b"Operator^Otto"),
        (0x00081090, b"LO", b"Definition 64"),
        (
            0x00081110,
            b"SQ",
            sequence_value([(0x00081150, b"UI", b"1.2.840.10008.3.1.2.3.1"), (0x00081155, b"UI", UID_ROOT + b".5.1")]),
        ),
        (0x00090010, b"LO", b"FILMROOM PERF"),
        (0x00091001, b"LO", b"private text"),
        (0x00091002, b"UN", bytes(range(64))),
        (0x00101010, b"AS", b"054Y"),
        (0x00101020, b"DS", b"1.74"),
        (0x00101030, b"DS", b"78.5"),
        (0x001021B0, b"LT", b"No known allergies."),
        (0x00180015, b"CS", b"ABDOMEN"),
        (0x00180050, b"DS", b"1.0"),
        (0x00181000, b"LO", b"12345"),
        (0x00181020, b"LO", b"synthetic 1.0"),
        (0x00181030, b"LO", b"Abdomen routine"),
        (0x00185100, b"CS", b"HFS"),
        (0x00200012, b"IS", b"2"),
        (0x00200032, b"DS", b"-180.5\\-321.5\\-612.25"),
        (0x00200037, b"DS", b"1\\0\\0\\0\\1\\0"),
        (0x00200052, b"UI", UID_ROOT + b".7.1"),
        (0x00201040, b"LO", b""),
        (0x00201041, b"DS", b"-612.25"),
        (0x00204000, b"LT", b"synthetic"),
        (0x00280030, b"DS", b"0.705078125\\0.705078125"),
        (0x00281050, b"DS", b"40\\300"),
        (0x00281051, b"DS", b"400\\1500"),
        (0x00281055, b"LO", b"SOFT\\BONE"),
        (0x00400244, b"DA", day),
        (0x00400245, b"TM", time),
        (0x00400253, b"SH", b"PPS0001"),
        (0x00400254, b"LO", b"CT abdomen"),
        (0x00400275, b"SQ", sequence_value([(0x00400007, b"LO", b"CT abdomen"), (0x00400009, b"SH", b"SPS0001")])),
    ]
    if modality == "MR":
        return [
            *elements,
            (0x00180020, b"CS", b"SE"),
            (0x00180021, b"CS", b"SK"),
            (0x00180023, b"CS", b"2D"),
            (0x00180080, b"DS", b"500.0"),
            (0x00180081, b"DS", b"12.0"),
            (0x00180087, b"DS", b"3.0"),
            (0x00181314, b"DS", b"90"),
        ]
    return [
        *elements,
        (0x00180060, b"DS", b"120"),
        (0x00180090, b"DS", b"500"),
        (0x00181100, b"DS", b"361"),
        (0x00181120, b"DS", b"0"),
        (0x00181151, b"IS", b"240"),
        (0x00181152, b"IS", b"120"),
        (0x00181210, b"SH", b"B30f"),
        (0x00281052, b"DS", b"-1024"),
        (0x00281053, b"DS", b"1"),
    ]
