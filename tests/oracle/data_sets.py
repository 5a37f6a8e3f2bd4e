"""Data sets by hand: plain values and items in, bytes in any encoding out. It judges encoders and baits decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.dicom import tags
from engine.dicom.transfer_syntax import BIG_ENDIAN, EXPLICIT_VR

from .elements import LONG, UNITS, swapped

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass(frozen=True)
class Item:
    elements: Sequence[Plain]
    undefined: bool = False


@dataclass(frozen=True)
class Plain:
    """One element; a sequence has items, everything else a value in little endian."""

    tag: int
    vr: str
    value: bytes | Sequence[Item]
    undefined: bool = False


def text(tag: int, value: str) -> Plain:
    vr = tags.vr_of(tag)
    raw = value.encode()
    return Plain(tag, vr, raw + (b"\0" if vr == "UI" else b" ") * (len(raw) % 2))


def us(tag: int, value: int) -> Plain:
    return Plain(tag, "US", value.to_bytes(2, "little"))


def encode(elements: Sequence[Plain], encoding: int) -> bytes:
    return b"".join(encode_element(element, encoding) for element in elements)


def encode_element(element: Plain, encoding: int) -> bytes:
    if isinstance(element.value, bytes):
        value = swapped(element.value, UNITS.get(element.vr, 1)) if encoding & BIG_ENDIAN else element.value
        return header(element.tag, element.vr, len(value), encoding) + value
    value = b"".join(encode_item(item, encoding) for item in element.value)
    if not element.undefined:
        return header(element.tag, element.vr, len(value), encoding) + value
    return header(element.tag, element.vr, 0xFFFFFFFF, encoding) + value + header(SEQUENCE_END, "", 0, encoding)


def encode_item(item: Item, encoding: int) -> bytes:
    value = encode(item.elements, encoding)
    if not item.undefined:
        return header(ITEM, "", len(value), encoding) + value
    return header(ITEM, "", 0xFFFFFFFF, encoding) + value + header(ITEM_END, "", 0, encoding)


def header(tag: int, vr: str, length: int, encoding: int) -> bytes:
    order = "big" if encoding & BIG_ENDIAN else "little"
    start = (tag >> 16).to_bytes(2, order) + (tag & 0xFFFF).to_bytes(2, order)  # type: ignore[arg-type]
    if not vr or not encoding & EXPLICIT_VR:
        return start + length.to_bytes(4, order)  # type: ignore[arg-type]
    if vr in LONG:
        return start + vr.encode() + b"\0\0" + length.to_bytes(4, order)  # type: ignore[arg-type]
    return start + vr.encode() + length.to_bytes(2, order)  # type: ignore[arg-type]


def ct_head(*, undefined: bool = False) -> list[Plain]:
    """A small but whole CT instance, with two of the sequences that are kept and private elements around."""
    code = Item([text(tags.CodeValue, "CT1"), text(tags.CodeMeaning, "CT head")], undefined)
    request = Item(
        [
            text(tags.RequestedProcedureID, "RP1"),
            Plain(tags.ScheduledProtocolCodeSequence, "SQ", [code, code], undefined),
            text(tags.ScheduledProcedureStepID, "SPS1"),
        ],
        undefined,
    )
    return [
        text(tags.SpecificCharacterSet, "ISO_IR 100"),
        text(tags.ImageType, "ORIGINAL\\PRIMARY\\AXIAL"),
        text(tags.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2"),
        text(tags.SOPInstanceUID, "1.2.3.4.5"),
        text(tags.StudyDate, "20260102"),
        text(tags.AccessionNumber, ""),
        text(tags.Modality, "CT"),
        Plain(tags.ProcedureCodeSequence, "SQ", [code], undefined),
        Plain(0x00091002, "SQ", [Item([text(tags.PatientID, "not this one")], undefined)], True),
        text(tags.PatientName, "Doe^John"),
        text(tags.PatientID, "4711"),
        text(tags.StudyInstanceUID, "1.2.3.4"),
        text(tags.SeriesInstanceUID, "1.2.3.44"),
        text(tags.InstanceNumber, "7"),
        us(tags.Rows, 512),
        us(tags.Columns, 384),
        us(tags.BitsAllocated, 16),
        Plain(tags.RequestAttributesSequence, "SQ", [request], undefined),
        Plain(0x00410010, "LO", b"SOMEBODY"),
        Plain(0x00411001, "UN", b"\1\2\3\4"),
        Plain(tags.PixelData, "OW", bytes(range(64))),
    ]
