"""Statements of instances about their patient, study and series, and the facts that follow from them.

Each instance repeats the attributes of the levels above it, and these need not agree. A *statement* is the exact
content of the patient and study blobs of one or more instances (a study statement), or of these and their series blob
(a series statement). Its order is that of the first record among its live instances.

*Facts* are the attributes of a study, series or patient that queries search and return. Rule: for each attribute the
earliest statement with a value counts; an empty value never hides a later one; if values differ, the attribute is a
conflict. The result does not depend on the order in which records reach the index, so a rebuild gives the same facts.
A correction changes the facts (`apply.overlay`): its order is before every statement's, and it makes no conflict.

Texts in statements and facts are UTF-8, decoded once, when the statement is new. Format of facts:

    0         1         2             4
    +---------+---------+-------------+------------+-------------+---------------+-- … --+------------+
    | orders  | parts   | conflicts   | the orders | tags, u32   | part lengths  | parts | providers  |
    +---------+---------+-------------+------------+-------------+---------------+-- … --+------------+

orders: how many orders follow, 16 bytes each. conflicts: how many tags follow. A part is a level blob of
`dicom.elements`. providers: for each value, in the order of the parts, the number of its order, u8; left out if there
is only one order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from engine.dicom import charset, elements, tags
from engine.dicom.elements import blob_items
from engine.dicom.schema import Schema
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError
from engine.index.format import keys
from engine.index.format.entry import Entry

_ITEM = struct.Struct("<II")
_HEAD = struct.Struct("<BBH")
_U32 = struct.Struct("<I")
_EXPLICIT = EXPLICIT_VR_LITTLE_ENDIAN.encoding
_LONG_HEADER_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_BINARY_VRS = frozenset(
    ("AT", "FL", "FD", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "SV", "UL", "UN", "US", "UV")
)


# canonical form ------------------------------------------------------------------------------------


def blob_of(items: Mapping[int, bytes]) -> bytes:
    """A level blob of these values, in ascending order of tags."""
    return b"".join([_ITEM.pack(tag, len(items[tag])) + items[tag] for tag in sorted(items)])


def utf_8(tag: int, value: bytes, character_set: bytes, schema: Schema) -> bytes:
    """A value of a blob with its text in UTF-8."""
    vr = schema.vr_of(tag)
    if vr in _BINARY_VRS:
        return value
    if vr == "SQ":
        try:
            return _items_in_utf_8(value, 0, len(value), character_set)
        except (DataSetError, RecursionError):
            return value
    if value.isascii() and b"\x1b" not in value:
        return value
    return charset.decode(value, character_set, vr).encode("utf-8", "replace")


def canonical(blob: bytes, character_set: bytes, schema: Schema) -> bytes:
    """A level blob with its texts in UTF-8. With `charset.UTF_8`, a canonical blob does not change."""
    return _canonical(blob, character_set, schema)[0]


def _canonical(blob: bytes, character_set: bytes, schema: Schema) -> tuple[bytes, dict[int, bytes]]:
    """The canonical blob and its items."""
    items = blob_items(blob)
    texts = b"".join(items.values())
    # Nearly all blobs are like this. An item of a sequence begins with a byte that is not ASCII.
    if texts.isascii() and b"\x1b" not in texts and len(texts) + _ITEM.size * len(items) == len(blob):
        in_order = list(items)
        if in_order == sorted(in_order):
            return blob, items
    plain_bytes = 0
    before = -1
    for tag, value in items.items():
        text = utf_8(tag, value, character_set, schema)
        if text is value and tag > before:
            plain_bytes += _ITEM.size + len(value)
        items[tag] = text
        before = tag
    return (blob if plain_bytes == len(blob) else blob_of(items)), items


def _items_in_utf_8(data: bytes, start: int, end: int, character_set: bytes) -> bytes:
    parts = []
    for item in elements.walk(data, _EXPLICIT, start, end):
        content = _data_set_in_utf_8(data, item.value_offset, item.value_offset + item.length, character_set)
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
    return b"".join(parts)


def _data_set_in_utf_8(data: bytes, start: int, end: int, character_set: bytes) -> bytes:
    elements_in = list(elements.walk(data, _EXPLICIT, start, end))
    for element in elements_in:
        if element.tag == tags.SpecificCharacterSet:
            character_set = data[element.value_offset : element.value_offset + element.length].rstrip(b" \0")
    parts = []
    for element in elements_in:
        if element.tag == tags.SpecificCharacterSet:
            continue
        value_end = element.value_offset + element.length
        if element.vr == "SQ":
            value = _items_in_utf_8(data, element.value_offset, value_end, character_set)
        else:
            value = data[element.value_offset : value_end]
            if element.vr in charset.TEXT_VRS:
                value = charset.decode(value, character_set, element.vr).encode("utf-8", "replace")
                value += b" " * (len(value) & 1)
        parts.append(_explicit_header(element.tag, element.vr, len(value)) + value)
    return b"".join(parts)


def _explicit_header(tag: int, vr: str, length: int) -> bytes:
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode("ascii")
    return start + (struct.pack("<xxI", length) if vr in _LONG_HEADER_VRS else struct.pack("<H", length))


# statements ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Statement:
    """The statement of one instance about the levels above it, in canonical form."""

    study_instance_uid: bytes
    series_instance_uid: bytes
    items: tuple[dict[int, bytes], dict[int, bytes], dict[int, bytes]]
    """Of patient, study and series. Do not change them."""
    patient: bytes
    study: bytes
    series: bytes
    study_digest: bytes
    series_digest: bytes

    @classmethod
    def of(cls, entry: Entry, schema: Schema) -> Statement:
        """The statement of an instance."""
        patient, study, study_digest, of_patient, of_study = _of_study(
            entry.patient, entry.study, entry.character_set, schema
        )
        series, of_series = _canonical(entry.series, entry.character_set, schema)
        return cls(
            of_study.get(tags.StudyInstanceUID, b""),
            of_series.get(tags.SeriesInstanceUID, b""),
            (of_patient, of_study, of_series),
            patient,
            study,
            series,
            study_digest,
            keys.digest_of(study_digest, series),
        )


@lru_cache(maxsize=256)
def _of_study(
    patient: bytes, study: bytes, character_set: bytes, schema: Schema
) -> tuple[bytes, bytes, bytes, dict[int, bytes], dict[int, bytes]]:
    """Both blobs in canonical form, their digest, their items. Cached, since the series of a study arrive together."""
    patient, of_patient = _canonical(patient, character_set, schema)
    study, of_study = _canonical(study, character_set, schema)
    return patient, study, keys.digest_of(patient, study), of_patient, of_study


def pack_content(*parts: bytes) -> bytes:
    """The content of a statement."""
    return b"".join([_U32.pack(len(part)) + part for part in parts])


def unpack_content(data: bytes) -> list[bytes]:
    """The blobs of a statement's content."""
    parts = []
    at = 0
    while at < len(data):
        end = at + 4 + _U32.unpack_from(data, at)[0]
        parts.append(data[at + 4 : end])
        at = end
    return parts


