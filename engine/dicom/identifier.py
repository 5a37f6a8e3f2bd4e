"""Decodes and encodes identifiers of queries and other small data sets, as values by tag.

Not for stored instances, which are never decoded as a whole: use `dicom.elements` for those. Values are bytes in the
data set's character set, text without trailing padding, numbers in little endian; sequences are lists of identifiers.
Group lengths are dropped. Standard: PS3.5 section 7, PS3.4 C.4.1.1.3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from engine.errors import DataSetError

from . import charset, elements, tags
from .deflate import deflate, inflate
from .reencoding import reencode
from .transfer_syntax import BIG_ENDIAN, EXPLICIT_VR, EXPLICIT_VR_LITTLE_ENDIAN, TransferSyntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

NESTING_MAX: Final = 32
"""Sequences within sequences; the deepest identifier in PS3.4 (UPS) has 4."""
ELEMENT_COUNT_MAX: Final = 4096
"""Elements and items at all depths; a C-FIND with every key of PS3.4 has some 100. Each becomes an object, and a MiB
could hold 131 072 empty ones."""
INFLATED_BYTES_MAX: Final = 4 << 20
"""Limit for a deflated identifier."""

LONG_VRS: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
NUMBER_BYTES: Final = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
BINARY_VRS: Final = frozenset((*NUMBER_BYTES, "OB", "UN"))

Value: TypeAlias = "bytes | Sequence[Identifier | Mapping[int, Value]]"
"""A value to pass to `encode_identifier`: bytes, or the items of a sequence."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """A decoded data set, or an item of one."""

    items: dict[int, bytes | list[Identifier]]
    """Without (0008,0005), which is `character_set`."""
    character_set: bytes = b""
    """Specific Character Set; an item without one has that of the enclosing data set. b"" is ASCII."""

    def value(self, tag: int) -> bytes:
        """A value; b"" if it is absent, empty or a sequence."""
        value = self.items.get(tag, b"")
        return value if isinstance(value, bytes) else b""

    def text(self, tag: int) -> str:
        """A value as text, with its backslashes."""
        return charset.decode(self.value(tag), self.character_set, tags.vr_of(tag))

    def sequence(self, tag: int) -> list[Identifier]:
        """The items of a sequence; [] if it is absent, empty or not a sequence."""
        value = self.items.get(tag)
        return value if isinstance(value, list) else []


def decode_identifier(
    data: Buffer, transfer_syntax: TransferSyntax, *, element_count_max: int = ELEMENT_COUNT_MAX
) -> Identifier:
    """Reads a whole data set into values. Raises DataSetError."""
    view = memoryview(inflate(data, INFLATED_BYTES_MAX, "identifier") if transfer_syntax.deflated else data)
    encoding = elements.encoding_of(view, transfer_syntax)
    return _Decoder(view, element_count_max).data_set(0, len(view), encoding, b"", 0)


class _Decoder:
    """Decodes one identifier, and counts its elements."""

    __slots__ = ("_count", "_count_max", "_view")

    def __init__(self, view: memoryview, count_max: int) -> None:
        self._view = view
        self._count = 0
        self._count_max = count_max

    def data_set(self, start: int, end: int, encoding: int, character_set: bytes, depth: int) -> Identifier:
        """The identifier, or an item in it."""
        items: dict[int, bytes | list[Identifier]] = {}
        for element in elements.walk(self._view, encoding, start, end):
            self._count_element()
            if not element.tag & 0xFFFF or element.tag >> 16 == 0xFFFE:
                continue
            if element.vr == "SQ":
                items[element.tag] = self._items(element, encoding, character_set, depth + 1)
            elif element.length and tags.vr_of(element.tag) == "SQ":
                continue  # not a sequence, although its tag is one: useless as a key
            else:
                raw = self._view[element.value_offset : element.value_offset + element.length]
                items[element.tag] = _value(raw, element.vr, encoding)
            if element.tag == tags.SpecificCharacterSet:
                declared = items.pop(element.tag)
                character_set = declared if isinstance(declared, bytes) else character_set
        return Identifier(items, character_set)

    def _items(self, sequence: elements.Element, encoding: int, character_set: bytes, depth: int) -> list[Identifier]:
        start = sequence.value_offset
        if depth > NESTING_MAX:
            raise DataSetError(f"the identifier nests more than {NESTING_MAX} sequences at offset {start}")
        items = []
        for item in elements.walk(self._view, encoding, start, start + sequence.length):
            self._count_element()
            if item.tag != tags.Item:
                raise DataSetError(f"the identifier lacks an item before offset {item.value_offset}")
            within = elements.item_encoding(self._view, item, encoding)
            end = item.value_offset + item.length
            items.append(self.data_set(item.value_offset, end, within, character_set, depth))
        return items

    def _count_element(self) -> None:
        self._count += 1
        if self._count > self._count_max:
            raise DataSetError(f"the identifier has more than {self._count_max} elements")


def _value(raw: memoryview, vr: str, encoding: int) -> bytes:
    if vr not in BINARY_VRS:
        return bytes(raw).rstrip(b" \0")
    unit = NUMBER_BYTES.get(vr, 1)
    if encoding & BIG_ENDIAN and unit > 1:
        return b"".join(bytes(raw[i : i + unit])[::-1] for i in range(0, len(raw), unit))
    return bytes(raw)


def encode_identifier(
    items: Mapping[int, Value], transfer_syntax: TransferSyntax, vr_of: Callable[[int], str] = tags.vr_of
) -> bytes:
    """Writes values as a data set: ascending tags, VRs from the dictionary, values padded to even length.

    Pass a sequence as its items, or as the bytes of its items in Explicit VR Little Endian, as in level blobs.
    Sequences get defined lengths. (0008,0005) is written only if it is among the values.
    """
    return finish(_encode(items, working_encoding(transfer_syntax), 0, vr_of), transfer_syntax)


def working_encoding(transfer_syntax: TransferSyntax) -> int:
    """The encoding of the elements to pass to `finish`: little endian, and not deflated."""
    encoding = transfer_syntax.encoding
    return EXPLICIT_VR if encoding & BIG_ENDIAN else encoding


def finish(data: bytes, transfer_syntax: TransferSyntax) -> bytes:
    """Brings a data set from `working_encoding` into its transfer syntax."""
    if transfer_syntax.encoding & BIG_ENDIAN:
        return reencode(data, EXPLICIT_VR, transfer_syntax.encoding)
    if transfer_syntax.deflated:
        data = deflate(data)
        data += bytes(len(data) % 2)
    return data


class Form:
    """Writes elements of one tag in a `working_encoding` (PS3.5 7.1)."""

    __slots__ = ("_length_bytes", "_padding", "_start", "must_reencode_items", "vr")

    def __init__(self, tag: int, vr: str, encoding: int) -> None:
        self.vr = vr
        self._start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        self._length_bytes = 4
        self._padding = b"\0" if vr == "UI" or vr in BINARY_VRS else b" "
        self.must_reencode_items = vr == "SQ" and not encoding & EXPLICIT_VR
        """Whether the items of a level blob have another encoding."""
        if encoding & EXPLICIT_VR:
            self._start += vr.encode()
            if vr in LONG_VRS:
                self._start += b"\0\0"
            else:
                self._length_bytes = 2

    def element(self, value: bytes) -> bytes:
        """The element with a value; for a sequence, items in the working encoding."""
        if len(value) & 1:
            value += self._padding
        length = len(value)
        if self._length_bytes == 4:
            return b"%b%b%b" % (self._start, length.to_bytes(4, "little"), value)
        if length <= 0xFFFF:
            return b"%b%b%b" % (self._start, length.to_bytes(2, "little"), value)
        # A list of a thousand failed UIDs is longer than the length field of UI can say (PS3.5 6.2.2).
        return b"%bUN\0\0%b%b" % (self._start[:4], length.to_bytes(4, "little"), value)

    def element_of_blob(self, value: bytes) -> bytes:
        """The element with a value from a level blob."""
        if not self.must_reencode_items or not value:
            return self.element(value)
        element = b"%bSQ\0\0%b%b" % (self._start, len(value).to_bytes(4, "little"), value)
        return reencode(element, EXPLICIT_VR_LITTLE_ENDIAN.encoding, 0)


form_of = lru_cache(maxsize=1024)(Form)


def _encode(items: Mapping[int, Value], encoding: int, depth: int, vr_of: Callable[[int], str]) -> bytes:
    parts: list[bytes] = []
    for tag in sorted(items):
        value = items[tag]
        form = form_of(tag, vr_of(tag), encoding)
        if isinstance(value, bytes):
            parts.append(form.element_of_blob(value))
        else:
            parts.append(form.element(_encode_items(value, encoding, depth + 1, vr_of)))
    return b"".join(parts)


def _encode_items(
    items: Sequence[Identifier | Mapping[int, Value]], encoding: int, depth: int, vr_of: Callable[[int], str]
) -> bytes:
    if depth > NESTING_MAX:
        raise DataSetError(f"the identifier nests more than {NESTING_MAX} sequences")
    parts = []
    for item in items:
        data = _encode(item.items if isinstance(item, Identifier) else item, encoding, depth, vr_of)
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data)
    return b"".join(parts)
