"""The directory records of an instance on a medium (PS3.3 F.5): the record type and its keys.

Keys are copied from the data set unchanged, in its own character set. Other values are skipped, however long; memory
holds no more than one key element of the data set.

    Verification DateTime    of a verified document: the latest in Verifying Observer Sequence
    Content Sequence         only its items that modify the title (HAS CONCEPT MOD)
    conditional keys         absent if the instance has none; other missing keys have no value
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from engine.dicom import charset, elements, tags
from engine.dicom.reencoding import reencode
from engine.dicom.transfer_syntax import EXPLICIT_VR, TransferSyntax
from engine.errors import DataSetError

if TYPE_CHECKING:
    from typing_extensions import Buffer

INFLATED_BYTES_MAX: Final = 256 << 20
"""The part of a deflated data set that is searched for the keys of its record."""
ELEMENT_BYTES_MAX: Final = 64 << 20
"""A longer element is not copied, and one of undefined length ends the search."""

CHARACTER_SET: Final = tags.SpecificCharacterSet

PATIENT_KEYS: Final = (tags.PatientName, tags.PatientID)
STUDY_KEYS: Final = (
    tags.StudyDate, tags.StudyTime, tags.AccessionNumber, tags.StudyDescription, tags.StudyInstanceUID, tags.StudyID,
)  # fmt: skip
SERIES_KEYS: Final = (tags.Modality, tags.SeriesInstanceUID, tags.SeriesNumber)

_CONTENT: Final = (tags.ContentDate, tags.ContentTime, tags.InstanceNumber)
_LABELLED: Final = (
    tags.ContentDate, tags.ContentTime, tags.InstanceNumber, tags.ContentLabel, tags.ContentDescription,
    tags.ContentCreatorName,
)  # fmt: skip

LEAF_KEYS: Final[dict[str, tuple[int, ...]]] = {
    "IMAGE": (tags.InstanceNumber,),
    "RT DOSE": (tags.InstanceNumber, tags.DoseSummationType),
    "RT STRUCTURE SET": (
        tags.InstanceNumber, tags.StructureSetLabel, tags.StructureSetDate, tags.StructureSetTime,
    ),
    "RT PLAN": (tags.InstanceNumber, tags.RTPlanLabel, tags.RTPlanDate, tags.RTPlanTime),
    "RT TREAT RECORD": (tags.InstanceNumber, tags.TreatmentDate, tags.TreatmentTime),
    "PRESENTATION": (
        tags.InstanceNumber, tags.ContentLabel, tags.ContentDescription, tags.PresentationCreationDate,
        tags.PresentationCreationTime, tags.ContentCreatorName, tags.ReferencedSeriesSequence, tags.BlendingSequence,
    ),
    "WAVEFORM": _CONTENT,
    "SR DOCUMENT": (
        *_CONTENT, tags.VerificationDateTime, tags.ConceptNameCodeSequence, tags.CompletionFlag, tags.VerificationFlag,
        tags.ContentSequence,
    ),
    "KEY OBJECT DOC": (*_CONTENT, tags.ConceptNameCodeSequence, tags.ContentSequence),
    "SPECTROSCOPY": (
        *_CONTENT, tags.ImageType, tags.ReferencedImageEvidenceSequence, tags.NumberOfFrames, tags.Rows, tags.Columns,
        tags.DataPointRows, tags.DataPointColumns,
    ),
    "RAW DATA": _CONTENT,
    "REGISTRATION": _LABELLED,
    "FIDUCIAL": _LABELLED,
    "ENCAP DOC": (
        *_CONTENT, tags.DocumentTitle, tags.HL7InstanceIdentifier, tags.ConceptNameCodeSequence,
        tags.MIMETypeOfEncapsulatedDocument,
    ),
    "VALUE MAP": _LABELLED,
    "STEREOMETRIC": (),
    "PLAN": (),
    "MEASUREMENT": _LABELLED,
    "SURFACE": _LABELLED,
    "SURFACE SCAN": (tags.ContentDate, tags.ContentTime, tags.InstanceNumber),
    "TRACT": _LABELLED,
    "ASSESSMENT": (tags.InstanceCreationDate, tags.InstanceCreationTime, tags.InstanceNumber),
    "RADIOTHERAPY": (tags.InstanceNumber, tags.UserContentLabel, tags.UserContentLongLabel, tags.ContentDescription,
                     tags.ContentCreatorName),
}  # fmt: skip
"""Record type → keys in addition to those of all leaf records (PS3.3 F.5)."""

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_LEAF_TYPES: Final = (
    ("481.2", "RT DOSE"),
    ("481.3", "RT STRUCTURE SET"),
    ("481.5", "RT PLAN"),
    ("481.8", "RT PLAN"),
    ("481.4", "RT TREAT RECORD"),
    ("481.6", "RT TREAT RECORD"),
    ("481.7", "RT TREAT RECORD"),
    ("481.9", "RT TREAT RECORD"),
    ("481.1", "IMAGE"),
    ("481.", "RADIOTHERAPY"),
    ("11.", "PRESENTATION"),
    ("131", "PRESENTATION"),
    ("9.", "WAVEFORM"),
    ("88.59", "KEY OBJECT DOC"),
    ("88.", "SR DOCUMENT"),
    ("78.6", "SR DOCUMENT"),
    ("79.1", "SR DOCUMENT"),
    ("104.", "ENCAP DOC"),
    ("4.2", "SPECTROSCOPY"),
    ("66", "RAW DATA"),
    ("66.1", "REGISTRATION"),
    ("66.3", "REGISTRATION"),
    ("66.2", "FIDUCIAL"),
    ("66.5", "SURFACE"),
    ("66.6", "TRACT"),
    ("67", "VALUE MAP"),
    ("68.1", "SURFACE SCAN"),
    ("68.2", "SURFACE SCAN"),
    ("77.1.5.3", "STEREOMETRIC"),
    ("78.", "MEASUREMENT"),
    ("80.1", "MEASUREMENT"),
    ("90.1", "ASSESSMENT"),
    ("200.", "PLAN"),
)
"""Suffix after the root of the Storage SOP Classes → record type; a "." at the end includes all below it."""

CONDITIONAL: Final = frozenset(
    {
        tags.VerificationDateTime, tags.ContentSequence, tags.ReferencedSeriesSequence, tags.BlendingSequence,
        tags.HL7InstanceIdentifier, tags.ReferencedImageEvidenceSequence,
    }
)  # fmt: skip
"""Type 1C: with a value, or absent."""

_ALWAYS: Final = frozenset({CHARACTER_SET, *PATIENT_KEYS, tags.IssuerOfPatientID, *STUDY_KEYS, *SERIES_KEYS})


def record_type(sop_class_uid: str) -> str:
    """The directory record type of an instance, IMAGE if nothing else fits."""
    if sop_class_uid.startswith(_STORAGE):
        suffix = sop_class_uid.removeprefix(_STORAGE)
        for prefix, kind in _LEAF_TYPES:
            if suffix == prefix or (prefix.endswith(".") and suffix.startswith(prefix)):
                return kind
    return "IMAGE"


def keys_of(pieces: Iterable[Buffer], syntax: TransferSyntax, kind: str) -> dict[int, bytes]:
    """The keys of one instance's records: tag → whole element in Explicit VR Little Endian.

    `pieces` are the data set, or the start of it; `kind` is its record type. Unreadable elements are left out.
    """
    keys: dict[int, bytes] = {}
    tags_needed = {*_ALWAYS, *LEAF_KEYS[kind]}
    if kind == "SR DOCUMENT":
        tags_needed.add(tags.VerifyingObserverSequence)
    try:
        for tag, element in _ElementReader(_inflate(pieces) if syntax.deflated else pieces, syntax).elements(
            tags_needed
        ):
            keys[tag] = element
    except (DataSetError, zlib.error):
        pass
    if kind == "SR DOCUMENT":
        _set_verification_time(keys)
    if tags.ContentSequence in keys:
        keys[tags.ContentSequence] = _title_modifiers(keys[tags.ContentSequence])
    return {tag: element for tag, element in keys.items() if tag not in CONDITIONAL or value_of(element)}


def _inflate(pieces: Iterable[Buffer]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left_bytes = INFLATED_BYTES_MAX
    for piece in pieces:
        data: Buffer = piece
        while left_bytes > 0:
            inflated = inflater.decompress(data, min(1 << 20, left_bytes))
            if not inflated:
                break
            left_bytes -= len(inflated)
            yield inflated
            data = inflater.unconsumed_tail


class _ElementReader:
    """Reads the top level of a data set that comes in pieces."""

    def __init__(self, pieces: Iterable[Buffer], syntax: TransferSyntax) -> None:
        self._pieces = iter(pieces)
        self._syntax = syntax
        self._buffer = bytearray()
        self._at = 0

    def elements(self, wanted_tags: set[int]) -> Iterator[tuple[int, bytes]]:
        """The elements with these tags, in the order of the data set. Raises DataSetError."""
        last = max(wanted_tags)
        self._fetch(16)
        encoding = elements.encoding_of(bytes(self._buffer[:1024]), self._syntax)
        layout = _HeaderLayout(self._syntax.big_endian, bool(encoding & EXPLICIT_VR))
        while self._fetch(12) or self._buffered_bytes() >= 8:
            tag, value_at, length = layout.header(self._buffer, self._at)
            if tag > last:
                return
            if length is None or (tag in wanted_tags and length <= ELEMENT_BYTES_MAX):
                end = self._fetch_element(encoding)
                if tag in wanted_tags:
                    yield tag, reencode(bytes(self._buffer[self._at : end]), encoding, EXPLICIT_VR)
                self._at = end
            else:
                self._skip(value_at + length - self._at)

    def _buffered_bytes(self) -> int:
        return len(self._buffer) - self._at

    def _fetch(self, count: int) -> bool:
        """Fetches pieces until this many bytes are in memory. Returns whether they are."""
        while self._buffered_bytes() < count:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            del self._buffer[: self._at]
            self._at = 0
            self._buffer += piece
        return True

    def _skip(self, count: int) -> None:
        while count > self._buffered_bytes():
            count -= self._buffered_bytes()
            self._buffer.clear()
            self._at = 0
            if not self._fetch(1):
                return
        self._at += count

    def _fetch_element(self, encoding: int) -> int:
        """Fetches the whole current element. Returns its end."""
        while True:
            try:
                element = next(elements.walk(bytes(self._buffer[self._at :]), encoding))
            except (DataSetError, StopIteration):
                if self._buffered_bytes() > ELEMENT_BYTES_MAX or not self._fetch(self._buffered_bytes() * 2 or 1):
                    if self._buffered_bytes() > ELEMENT_BYTES_MAX:
                        raise DataSetError("an element too long for a directory record") from None
                    return self._end_of_element(encoding)
                continue
            return self._at + element.value_offset + element.length + (8 if element.is_undefined_length else 0)

    def _end_of_element(self, encoding: int) -> int:
        """The end of the current element in the fetched bytes. Raises DataSetError."""
        for element in elements.walk(bytes(self._buffer[self._at :]), encoding):
            return self._at + element.value_offset + element.length + (8 if element.is_undefined_length else 0)
        raise DataSetError("the data set ends within an element")


class _HeaderLayout:
    """The layout of element headers."""

    def __init__(self, big_endian: bool, explicit: bool) -> None:
        order = ">" if big_endian else "<"
        self._tag = struct.Struct(f"{order}HH")
        self._short = struct.Struct(f"{order}H")
        self._long = struct.Struct(f"{order}I")
        self._explicit = explicit

    def header(self, data: bytearray, at: int) -> tuple[int, int, int | None]:
        """Tag, offset of the value, and length (None: undefined). Raises DataSetError."""
        try:
            group, number = self._tag.unpack_from(data, at)
            tag = group << 16 | number
            vr = bytes(data[at + 4 : at + 6])
            if not self._explicit:
                value_at, length = at + 8, self._long.unpack_from(data, at + 4)[0]
            elif vr in _SHORT_VRS:
                value_at, length = at + 8, self._short.unpack_from(data, at + 6)[0]
            else:
                value_at, length = at + 12, self._long.unpack_from(data, at + 8)[0]
        except struct.error:
            raise DataSetError("the data set ends within a header") from None
        return tag, value_at, None if length == _UNDEFINED else length


_UNDEFINED: Final = 0xFFFFFFFF
_SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)  # PS3.5 7.1.2; all others have the long form


def value_of(element: bytes) -> bytes:
    """The value of an element in Explicit VR Little Endian."""
    return element[8:] if element[4:6] in _SHORT_VRS else element[12:]


def _set_verification_time(keys: dict[int, bytes]) -> None:
    """Moves the time of the latest verification to its place in the record."""
    observers = keys.pop(tags.VerifyingObserverSequence, b"")
    if value_of(keys.get(tags.VerificationFlag, b"")).strip() != b"VERIFIED":
        keys.pop(tags.VerificationDateTime, None)
        return
    times = [inner for _, content in _items(observers) for tag, inner in content if tag == tags.VerificationDateTime]
    if times:
        keys[tags.VerificationDateTime] = max(times, key=value_of)


def _title_modifiers(sequence: bytes) -> bytes:
    """The items of a Content Sequence that modify the title of a document."""
    items = b"".join(
        item
        for item, content in _items(sequence)
        if any(tag == tags.RelationshipType and value_of(inner).strip() == b"HAS CONCEPT MOD" for tag, inner in content)
    )
    group, number = divmod(tags.ContentSequence, 1 << 16)
    return struct.pack("<HH2sxxI", group, number, b"SQ", len(items)) + items


def _items(sequence: bytes) -> Iterator[tuple[bytes, list[tuple[int, bytes]]]]:
    """Each whole item, and its elements."""
    try:
        for element in elements.walk(sequence, EXPLICIT_VR):
            value_end = element.value_offset + element.length
            for item in elements.walk(sequence, EXPLICIT_VR, element.value_offset, value_end):
                end = item.value_offset + item.length
                content, start = [], item.value_offset
                for inner in elements.walk(sequence, EXPLICIT_VR, item.value_offset, end):
                    inner_end = inner.value_offset + inner.length + (8 if inner.is_undefined_length else 0)
                    content.append((inner.tag, sequence[start:inner_end]))
                    start = inner_end
                yield sequence[item.value_offset - 8 : end + (8 if item.is_undefined_length else 0)], content
    except DataSetError:
        return


def patient_of(keys: dict[int, bytes]) -> object:
    """The key that all instances of a patient share: the ID and its issuer, else the decoded name."""
    identifier = _text(keys, tags.PatientID)
    if identifier:
        return identifier, _text(keys, tags.IssuerOfPatientID)
    return _text(keys, tags.PatientName).rstrip("^= ")


def _text(keys: dict[int, bytes], tag: int) -> str:
    value = value_of(keys.get(tag, b""))
    character_set = value_of(keys.get(CHARACTER_SET, b""))
    return charset.decode(value, character_set, tags.vr_of(tag)).strip(" \0")