# facts ---------------------------------------------------------------------------------------------


class Facts:
    """The attributes of one entity, each with the order of its statement."""

    __slots__ = ("conflicts", "parts")

    def __init__(self, parts: Sequence[dict[int, tuple[bytes, bytes]]], conflicts: Iterable[int] = ()) -> None:
        self.parts = parts
        """For each level: tag → (order, value)."""
        self.conflicts = set(conflicts)
        """Tags on which statements disagree."""

    @classmethod
    def empty(cls, part_count: int) -> Facts:
        """Facts without a statement."""
        return cls([{} for _ in range(part_count)])

    def observe(self, order: bytes, blobs: Sequence[bytes]) -> None:
        """Adds a statement."""
        for part, blob in zip(self.parts, blobs, strict=True):
            for tag, value in blob_items(blob).items():
                if tag not in part or part[tag][0] >= keys.FIRST_STATED:  # not set by a correction
                    self._observe(part, tag, order, value)

    def observe_facts(self, other: Facts) -> None:
        """Adds the first part of other facts: a patient gets them from a study."""
        part = self.parts[0]
        for tag, (order, value) in other.parts[0].items():
            self._observe(part, tag, order, value)
        self.conflicts |= other.conflicts & set(other.parts[0])

    @property
    def is_corrected(self) -> bool:
        """Whether a correction has set any attribute."""
        return any(order < keys.FIRST_STATED for part in self.parts for order, _ in part.values())

    def correct(self, overlay: Sequence[Mapping[int, tuple[bytes, bytes]]]) -> None:
        """Applies corrections, part by part."""
        for part, over in zip(self.parts, overlay, strict=True):
            part.update(over)
            self.conflicts -= over.keys()

    def _observe(self, part: dict[int, tuple[bytes, bytes]], tag: int, order: bytes, value: bytes) -> None:
        values = part.get(tag)
        if values is None:
            part[tag] = (order, value)
            return
        present_order, present_value = values
        if value and present_value and value != present_value:
            self.conflicts.add(tag)
        # By value last: two records may have the same order.
        if (not value, order, value) < (not present_value, present_order, present_value):
            part[tag] = (order, value)

    def values(self, part: int) -> dict[int, bytes]:
        """A level's attributes."""
        return {tag: value for tag, (_, value) in self.parts[part].items()}

    def blobs(self) -> list[bytes]:
        """The parts as level blobs. If there is only one statement, this is its content."""
        return [blob_of(self.values(part)) for part in range(len(self.parts))]

    def encode(self) -> bytes:
        """The row's bytes, as drawn at the head of this module."""
        orders = sorted({order for part in self.parts for order, _ in part.values()})
        blobs = self.blobs()
        data = [
            _HEAD.pack(len(orders), len(blobs), len(self.conflicts)),
            *orders,
            *[_U32.pack(tag) for tag in sorted(self.conflicts)],
            *[_U32.pack(len(blob)) for blob in blobs],
            *blobs,
        ]
        if len(orders) > 1:
            numbers = {order: number for number, order in enumerate(orders)}
            data.append(bytes([numbers[part[tag][0]] for part in self.parts for tag in sorted(part)]))
        return b"".join(data)

    @classmethod
    def decode(cls, data: bytes, at: int) -> Facts:
        """The facts in `data` from `at` to its end."""
        order_count, _, conflict_count = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        orders = [data[at + i * keys.ORDER_BYTES :][: keys.ORDER_BYTES] for i in range(order_count)]
        conflicts = struct.unpack_from(f"<{conflict_count}I", data, at + order_count * keys.ORDER_BYTES)
        values, at = fact_values(data, at - _HEAD.size)
        single = orders[0] if order_count == 1 else b""
        if not single and len(data) - at < sum(map(len, values)):
            raise ValueError("facts end within the numbers of their orders")
        providers = iter(data[at:])
        parts = [{tag: (single or orders[next(providers)], value) for tag, value in part.items()} for part in values]
        return cls(parts, conflicts)


