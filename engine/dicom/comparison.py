"""Compares the contents of two data sets, element by element, in bounded memory.

Differences of encoding do not count:

    lengths of sequences and items, group lengths (gggg,0000), Length to End (0008,0001)
    implicit or explicit VR, UN for a VR that the dictionary or the other side knows, byte order
    padding of values (spaces and NULs at the end of text values, one byte after a value of odd length)
    Data Set Trailing Padding (FFFC,FFFC), zeros and blanks after the end, the order of elements in the bytes
    an empty Basic Offset Table instead of a filled one

Every other difference counts: another value, one more element even if it is empty, items in another order. Fragments of
Pixel Data are the same if their bytes are. To compare two lossless compressions, decode them first, as
`archive.lifecycle.resent` does. Unreadable data raises DataSetError, and so never counts as the same. Standard: PS3.5
6.2, 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from engine.errors import DataSetError

from . import tags
from .content import PIXEL_DATA, Contents, Element
from .identifier import BINARY_VRS

PIECE_BYTES: Final = 256 << 10
"""Bytes of a long value read at a time on each side; a multiple of the width of every number."""
TEXT_BYTES_MAX: Final = 1 << 20
"""Limit for a text whose values are compared without their padding, one by one."""

_LENGTH_TO_END: Final = 0x00080001
_TRAILING_PADDING: Final = 0xFFFCFFFC
_SINGLE_TEXT_VRS: Final = ("LT", "ST", "UR", "UT")
_INTERCHANGEABLE_VRS: Final = (
    frozenset(("OB", "OW", "UN")),
    frozenset(("US", "SS", "OW")),
    frozenset(("UL", "SL", "OL")),
)
_PADDING: Final = re.compile(rb"[ \0]+(?=\\)")
_ITEM_HEADER: Final = b"\xfe\xff\x00\xe0"


class Difference(NamedTuple):
    """One element that differs."""

    path: tuple[tuple[int, int], ...]
    """The sequences above it, from the root down: tag and number of the item, from 0."""
    left: Element | None
    """None: the element is only on the other side."""
    right: Element | None

    @property
    def name(self) -> str:
        """Keywords, or numbers, from the root down: RequestAttributesSequence[1].RequestedProcedureID."""
        element = self.left or self.right
        above = [f"{tags.keyword_of(tag)}[{number + 1}]" for tag, number in self.path]
        return ".".join([*above, tags.keyword_of(element.tag) if element is not None else "(after the end)"])


class Comparison:
    """The comparison of two data sets."""

    def __init__(self, left: Contents, right: Contents, *, without: frozenset[int] = frozenset()) -> None:
        """`without`: tags of the root that are not compared."""
        self.left, self.right = left, right
        self._excluded_tags = without

    @property
    def is_same(self) -> bool:
        """Whether there is no difference. Raises DataSetError."""
        return next(self.differences(), None) is None

    def differences(self) -> Iterator[Difference]:
        """All differences, in the order of their tags. Raises DataSetError."""
        left, left_end = self.left.root()
        right, right_end = self.right.root()
        yield from self._level(
            [each for each in left if each.tag not in self._excluded_tags],
            [each for each in right if each.tag not in self._excluded_tags],
            (),
        )
        if not self._tails_are_same(left_end, right_end):
            yield Difference((), None, None)

    # -- inside ---------------------------------------------------------------------------------

    def _level(
        self, left: Sequence[Element], right: Sequence[Element], path: tuple[tuple[int, int], ...]
    ) -> Iterator[Difference]:
        left, right = _elements_that_count(left), _elements_that_count(right)
        one = other = 0
        while one < len(left) or other < len(right):
            here = left[one] if one < len(left) else None
            there = right[other] if other < len(right) else None
            if there is None or (here is not None and here.tag < there.tag):
                yield Difference(path, here, None)
                one += 1
            elif here is None or there.tag < here.tag:
                yield Difference(path, None, there)
                other += 1
            else:
                yield from self._element(here, there, path)
                one += 1
                other += 1

    def _element(self, here: Element, there: Element, path: tuple[tuple[int, int], ...]) -> Iterator[Difference]:
        if here.has_fragments or there.has_fragments:
            if not (here.has_fragments and there.has_fragments and self._fragments_are_same(here, there)):
                yield Difference(path, here, there)
        elif here.has_items or there.has_items:
            yield from self._sequence(here, there, path)
        elif not self._is_same_vr(here.vr, there.vr):
            yield Difference(path, here, there)
        elif not self._values_are_same(here, there):
            if here.vr == there.vr == "UN" and self._may_be_items(here, there):
                yield from self._sequence(here, there, path)
            else:
                yield Difference(path, here, there)

    def _sequence(self, here: Element, there: Element, path: tuple[tuple[int, int], ...]) -> Iterator[Difference]:
        if not all(each.has_items or each.vr == "UN" for each in (here, there)):
            yield Difference(path, here, there)
            return
        left, right = _items(self.left, here), _items(self.right, there)
        number = 0
        while True:
            one, other = next(left, None), next(right, None)
            if one is None and other is None:
                return
            if one is None or other is None:
                yield Difference(path, here, there)
                return
            yield from self._level(one, other, (*path, (here.tag, number)))
            number += 1

    def _may_be_items(self, here: Element, there: Element) -> bool:
        """Whether both values look like sequences, although neither side declares that."""
        return (
            self.left.read(here.offset, 4) == _ITEM_HEADER == self.right.read(there.offset, 4)
            and _is_readable(self.left, here)
            and _is_readable(self.right, there)
        )

    def _is_same_vr(self, one: str, other: str) -> bool:
        if one == other or "UN" in (one, other):
            return True
        if one not in BINARY_VRS and other not in BINARY_VRS:
            return True
        return any(one in vrs and other in vrs for vrs in _INTERCHANGEABLE_VRS)

    def _values_are_same(self, here: Element, there: Element) -> bool:
        vr = here.vr if here.vr != "UN" else there.vr
        longest = max(here.length, there.length)
        if vr not in BINARY_VRS and vr != "SQ" and longest <= TEXT_BYTES_MAX:
            return _strip(vr, self.left.value(here)) == _strip(vr, self.right.value(there))
        shortest = min(here.length, there.length)
        if longest - shortest > 1 or (longest != shortest and longest % 2):
            return False
        for at in range(0, shortest, PIECE_BYTES):
            count = min(PIECE_BYTES, shortest - at)
            if self.left.value(here, at, count) != self.right.value(there, at, count):
                return False
        if longest == shortest:
            return True
        side, element = (self.left, here) if here.length == longest else (self.right, there)
        return side.read(element.offset + longest - 1, 1) in (b"\0", b" ")

    def _fragments_are_same(self, here: Element, there: Element) -> bool:
        left, right = self.left.fragments(here), self.right.fragments(there)
        if not (left and right and left[0][1] and right[0][1]):
            left, right = left[1:], right[1:]  # a Basic Offset Table may be empty
        if [length for _, length in left] != [length for _, length in right]:
            return False
        return all(
            self._bytes_are_same(one, other, length) for (one, length), (other, _) in zip(left, right, strict=True)
        )

    def _bytes_are_same(self, one: int, other: int, length: int) -> bool:
        return all(
            self.left.read(one + at, min(PIECE_BYTES, length - at))
            == self.right.read(other + at, min(PIECE_BYTES, length - at))
            for at in range(0, length, PIECE_BYTES)
        )

    def _tails_are_same(self, left_end: int, right_end: int) -> bool:
        """Compares the bytes after the end. Zeros and blanks do not count; anything else must be the same."""
        lengths = self.left.length - left_end, self.right.length - right_end
        if lengths[0] == lengths[1] and self._bytes_are_same(left_end, right_end, lengths[0]):
            return True
        return _is_blank(self.left, left_end) and _is_blank(self.right, right_end)


def _elements_that_count(level: Sequence[Element]) -> list[Element]:
    """The elements that count in a comparison, in the order of their tags."""
    elements = [each for each in level if each.tag & 0xFFFF and each.tag not in (_LENGTH_TO_END, _TRAILING_PADDING)]
    elements.sort(key=lambda each: each.tag)
    return elements


def _items(contents: Contents, element: Element) -> Iterator[list[Element]]:
    """The items of a sequence, declared or not. Items within UN are in implicit VR."""
    return contents.items(element, element.encoding if element.has_items else 0)


def _is_readable(contents: Contents, element: Element) -> bool:
    try:
        for _ in _items(contents, element):
            pass
    except DataSetError:
        return False
    return True


def _strip(vr: str, text: bytes) -> bytes:
    text = text.rstrip(b" \0")
    # No character set has a space right before the second byte of a character, which may be a backslash.
    return text if vr in _SINGLE_TEXT_VRS else _PADDING.sub(b"", text)


def _is_blank(contents: Contents, start: int) -> bool:
    return not any(contents.read(at, PIECE_BYTES).strip(b"\0 ") for at in range(start, contents.length, PIECE_BYTES))


def is_pixels(difference: Difference) -> bool:
    """Whether the top-level Pixel Data differs."""
    element = difference.left or difference.right
    return not difference.path and element is not None and element.tag == PIXEL_DATA
