"""Writes other attribute values into a data set on its way out (PS3.4 B.4.1.3, attribute coercion).

Works on the head of a data set, up to Pixel Data; everything after it is sent as it is stored. `services.coercion`
decides which values change. The original values go into an item of Original Attributes Sequence (0400,0561) (PS3.3
C.12.1.1.9).

A new value is written in the character set of the data set. If that set lacks one of its characters, all text of the
head is converted to UTF-8 first, and (0008,0005) declares it.

    head    elements up to Pixel Data, tags ascending: changed, added or removed; group lengths (gggg,0000) dropped
    tail    the data set from `CoercedDataSet.tail_offset` on, byte for byte
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.errors import ConfigError, DataSetError

from . import attributes, charset, elements, tags
from .identifier import LONG_VRS, Value, encode_identifier
from .reencoding import reencode
from .transfer_syntax import (
    BIG_ENDIAN,
    EXPLICIT_VR,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BY_ENCODING: Final = {
    syntax.encoding: syntax for syntax in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
}
_NESTING_MAX: Final = 32
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_ITEM_TAG: Final = b"\xfe\xff\x00\xe0"
"""In little endian: UN always holds implicit VR little endian."""
_GARBAGE_BYTES_MAX: Final = 4096
"""Limit for bytes at the end of a head that are not an element, such as the padding of a disk sector."""
_FIXED_VRS: Final = LONG_VRS - {"UC", "UR", "UT"} | {"AT", "FD", "FL", "SL", "SS", "UI", "UL", "US"}
"""VRs whose values a configuration cannot set."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The values to write into data sets, and the reasons to record."""

    values: Mapping[int, bytes | None]
    """Tag → value in UTF-8, numbers in little endian, sequences as items in Explicit VR Little Endian; b"" leaves the
    attribute without a value, None removes it."""
    system: str = "FILMROOM"
    """Modifying System (0400,0563)."""
    reason: str = "COERCE"
    """Reason for the Attribute Modification (0400,0565): COERCE or CORRECT."""
    moment: str = ""
    """Attribute Modification DateTime (0400,0562), VR DT."""
    vr_of: Callable[[int], str] = tags.vr_of
    """The VRs of the attributes: pass the archive's, from its schema."""


@dataclass(frozen=True, slots=True)
class CoercedDataSet:
    """A data set with other values: `head`, then the stored bytes from `tail_offset` on."""

    head: bytes
    tail_offset: int


def values_of(assignments: Iterable[str], removed: Iterable[str]) -> dict[int, bytes | None]:
    """The changes that `KEYWORD=VALUE` and keywords to remove describe. Raises ConfigError."""
    changes: dict[int, bytes | None] = {}
    for text in assignments:
        keyword, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"coercion: {text!r} is not KEYWORD=VALUE")
        changes[_tag_to_change(keyword.strip())] = value.encode()
    return changes | {_tag_to_change(keyword): None for keyword in removed}


def _tag_to_change(keyword: str) -> int:
    tag = tags.tag_of(keyword)
    if tag is None:
        raise ConfigError(f"coercion: {keyword!r} is not a DICOM keyword")
    if tags.vr_of(tag) in _FIXED_VRS or tag == tags.SpecificCharacterSet:
        raise ConfigError(f"coercion: {keyword} has VR {tags.vr_of(tag)}: UIDs, numbers and sequences cannot be set")
    return tag


class _Piece(NamedTuple):
    """An element of the head, with its place in the bytes."""

    tag: int
    start: int
    end: int
    element: elements.Element


def coerce(head: Buffer, transfer_syntax: TransferSyntax, changes: Changes) -> CoercedDataSet:
    """Writes other values into the head of a data set. `head`: its bytes at least up to Pixel Data.

    Inflate a deflated data set first. Raises DataSetError when the head cannot be read.
    """
    view = memoryview(head).cast("B")
    encoding = elements.encoding_of(view, transfer_syntax)
    pieces = _pieces(view, encoding)
    end = pieces[-1].end if pieces else 0
    pieces = [piece for piece in pieces if piece.tag & 0xFFFF]
    declared = next((_value(view, piece) for piece in pieces if piece.tag == tags.SpecificCharacterSet), b"")
    values = _encode_values(changes.values, declared, changes.vr_of)
    parts: dict[int, bytes] = {}
    for piece in pieces:
        parts[piece.tag] = bytes(view[piece.start : piece.end])  # of two with one tag the last counts
    if values is None:
        parts = {piece.tag: _in_utf_8(view, piece, encoding, declared) for piece in pieces}
        parts[tags.SpecificCharacterSet] = _element(tags.SpecificCharacterSet, charset.UTF_8, encoding)
        values = dict(changes.values)
    _apply_changes(parts, values, changes, encoding)
    return CoercedDataSet(b"".join([parts[tag] for tag in sorted(parts)]), end)