def facts_of(order: bytes, *blobs: bytes) -> bytes:
    """The encoded facts of an entity with only one statement, in canonical form."""
    orders = order if any(blobs) else b""
    lengths = [_U32.pack(len(blob)) for blob in blobs]
    return b"".join((_HEAD.pack(len(orders) // keys.ORDER_BYTES, len(blobs), 0), orders, *lengths, *blobs))


def repeats(before: bytes, after: bytes, at: int) -> bool:
    """Whether the facts at the end of row `before` equal those of row `after`, with one order that is not later.

    Both rows must be equal up to `at`, and `after` must have one statement.
    """
    orders_at = at + _HEAD.size
    end = orders_at + keys.ORDER_BYTES
    return (
        len(before) == len(after)
        and before[at:orders_at] == after[at:orders_at]
        and before[orders_at:end] <= after[orders_at:end]
        and before[end:] == after[end:]
    )


def fact_values(data: bytes, at: int) -> tuple[list[dict[int, bytes]], int]:
    """The attributes of encoded facts, part by part, and the offset of the providers. Every read uses this."""
    order_count, part_count, conflict_count = _HEAD.unpack_from(data, at)
    at += _HEAD.size + order_count * keys.ORDER_BYTES + conflict_count * 4
    lengths = struct.unpack_from(f"<{part_count}I", data, at)
    at += 4 * part_count
    values = []
    for length in lengths:
        values.append(blob_items(data[at : at + length]))
        at += length
    return values, at


PART_COUNT_STUDY = 2
"""Patient, study."""
PART_COUNT_SERIES = 1
PART_COUNT_PATIENT = 1
