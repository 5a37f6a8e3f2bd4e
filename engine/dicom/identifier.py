"""Identifiers of queries and other small data sets, as values by tag: decoded whole and encoded.

Not for stored instances, whose bytes are never taken apart: `dicom.elements` looks into those. Values are bytes in the
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
"""Elements and items at all depths; a C-FIND with every key of PS3.4 has some 100. Each becomes an object, and a MiB of
empty ones would be 131 072."""
INFLATED_BYTES_MAX: Final = 4 << 20
"""Of a deflated identifier."""

LONG_VRS: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
NUMBER_BYTES: Final = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
BINARY_VRS: Final = frozenset((*NUMBER_BYTES, "OB", "UN"))

Value: TypeAlias = "bytes | Sequence[Identifier | Mapping[int, Value]]"
"""What `encode_identifier` takes for one tag."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """A decoded data set, or an item of one."""

    items: dict[int, bytes | list[Identifier]]
    """Without (0008,0005), which is `character_set`."""
    character_set: bytes = b""
    """Specific Character Set, the enclosing one's where an item has none; b"" is ASCII."""

    def value(self, tag: int) -> bytes:
        """A value, b"" if it is absent, empty or a sequence."""
        value = self.items.get(tag, b"")
        return value if isinstance(value, bytes) else b""

    def text(self, tag: int) -> str:
        """A value decoded, with its backslashes."""
        return charset.decode(self.value(tag), self.character_set, tags.vr_of(tag))

    def sequence(self, tag: int) -> list[Identifier]:
        """A sequence's items, [] if it is absent, empty or no sequence."""
        value = self.items.get(tag)
        return value if isinstance(value, list) else []


def decode_identifier(data: Buffer, transfer_syntax: TransferSyntax) -> Identifier:
    """Reads a whole data set into values; DataSetError if it is none."""
    view = memoryview(inflate(data, INFLATED_BYTES_MAX, "identifier") if transfer_syntax.deflated else data)
    encoding = elements.encoding_of(view, transfer_syntax)
    return _Decoder(view).data_set(0, len(view), encoding, b"", 0)


class _Decoder:
    """One identifier being read."""

    __slots__ = ("_count", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._count = 0

    def data_set(self, start: int, end: int, encoding: int, character_set: bytes, depth: int) -> Identifier:
        """The identifier, or an item in it."""
        items: dict[int, bytes | list[Identifier]] = {}
        for element in elements.walk(self._view, encoding, start, end):
            self._counted()
            if not element.tag & 0xFFFF or element.tag >> 16 == 0xFFFE:
                continue
            if element.vr == "SQ":
                items[element.tag] = self._items(element, encoding, character_set, depth + 1)
            elif element.length and tags.vr_of(element.tag) == "SQ":
                continue  # says that it is no sequence: of no use as the key that its tag names
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
            self._counted()
            if item.tag != tags.Item:
                raise DataSetError(
                    f"the identifier has no item where one must stand, before offset {item.value_offset}"
                )
            within = elements.item_encoding(self._view, item, encoding)
            end = item.value_offset + item.length
            items.append(self.data_set(item.value_offset, end, within, character_set, depth))
        return items

    def _counted(self) -> None:
        self._count += 1
        if self._count > ELEMENT_COUNT_MAX:
            raise DataSetError(f"the identifier has more than {ELEMENT_COUNT_MAX} elements")


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

    A sequence is given as its items, or as the bytes of its items in Explicit VR Little Endian (as level blobs have
    them). Sequences get defined lengths. (0008,0005) is written only where the values hold it.
    """
    return finished(_encode(items, working_encoding(transfer_syntax), 0, vr_of), transfer_syntax)


def working_encoding(transfer_syntax: TransferSyntax) -> int:
    """The encoding of the elements that `finished` takes: little endian, and not deflated."""
    encoding = transfer_syntax.encoding
    return EXPLICIT_VR if encoding & BIG_ENDIAN else encoding


def finished(data: bytes, transfer_syntax: TransferSyntax) -> bytes:
    """A data set in a transfer syntax, whose elements stand one after the other in `working_encoding`."""
    if transfer_syntax.encoding & BIG_ENDIAN:
        return reencode(data, EXPLICIT_VR, transfer_syntax.encoding)
    if transfer_syntax.deflated:
        data = deflate(data)
        data += bytes(len(data) % 2)
    return data


class Form:
    """How the elements of a tag are written in a `working_encoding`, but for their values (PS3.5 7.1)."""

    __slots__ = ("_length_bytes", "_padding", "_start", "is_foreign", "vr")

    def __init__(self, tag: int, vr: str, encoding: int) -> None:
        self.vr = vr
        self._start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        self._length_bytes = 4
        self._padding = b"\0" if vr == "UI" or vr in BINARY_VRS else b" "
        self.is_foreign = vr == "SQ" and not encoding & EXPLICIT_VR
        """Whether the items of a level blob have another encoding than this."""
        if encoding & EXPLICIT_VR:
            self._start += vr.encode()
            if vr in LONG_VRS:
                self._start += b"\0\0"
            else:
                self._length_bytes = 2

    def element(self, value: bytes) -> bytes:
        """The element with a value, of a sequence in the encoding of the rest."""
        if len(value) & 1:
            value += self._padding
        length = len(value)
        if self._length_bytes == 4:
            return b"%b%b%b" % (self._start, length.to_bytes(4, "little"), value)
        if length <= 0xFFFF:
            return b"%b%b%b" % (self._start, length.to_bytes(2, "little"), value)
        # A list of a thousand failed UIDs has more bytes than the length field of UI holds (PS3.5 6.2.2).
        return b"%bUN\0\0%b%b" % (self._start[:4], length.to_bytes(4, "little"), value)

    def element_of_blob(self, value: bytes) -> bytes:
        """The same; of a sequence as a level blob has it."""
        if not self.is_foreign or not value:
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