def _pieces(view: memoryview, encoding: int) -> list[_Piece]:
    """The elements before Pixel Data."""
    pieces: list[_Piece] = []
    start = 0
    try:
        for element in elements.walk(view, encoding):
            if element.tag in attributes.PIXEL_DATA:
                break
            end = element.value_offset + element.length + (8 if element.is_undefined_length else 0)
            pieces.append(_Piece(element.tag, start, end, element))
            start = end
    except DataSetError:
        # Bytes after the last element: they are sent as they are stored.
        if not pieces or len(view) - start > _GARBAGE_BYTES_MAX:
            raise
    return pieces


def _value(view: memoryview, piece: _Piece) -> bytes:
    at = piece.element.value_offset
    return bytes(view[at : at + piece.element.length]).rstrip(b" \0")


def _encode_values(
    values: Mapping[int, bytes | None], declared: bytes, vr_of: Callable[[int], str]
) -> dict[int, bytes | None] | None:
    """The new values in the data set's character set; None if it lacks a character of one of them."""
    encoded_values: dict[int, bytes | None] = {}
    for tag, value in values.items():
        if value is not None and not value.isascii():
            vr = vr_of(tag)
            if vr == "SQ":
                return None
            if vr in charset.TEXT_VRS:
                encoded = charset.encode(value.decode("utf-8", "replace"), declared, vr)
                if encoded is None:
                    return None
                value = encoded
        encoded_values[tag] = value
    return encoded_values


def _apply_changes(
    parts: dict[int, bytes], values: Mapping[int, bytes | None], changes: Changes, encoding: int
) -> None:
    """Puts the values into the elements, and the original ones into Original Attributes Sequence."""
    before = []
    for tag in sorted(values):
        value = values[tag]
        old = parts.get(tag, b"")
        new = b"" if value is None else _element(tag, value, encoding, changes.vr_of)
        if old == new:
            continue
        before.append(old or _element(tag, b"", encoding, changes.vr_of))
        if value is None:
            parts.pop(tag, None)
        else:
            parts[tag] = new
    if not before:
        return
    attributes: dict[int, Value] = {
        tags.AttributeModificationDateTime: changes.moment.encode("ascii"),
        tags.ModifyingSystem: changes.system.encode("ascii"),
        tags.SourceOfPreviousValues: b"",
        tags.ReasonForTheAttributeModification: changes.reason.encode("ascii"),
    }
    modified = _sequence(tags.ModifiedAttributesSequence, [b"".join(before)], encoding)
    item = {tags.ModifiedAttributesSequence: modified}
    item |= {tag: _element(tag, value, encoding) for tag, value in attributes.items()}
    content = b"".join([item[tag] for tag in sorted(item)])
    tag = tags.OriginalAttributesSequence
    parts[tag] = _sequence(tag, [*_items_of(parts.get(tag, b""), encoding), content], encoding)


def _items_of(element: bytes, encoding: int) -> list[bytes]:
    """The contents of the items of an encoded sequence, all in the same encoding."""
    contents = []
    for child in elements.walk(element, encoding):
        for item in elements.walk(element, encoding, child.value_offset, child.value_offset + child.length):
            content = element[item.value_offset : item.value_offset + item.length]
            within = elements.item_encoding(element, item, encoding)
            contents.append(content if within == encoding else reencode(content, within, encoding))
    return contents


def _element(tag: int, value: Value, encoding: int, vr_of: Callable[[int], str] = tags.vr_of) -> bytes:
    return encode_identifier({tag: value}, _BY_ENCODING[encoding], vr_of)


def _order(encoding: int) -> str:
    return ">" if encoding & BIG_ENDIAN else "<"


def _items(items: list[bytes], order: str) -> bytes:
    return b"".join([struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item for item in items])


