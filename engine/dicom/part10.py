"""Reads and writes the preamble and File Meta Information of DICOM files. Does not read the data set after them.

    0          128      132                                  data_set_offset
    +----------+--------+------------------------------------+----------------
    | preamble | "DICM" | group 0002, Explicit VR LE         | data set, in the transfer syntax of (0002,0010)
    +----------+--------+------------------------------------+----------------

Reading tolerates the faults of real files: no preamble; no File Meta Information or no transfer syntax (it is guessed
from the first elements); a wrong or missing group length (the group ends at the first element of another group).
Writing follows PS3.10 section 7.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from engine.errors import DataSetError

from . import tags, transfer_syntax, uids
from .elements import walk
from .transfer_syntax import BIG_ENDIAN, EXPLICIT_VR

if TYPE_CHECKING:
    from typing_extensions import Buffer

PREAMBLE_BYTES: Final = 128
MAGIC: Final = b"DICM"
FILE_META_BYTES_MAX: Final = 64 << 10
"""The start of a file that contains its File Meta Information; only private information (0002,0102) could exceed it."""

_BEFORE_LENGTH = bytes(PREAMBLE_BYTES) + MAGIC + struct.pack("<HH2sH", 0x0002, 0x0000, b"UL", 4)
"""The constant bytes before the value of File Meta Information Group Length."""
_AE_TITLES = tags.SourceApplicationEntityTitle, tags.SendingApplicationEntityTitle, tags.ReceivingApplicationEntityTitle

_GROUP_2 = b"\x02\x00"
_VERSION = b"\x00\x01"
_GUESSED_ELEMENTS = 3
_GUESSED_LENGTH_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class FileMeta:
    """The File Meta Information of a file; a missing text is ""."""

    media_storage_sop_class_uid: str
    media_storage_sop_instance_uid: str
    transfer_syntax_uid: str
    """From the file, else guessed."""
    is_guessed: bool
    """Whether the transfer syntax was guessed."""
    implementation_class_uid: str
    implementation_version_name: str
    source_ae_title: str
    data_set_offset: int


def read_file_meta(head: Buffer) -> FileMeta:
    """Reads the start of a file: its first FILE_META_BYTES_MAX, or all of it. Raises DataSetError."""
    view = memoryview(head)
    end = _group_offset(view)
    values: dict[int, str] = {}
    while bytes(view[end : end + 2]) == _GROUP_2:
        element = next(walk(view, EXPLICIT_VR, end), None)
        if element is None:
            break
        end = element.value_offset + element.length
        values[element.tag] = bytes(view[element.value_offset : end]).decode("ascii", "replace").strip(" \0")
    uid = values.get(tags.TransferSyntaxUID, "")
    return FileMeta(
        media_storage_sop_class_uid=values.get(tags.MediaStorageSOPClassUID, ""),
        media_storage_sop_instance_uid=values.get(tags.MediaStorageSOPInstanceUID, ""),
        transfer_syntax_uid=uid or _guess_transfer_syntax(view, end),
        is_guessed=not uid,
        implementation_class_uid=values.get(tags.ImplementationClassUID, ""),
        implementation_version_name=values.get(tags.ImplementationVersionName, ""),
        source_ae_title=values.get(tags.SourceApplicationEntityTitle, ""),
        data_set_offset=end,
    )


def _group_offset(view: memoryview) -> int:
    """The offset of the first element: after preamble and magic, after the magic alone, or 0."""
    if bytes(view[PREAMBLE_BYTES : PREAMBLE_BYTES + 4]) == MAGIC:
        return PREAMBLE_BYTES + 4
    return 4 if bytes(view[:4]) == MAGIC else 0


def _guess_transfer_syntax(view: memoryview, offset: int) -> str:
    """The uncompressed syntax in which the first elements make sense."""
    if len(view) - offset < 8:
        raise DataSetError(f"not a DICOM file: {len(view) - offset} bytes at offset {offset} hold no element")
    little, big = struct.unpack_from("<H", view, offset)[0], struct.unpack_from(">H", view, offset)[0]
    encoding = BIG_ENDIAN if big < little else 0
    if bytes(view[offset + 4 : offset + 6]).isalpha():
        encoding |= EXPLICIT_VR
    if not _makes_sense(view, offset, encoding):
        raise DataSetError(f"not a DICOM file: neither a preamble nor a data element at offset {offset}")
    if encoding & BIG_ENDIAN:
        return transfer_syntax.EXPLICIT_VR_BIG_ENDIAN.uid
    if encoding & EXPLICIT_VR:
        return transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN.uid
    return transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN.uid


def _makes_sense(view: memoryview, offset: int, encoding: int) -> bool:
    """Whether the first elements are plausible: low group numbers, ascending tags, short values."""
    tag_before = 0
    try:
        for count, element in enumerate(walk(view, encoding, offset)):
            if count == _GUESSED_ELEMENTS:
                break
            is_plausible = tag_before < element.tag and 0x0004 <= element.tag >> 16 <= 0x7FFF
            if not is_plausible or element.length > _GUESSED_LENGTH_MAX:
                return False
            tag_before = element.tag
    except DataSetError:
        return False
    return tag_before != 0


def write_file_meta(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    *,
    source_ae_title: str = "",
    sending_ae_title: str = "",
    receiving_ae_title: str = "",
) -> bytes:
    """Preamble, magic and group 0002: the head that makes a data set a file."""
    ae_titles = source_ae_title, sending_ae_title, receiving_ae_title
    before, after = _around_instance_uid(sop_class_uid, transfer_syntax_uid, ae_titles)
    group = before + _text_element(tags.MediaStorageSOPInstanceUID, sop_instance_uid) + after
    return _BEFORE_LENGTH + len(group).to_bytes(4, "little") + group


@lru_cache(maxsize=256)
def _around_instance_uid(
    sop_class_uid: str, transfer_syntax_uid: str, ae_titles: tuple[str, str, str]
) -> tuple[bytes, bytes]:
    """The bytes of the group before and after SOP Instance UID. Cached: most instances of a study have the same."""
    version = struct.pack("<HH2sxxI", 0x0002, 0x0001, b"OB", len(_VERSION)) + _VERSION
    after = [
        _text_element(tags.TransferSyntaxUID, transfer_syntax_uid),
        _text_element(tags.ImplementationClassUID, uids.IMPLEMENTATION_CLASS_UID),
        _text_element(tags.ImplementationVersionName, uids.IMPLEMENTATION_VERSION_NAME),
        *(_text_element(tag, title) for tag, title in zip(_AE_TITLES, ae_titles, strict=True) if title),
    ]
    return version + _text_element(tags.MediaStorageSOPClassUID, sop_class_uid), b"".join(after)


def _text_element(tag: int, text: str) -> bytes:
    """A short element of ASCII text, padded to an even length by the rule of its VR."""
    vr = tags.vr_of(tag)
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
