"""Reads the elements of a data set of any length from any source: level by level, and values on request.

Made for `dicom.comparison`: both forms of length, implicit VR within UN (PS3.5 6.2.2), both byte orders; no deflated
data sets. Holds a block of the source and the elements of the open levels. Against hostile input it limits the number
of elements in all and on one level, and the number of levels. Standard: PS3.5 section 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.errors import DataSetError

from . import elements, tags
from .identifier import LONG_VRS, NUMBER_BYTES
from .transfer_syntax import BIG_ENDIAN, EXPLICIT_VR

if TYPE_CHECKING:
    from typing import Literal

    from .sources import Source
    from .transfer_syntax import TransferSyntax

ELEMENTS_MAX: Final = 1_000_000
"""Limit for reads of headers, repeated ones included: seconds of work."""
LEVEL_ELEMENTS_MAX: Final = 50_000
"""Limit for one data set or item: a few megabytes."""
FRAGMENTS_MAX: Final = 200_000
NESTING_MAX: Final = 128
UNDEFINED: Final = 0xFFFFFFFF

PIXEL_DATA: Final = 0x7FE00010
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_BLOCK_BYTES: Final = 16 << 10
_VRS: Final = LONG_VRS | {
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FL", "FD", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM"),
    *("UI", "UL", "US"),
}


class Element(NamedTuple):
    """One element, and the place of its value."""

    tag: int
    vr: str
    """From the data set, else from the dictionary; UN if neither has it."""
    offset: int
    """Of the value, in bytes."""
    length: int
    """Of the value, without a delimiter."""
    is_open: bool
    """The length is undefined: the value is items, or the fragments of Pixel Data."""
    encoding: int
    """Of the items in the value."""
    number_bytes: int
    """Width of the numbers whose bytes must be swapped; 1: none."""

    @property
    def has_fragments(self) -> bool:
        """Whether these are the fragments of encapsulated Pixel Data (PS3.5 A.4)."""
        return self.is_open and self.tag == PIXEL_DATA

    @property
    def has_items(self) -> bool:
        """Whether this is certainly a sequence."""
        return self.vr == "SQ" or (self.is_open and self.tag != PIXEL_DATA)


class Contents:
    """The elements of one data set."""

    def __init__(self, source: Source, syntax: TransferSyntax, *, elements_max: int = ELEMENTS_MAX) -> None:
        self._source = source
        self._block, self._block_at = b"", 0
        self._budget = elements_max
        """Headers that may still be read."""
        self.encoding = elements.encoding_of(bytes(source.read(0, 8)), syntax) if source.length >= 8 else 0
        self.length = source.length

    def root(self) -> tuple[list[Element], int]:
        """The elements at the top level, and the offset after the last of them. Raises DataSetError."""
        elements: list[Element] = []
        at = 0
        while self.length - at >= 8:
            try:
                element, after = self._element(at, self.length, self.encoding, 0)
            except DataSetError:
                if not elements or self._budget < 0:
                    raise
                break
            if not element.tag >> 16:
                break
            self._append(elements, element)
            at = after
        return elements, at

    def items(self, element: Element, encoding: int | None = None) -> Iterator[list[Element]]:
        """The elements of each item of a sequence, in `encoding` if it is not the element's. Raises DataSetError."""
        inner = element.encoding if encoding is None else encoding
        for at, end, is_open in self._items(element, inner):
            yield self._elements(at, end, self._encoding_at(at, end, inner), 1, is_open)[0]

    def fragments(self, element: Element) -> list[tuple[int, int]]:
        """Offset and length of the Basic Offset Table and of each fragment of Pixel Data. Raises DataSetError."""
        positions: list[tuple[int, int]] = []
        for at, end, is_open in self._items(element, element.encoding):
            if is_open:
                raise DataSetError(f"a fragment of undefined length at offset {at}")
            if len(positions) == FRAGMENTS_MAX:
                raise DataSetError(f"more than {FRAGMENTS_MAX} fragments")
            positions.append((at, end - at))
        return positions

    def read(self, offset: int, count: int) -> bytes:
        """Raw bytes."""
        return bytes(self._source.read(offset, count))

    def value(self, element: Element, start: int = 0, count: int | None = None) -> bytes:
        """A value, or a piece of it, with numbers in little endian. Begin a piece at the start of a number."""
        available = element.length - start
        piece = self.read(element.offset + start, available if count is None else min(count, available))
        width = element.number_bytes
        if width == 1 or len(piece) % width:
            return piece
        swapped = bytearray(len(piece))
        for byte in range(width):
            swapped[byte::width] = piece[width - 1 - byte :: width]
        return bytes(swapped)

    # -- inside ---------------------------------------------------------------------------------

    def _append(self, level: list[Element], element: Element) -> None:
        if len(level) == LEVEL_ELEMENTS_MAX:
            raise DataSetError(f"more than {LEVEL_ELEMENTS_MAX} elements on one level")
        level.append(element)

    def _elements(self, at: int, end: int, encoding: int, depth: int, is_open: bool) -> tuple[list[Element], int]:
        """The elements from `at` on, and the offset after them: `end`, or the byte after the item's delimiter."""
        elements: list[Element] = []
        while is_open or end - at >= 8:
            if is_open and self._tag(at, end, encoding) == _ITEM_END:
                return elements, at + 8
            element, at = self._element(at, end, encoding, depth)
            self._append(elements, element)
        return elements, end

    def _element(self, at: int, end: int, encoding: int, depth: int) -> tuple[Element, int]:
        tag = self._tag(at, end, encoding)
        if tag >> 16 == 0xFFFE:
            raise DataSetError(f"a delimiter at offset {at} where an element should begin")
        order: Literal["big", "little"] = "big" if encoding & BIG_ENDIAN else "little"
        head = self._peek(at, 12)
        explicit_vr = vr = ""
        offset, width = at + 8, 4
        length_at = 4
        if encoding & EXPLICIT_VR:
            explicit_vr = head[4:6].decode("latin-1")
            if explicit_vr not in _VRS:
                raise DataSetError(f"no VR at offset {at + 4}")
            if explicit_vr in LONG_VRS:
                offset, length_at = at + 12, 8
            else:
                length_at, width = 6, 2
        length = int.from_bytes(head[length_at : length_at + width], order)
        if offset > end:
            raise DataSetError(f"the element at offset {at} is cut")
        vr = explicit_vr if explicit_vr not in ("", "UN") else tags.vr_of(tag)
        inner = 0 if explicit_vr == "UN" else encoding
        number_bytes = NUMBER_BYTES.get(explicit_vr, 1) if encoding & BIG_ENDIAN else 1
        if width == 4 and length == UNDEFINED:
            value_end, after = self._skip_items(offset, end, inner, depth)
            return Element(tag, vr, offset, value_end - offset, True, inner, 1), after
        if offset + length > end:
            raise DataSetError(f"the element at offset {at} goes beyond the end")
        return Element(tag, vr, offset, length, False, inner, number_bytes), offset + length

    def _items(self, element: Element, encoding: int) -> Iterator[tuple[int, int, bool]]:
        """The start of each item's elements, the latest possible end, and whether the item's length is undefined."""
        at, end = element.offset, element.offset + element.length
        while end - at >= 8:
            start, length = self._item(at, end, encoding)
            if length == UNDEFINED:
                yield start, end, True
                at = self._skip_elements(start, end, self._encoding_at(start, end, encoding), 1)
            else:
                yield start, start + length, False
                at = start + length

    def _skip_items(self, at: int, end: int, encoding: int, depth: int) -> tuple[int, int]:
        """The end of the items that begin at `at`, before their delimiter and after it."""
        if depth == NESTING_MAX:
            raise DataSetError(f"sequences nest more than {NESTING_MAX} deep")
        while self._tag(at, end, encoding) != _SEQUENCE_END:
            start, length = self._item(at, end, encoding)
            if length == UNDEFINED:
                at = self._skip_elements(start, end, self._encoding_at(start, end, encoding), depth + 1)
            else:
                at = start + length
        return at, at + 8

    def _skip_elements(self, at: int, end: int, encoding: int, depth: int) -> int:
        while self._tag(at, end, encoding) != _ITEM_END:
            _, at = self._element(at, end, encoding, depth)
        return at + 8

    def _item(self, at: int, end: int, encoding: int) -> tuple[int, int]:
        """The offset of an item's elements, and their length."""
        if self._tag(at, end, encoding) != _ITEM:
            raise DataSetError(f"no item at offset {at}")
        length = int.from_bytes(self._peek(at, 8)[4:], "big" if encoding & BIG_ENDIAN else "little")
        if length != UNDEFINED and at + 8 + length > end:
            raise DataSetError(f"the item at offset {at} goes beyond the end")
        return at + 8, length

    def _encoding_at(self, at: int, end: int, encoding: int) -> int:
        """The encoding within an item: implicit VR may begin there, explicit VR may not."""
        head = self._peek(at, 8)
        if end - at < 8 or not encoding & EXPLICIT_VR or head[4:6].decode("latin-1") in _VRS:
            return encoding
        if self._tag(at, end, encoding) == _ITEM_END:
            return encoding
        return encoding & ~EXPLICIT_VR

    def _tag(self, at: int, end: int, encoding: int) -> int:
        if end - at < 8:
            raise DataSetError(f"the data set ends within a sequence at offset {at}")
        self._budget -= 1
        if self._budget < 0:
            raise DataSetError("too many elements")
        head = self._peek(at, 4)
        if encoding & BIG_ENDIAN:
            return head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3]
        return head[1] << 24 | head[0] << 16 | head[3] << 8 | head[2]

    def _peek(self, at: int, count: int) -> bytes:
        start = at - self._block_at
        if start < 0 or start + count > len(self._block):
            self._block, self._block_at = self.read(at, _BLOCK_BYTES), at
            start = 0
        return self._block[start : start + count]
