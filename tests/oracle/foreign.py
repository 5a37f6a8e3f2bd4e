"""What pydicom reads in a file: the judge from outside."""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement

from engine.dicom import part10, tags, transfer_syntax
from engine.dicom.transfer_syntax import TransferSyntax
from engine.errors import DataSetError

SOP_CLASS_UID, SOP_INSTANCE_UID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
FILE_META = part10.write_file_meta(SOP_CLASS_UID, SOP_INSTANCE_UID, "")

# (7FE0,0008), (7FE0,0009) and (7FE0,0010) in either byte order.
PIXEL_TAG_BYTES = [bytes(order) for e in (8, 9, 16) for order in ((0xE0, 0x7F, e, 0), (0x7F, 0xE0, 0, e))]


@dataclass(frozen=True)
class ForeignFile:
    path: Path
    data: bytes
    """The data set's bytes, by our reading of the file meta."""
    transfer_syntax: TransferSyntax
    dataset: Any
    """pydicom's Dataset of the same bytes, its elements not yet converted."""


def read_data_set(data: bytes, syntax: TransferSyntax) -> Any:
    """pydicom's reading of a bare data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = part10.write_file_meta(SOP_CLASS_UID, SOP_INSTANCE_UID, syntax.uid)
        return pydicom.dcmread(io.BytesIO(meta + data), force=True)


def read_file(path: Path) -> ForeignFile | None:
    """None if either of us cannot read the file at all; pydicom drops everything where fragments end early."""
    raw = path.read_bytes()
    try:
        meta = part10.read_file_meta(raw)
    except DataSetError:
        return None
    syntax = transfer_syntax.of(meta.transfer_syntax_uid)
    data = raw[meta.data_set_offset :]
    try:
        dataset = read_data_set(data, syntax)
    except Exception:  # pydicom raises what it likes on damaged files
        return None
    return ForeignFile(path, data, syntax, dataset) if len(dataset) else None


def raw_value(dataset: Any, tag: int) -> bytes | None:
    """A value as it stood in the file; None if absent or not kept raw (a sequence of undefined length)."""
    if tag not in dataset:
        return None
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        return element.value or b""
    return b"" if element.VR != "SQ" and not element.value else None


def pixel_data_offset(file: ForeignFile) -> int:
    """Offset of the tag of Pixel Data in the data set, inflated if it is deflated."""
    dataset, syntax = file.dataset, file.transfer_syntax
    data = zlib.decompress(file.data, -15) if syntax.deflated else file.data
    for tag in (tags.FloatPixelData, tags.DoubleFloatPixelData, tags.PixelData):
        if tag in dataset:
            element = dataset.get_item(tag)
            start = 0 if syntax.deflated else len(FILE_META) + len(syntax.uid) + len(syntax.uid) % 2
            value_offset = element.value_tell if isinstance(element, RawDataElement) else element.file_tell
            # Some say explicit VR and are implicit: the bytes before the value tell.
            header_bytes = 12 if data[value_offset - start - 12 : value_offset - start - 8] in PIXEL_TAG_BYTES else 8
            return int(value_offset - header_bytes - start)
    return -1