def _sequence(tag: int, items: list[bytes], encoding: int, vr: str = "SQ", *, undefined: bool = False) -> bytes:
    """A sequence of encoded items."""
    order = _order(encoding)
    content = _items(items, order)
    if undefined:
        end = struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0)
        return _header(tag, vr, _UNDEFINED_LENGTH, encoding) + content + end
    return _header(tag, vr, len(content), encoding) + content


def _header(tag: int, vr: str, length: int, encoding: int) -> bytes:
    order = _order(encoding)
    start = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if not encoding & EXPLICIT_VR:
        return start + struct.pack(f"{order}I", length)
    if vr in LONG_VRS:
        return start + vr.encode() + struct.pack(f"{order}xxI", length)
    if length > 0xFFFF:
        return start + b"UN" + struct.pack(f"{order}xxI", length)
    return start + vr.encode() + struct.pack(f"{order}H", length)


# into UTF-8 ------------------------------------------------------------------------------------------


def _in_utf_8(view: memoryview, piece: _Piece, encoding: int, declared: bytes) -> bytes:
    """An element of the head with its text in UTF-8."""
    return _element_in_utf_8(view, piece.element, piece.start, piece.end, encoding, declared, 0)


def _element_in_utf_8(
    view: memoryview, element: elements.Element, start: int, end: int, encoding: int, declared: bytes, depth: int
) -> bytes:
    value_offset, value_end = element.value_offset, element.value_offset + element.length
    if element.vr == "SQ":
        if depth >= _NESTING_MAX:
            raise DataSetError(f"sequences nest more than {_NESTING_MAX} deep, before offset {value_offset}")
        items = _items_in_utf_8(view, value_offset, value_end, encoding, declared, depth)
        # UN of undefined length stays UN: its content is in implicit VR (PS3.5 6.2.2). An undefined length stays too:
        # in implicit VR nothing else shows that a private element is a sequence.
        is_unknown = encoding & EXPLICIT_VR and bytes(view[start + 4 : start + 6]) == b"UN"
        vr = "UN" if is_unknown else "SQ"
        return _sequence(element.tag, items, encoding, vr, undefined=element.is_undefined_length)
    if element.vr == "UN" and depth < _NESTING_MAX and bytes(view[value_offset : value_offset + 4]) == _ITEM_TAG:
        try:
            items = _items_in_utf_8(view, value_offset, value_end, IMPLICIT_VR_LITTLE_ENDIAN.encoding, declared, depth)
        except DataSetError:
            return bytes(view[start:end])  # it only looks like a sequence at its start
        content = _items(items, "<")
        return _header(element.tag, "UN", len(content), encoding) + content
    raw = bytes(view[value_offset:value_end])
    if element.vr not in charset.TEXT_VRS or (raw.isascii() and b"\x1b" not in raw):
        return bytes(view[start:end])
    value = charset.decode(raw, declared, element.vr).encode("utf-8", "replace")
    value += b" " * (len(value) & 1)
    return _header(element.tag, element.vr, len(value), encoding) + value


def _items_in_utf_8(view: memoryview, start: int, end: int, encoding: int, declared: bytes, depth: int) -> list[bytes]:
    """The contents of the items of a sequence's value."""
    items = []
    for item in elements.walk(view, encoding, start, end):
        if item.tag != tags.Item:
            raise DataSetError(f"an item is missing before offset {item.value_offset}")
        items.append(_item_in_utf_8(view, item, encoding, declared, depth + 1))
    return items


def _item_in_utf_8(view: memoryview, item: elements.Element, encoding: int, declared: bytes, depth: int) -> bytes:
    within = elements.item_encoding(view, item, encoding)
    start, end = item.value_offset, item.value_offset + item.length
    encoded = []
    for element in elements.walk(view, within, start, end):
        after = element.value_offset + element.length + (8 if element.is_undefined_length else 0)
        encoded.append((element, start, after))
        start = after
    for element, _, _ in encoded:
        if element.tag == tags.SpecificCharacterSet:
            declared = bytes(view[element.value_offset : element.value_offset + element.length]).rstrip(b" \0")
    return b"".join(
        [
            _element_in_utf_8(view, element, begin, after, within, declared, depth)
            for element, begin, after in encoded
            # One declaration counts for the whole data set; group lengths would be wrong now.
            if element.tag & 0xFFFF and element.tag != tags.SpecificCharacterSet
        ]
    )
