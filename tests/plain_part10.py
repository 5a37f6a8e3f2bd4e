"""Writes the data sets that tests make, with pydicom's bytes in a tenth of its time; leaves to it what is not plain.

pydicom looks at each element a dozen times, which took longer in many tests than what they test. Plain is a data set of
native pixels and short values in ASCII or UTF-8. `test_plain_part10.py` compares.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import PersonName

TEXT = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI"}
NUMBERS = {"US": struct.Struct("<H"), "UL": struct.Struct("<L")}
BYTES = {"OB", "OW", "UN"}
LONG = BYTES | {"SQ"}
ANY_SCRIPT = {"LO", "LT", "PN", "SH", "ST"}
SHORT_MAX = 0xFFFF


def data_set(ds: Dataset) -> bytes | None:
    """The bytes of a plain data set, without file meta; None if pydicom is to write it."""
    syntax = getattr(ds, "file_meta", Dataset()).get("TransferSyntaxUID")
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    return _elements(ds, syntax == ExplicitVRLittleEndian, ds.get("SpecificCharacterSet") == "ISO_IR 192")


def _elements(ds: Dataset, is_explicit: bool, is_utf8: bool) -> bytes | None:
    if ds.get("SpecificCharacterSet") not in (None, "ISO_IR 192", "ISO_IR 100"):
        return None  # others have two of the signs of ASCII elsewhere
    parts = []
    for tag in sorted(ds.keys()):
        element = ds.get_item(tag)
        is_plain = isinstance(element, DataElement) and tag.element != 0 and tag.group > 2
        value = _value(element, is_explicit, is_utf8) if is_plain else None
        if value is None:
            return None
        head = struct.pack("<HH", tag.group, tag.element)
        if not is_explicit:
            head += struct.pack("<L", len(value))
        elif element.VR in LONG:
            head += struct.pack("<2sHL", element.VR.encode(), 0, len(value))
        elif len(value) <= SHORT_MAX:
            head += struct.pack("<2sH", element.VR.encode(), len(value))
        else:
            return None
        parts += (head, value)
    return b"".join(parts)


def _value(element: DataElement, is_explicit: bool, is_utf8: bool) -> bytes | None:
    vr, value = element.VR, element.value
    if vr in TEXT and value is None:
        return b""
    if vr in TEXT:
        values = value if isinstance(value, MultiValue) else [value]
        if not all(isinstance(one, str | int | float | PersonName) for one in values):
            return None
        text = "\\".join(map(str, values))
        if not (text.isascii() or (is_utf8 and vr in ANY_SCRIPT)) or (vr == "PN" and "=" in text) or "\x1b" in text:
            return None
        encoded = text.encode()
        return encoded + ((b"\0" if vr == "UI" else b" ") if len(encoded) % 2 else b"")
    if vr in NUMBERS and type(value) is int:
        return NUMBERS[vr].pack(value)
    if vr in BYTES and isinstance(value, bytes) and len(value) % 2 == 0 and not element.is_undefined_length:
        return value
    if vr == "SQ" and not element.is_undefined_length:
        return _items(value, is_explicit, is_utf8)
    return None


def _items(items: Sequence[Dataset], is_explicit: bool, is_utf8: bool) -> bytes | None:
    parts = []
    for item in items:
        content = _elements(item, is_explicit, is_utf8)
        has_own = "SpecificCharacterSet" in item or getattr(item, "is_undefined_length_sequence_item", False)
        if content is None or has_own:
            return None
        parts += (struct.pack("<HHL", 0xFFFE, 0xE000, len(content)), content)
    return b"".join(parts)


def head(ds: Dataset) -> bytes | None:
    """Preamble and file meta, where the file meta is as `samples.instance` makes it; None if it is not."""
    meta = ds.file_meta
    uids = [meta.get(f"MediaStorageSOP{name}UID") for name in ("Class", "Instance")]
    if len(meta) != 3 or uids != [ds.get("SOPClassUID"), ds.get("SOPInstanceUID")]:
        return None
    if getattr(ds, "preamble", None) or not all(UID(uid).is_valid for uid in uids):
        return None
    place = "9" * len(uids[1])
    made = _head(str(uids[0]), place, str(meta.TransferSyntaxUID))
    return made.replace(place.encode(), uids[1].encode()) if made.count(place.encode()) == 1 else None


@cache
def _head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
    ds.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
