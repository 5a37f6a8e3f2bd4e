"""DICOMDIR, the directory of a medium (PS3.3 Annex F, PS3.10 section 8): reads its file IDs, and writes it.

Touches no file: `media` follows the file IDs, `exporter` lays the files out. Reading takes every directory record that
is in use and refers to a file, and ignores the offsets that link the records, since they are often wrong. Writing uses
the keys that `directory_records` finds in the data sets; a required key that an instance lacks has no value in its
record: nothing is invented.

    group 0002 | File-set ID | offset of the first, of the last PATIENT record | consistency | Directory Record Sequence
                                                                                                       |
    PATIENT ──next──► PATIENT                        one item a record, depth first:  PATIENT STUDY SERIES
       │lower                                        IMAGE IMAGE SERIES …; "next" and "lower" are offsets of items,
     STUDY ──► STUDY     SERIES below it, then IMAGE  counted from the first byte of the file
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from engine.archive.interchange import directory_records as records
from engine.dicom import elements, part10, tags, transfer_syntax, uids
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError

if TYPE_CHECKING:
    from typing_extensions import Buffer

NAME: Final = "DICOMDIR"

_IN_USE: Final = 0xFFFF
_RECORD_FIXED = struct.Struct("<HH2sHI HH2sHH HH2sHI")
"""(0004,1400) next, (0004,1410) in use, (0004,1420) lower: the first three elements of every record."""
_ITEM = struct.Struct("<HHI")
_OFFSETS_MAX: Final = 0xFFFFFFFF


# Reading -----------------------------------------------------------------------------------------


def file_ids(data: Buffer) -> Iterator[tuple[str, ...]]:
    """The components of each Referenced File ID (0004,1500), in the order of the records. Raises DataSetError.

    `data` is the whole file. The components are not checked: they may be unsafe names.
    """
    meta = part10.read_file_meta(data)
    syntax = transfer_syntax.of(meta.transfer_syntax_uid)
    if syntax.deflated or syntax.big_endian:
        raise DataSetError(f"a DICOMDIR in {syntax.name} violates PS3.10 8.6 and is not read")
    view = memoryview(data)
    encoding = elements.encoding_of(view[meta.data_set_offset :], syntax)
    for element in elements.walk(view, encoding, meta.data_set_offset):
        if element.tag == tags.DirectoryRecordSequence:
            yield from _file_ids_of_records(view, element, encoding)
            return
    raise DataSetError("Directory Record Sequence (0004,1220) is missing")


def _file_ids_of_records(view: memoryview, sequence: elements.Element, encoding: int) -> Iterator[tuple[str, ...]]:
    end = sequence.value_offset + sequence.length
    for item in elements.walk(view, encoding, sequence.value_offset, end):
        item_encoding = elements.item_encoding(view, item, encoding)
        in_use, file_id = _IN_USE, ""
        for element in elements.walk(view, item_encoding, item.value_offset, item.value_offset + item.length):
            value = bytes(view[element.value_offset : element.value_offset + element.length])
            if element.tag == tags.RecordInUseFlag and len(value) == 2:
                in_use = int.from_bytes(value, "little")
            elif element.tag == tags.ReferencedFileID:
                file_id = value.decode("latin-1").strip(" \0")
                break
        if in_use and file_id:
            yield tuple(component.strip(" ") for component in file_id.split("\\"))


# Writing -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Record:
    """One directory record: its item without offsets, and the records below it."""

    body: bytes
    """The elements after (0004,1420)."""
    below: list[_Record] = field(default_factory=list)
    known: dict[object, _Record] = field(default_factory=dict)
    offset: int = 0

    @property
    def item_bytes(self) -> int:
        """The length of the record in the sequence."""
        return _ITEM.size + _RECORD_FIXED.size + len(self.body)


class DirectoryBuilder:
    """Gathers the records of a medium; some 300 bytes of memory an instance."""

    def __init__(self, file_set_id: str = "") -> None:
        self._file_set_id = file_set_id
        self._root = _Record(b"")

    def add(
        self,
        keys: dict[int, bytes],
        file_id: Sequence[str],
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        study_instance_uid: str,
        series_instance_uid: str,
    ) -> None:
        """Adds an instance at `file_id`; `keys` are from `keys_of`."""
        patient_key = records.patient_of(keys)
        patient = self._child(self._root, patient_key, lambda: _body("PATIENT", keys, records.PATIENT_KEYS))
        study = self._child(patient, study_instance_uid, lambda: _body("STUDY", keys, records.STUDY_KEYS))
        series = self._child(study, series_instance_uid, lambda: _body("SERIES", keys, records.SERIES_KEYS))
        kind = records.record_type(sop_class_uid)
        reference = {
            tags.ReferencedFileID: _element(tags.ReferencedFileID, "\\".join(file_id)),
            tags.ReferencedSOPClassUIDInFile: _element(tags.ReferencedSOPClassUIDInFile, sop_class_uid),
            tags.ReferencedSOPInstanceUIDInFile: _element(tags.ReferencedSOPInstanceUIDInFile, sop_instance_uid),
            tags.ReferencedTransferSyntaxUIDInFile: _element(
                tags.ReferencedTransferSyntaxUIDInFile, transfer_syntax_uid
            ),
        }
        series.below.append(_Record(_body(kind, keys, records.LEAF_KEYS[kind], reference)))

    def encode(self, sop_instance_uid: str) -> Iterator[bytes]:
        """The file DICOMDIR, piece by piece. Raises DataSetError if it exceeds 4 GiB."""
        head = part10.write_file_meta(
            uids.MediaStorageDirectoryStorage, sop_instance_uid, EXPLICIT_VR_LITTLE_ENDIAN.uid
        )
        head += _element(tags.FileSetID, self._file_set_id)
        # Two offsets, the consistency flag and the sequence's header come before the first item.
        records = list(self._walk(self._root))
        at = len(head) + 12 + 12 + 10 + 12
        for record in records:
            record.offset = at
            at += record.item_bytes
        if at > _OFFSETS_MAX:
            raise DataSetError(f"a DICOMDIR of {len(records)} records exceeds 4 GiB")
        top = self._root.below
        first, last = (top[0].offset, top[-1].offset) if top else (0, 0)
        yield head + b"".join(
            (
                struct.pack("<HH2sHI", 0x0004, 0x1200, b"UL", 4, first),
                struct.pack("<HH2sHI", 0x0004, 0x1202, b"UL", 4, last),
                struct.pack("<HH2sHH", 0x0004, 0x1212, b"US", 2, 0),
                struct.pack("<HH2sxxI", 0x0004, 0x1220, b"SQ", sum(record.item_bytes for record in records)),
            )
        )
        yield from self._items(self._root)

    @staticmethod
    def _child(parent: _Record, key: object, body: Callable[[], bytes]) -> _Record:
        record = parent.known.get(key)
        if record is None:
            record = parent.known[key] = _Record(body())
            parent.below.append(record)
        return record

    def _walk(self, parent: _Record) -> Iterator[_Record]:
        for record in parent.below:
            yield record
            yield from self._walk(record)

    def _items(self, parent: _Record) -> Iterator[bytes]:
        for record, next_record in zip_longest(parent.below, parent.below[1:]):
            offsets = _RECORD_FIXED.pack(
                0x0004, 0x1400, b"UL", 4, next_record.offset if next_record else 0,
                0x0004, 0x1410, b"US", 2, _IN_USE,
                0x0004, 0x1420, b"UL", 4, record.below[0].offset if record.below else 0,
            )  # fmt: skip
            yield _ITEM.pack(0xFFFE, 0xE000, record.item_bytes - _ITEM.size) + offsets + record.body
            yield from self._items(record)


def _body(
    kind: str, keys: dict[int, bytes], key_tags: Sequence[int], reference: dict[int, bytes] | None = None
) -> bytes:
    """The elements of a record from its type on, in ascending order; a missing key gets no value."""
    present_tags = [tag for tag in key_tags if tag in keys or tag not in records.CONDITIONAL]
    values = {tag: keys.get(tag) or _element(tag, "") for tag in present_tags}
    values[tags.DirectoryRecordType] = _element(tags.DirectoryRecordType, kind)
    if records.CHARACTER_SET in keys:
        values[records.CHARACTER_SET] = keys[records.CHARACTER_SET]
    values |= reference or {}
    return b"".join(values[tag] for tag in sorted(values))


def _element(tag: int, text: str) -> bytes:
    """An element of ASCII text, padded according to its VR; a sequence has no items."""
    vr = tags.vr_of(tag)
    if vr == "SQ":
        return struct.pack("<HH2sxxI", tag >> 16, tag & 0xFFFF, b"SQ", 0)
    value = text.encode("ascii", "replace")
    value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
