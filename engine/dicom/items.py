"""The items of a sequence as level blobs have them: in Explicit VR Little Endian, texts in UTF-8.

Takes them apart and puts them together again with defined lengths, VRs as they are, whatever the dictionary says. Does
not know what their attributes mean: `index.query` decides what is shown of a sequence, `services.answers` in which
character set.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from engine.errors import DataSetError

from . import charset, elements
from .identifier import LONG_VRS
from .transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN

NESTING_MAX: Final = 32
"""Sequences within sequences; a blob's sequence has 4 KiB."""

_ENCODING: Final = EXPLICIT_VR_LITTLE_ENDIAN.encoding


class Content(NamedTuple):
    """One element of an item."""

    tag: int
    vr: str
    value: bytes
    """As it lies there, padding included; of a sequence its items."""


def contents(items: bytes) -> list[list[Content]]:
    """The elements of each item. Raises DataSetError."""
    return [
        [
            Content(element.tag, element.vr, items[element.value_offset : element.value_offset + element.length])
            for element in elements.walk(items, _ENCODING, item.value_offset, item.value_offset + item.length)
        ]
        for item in elements.walk(items, _ENCODING)
    ]


def joined(items: Iterable[Iterable[Content]]) -> bytes:
    """The reverse."""
    parts = []
    for item in items:
        data = b"".join([_element(*content) for content in item])
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(data)) + data)
    return b"".join(parts)


def _element(tag: int, vr: str, value: bytes) -> bytes:
    value += b" " * (len(value) & 1)
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode("ascii"))
    length = struct.pack("<xxI", len(value)) if vr in LONG_VRS else struct.pack("<H", len(value))
    return start + length + value


def has_text_beyond_ascii(items: bytes) -> bool:
    """Whether any text, at any depth, needs a character set. Raises DataSetError."""
    is_ascii = True

    def look(text: bytes, vr: str) -> bytes:
        nonlocal is_ascii
        is_ascii = is_ascii and text.isascii()
        return text

    if not items.isascii():
        recoded(items, look)
    return not is_ascii


def recoded(items: bytes, recode: Callable[[bytes, str], bytes | None]) -> bytes | None:
    """The same items with each text, at any depth, as `recode` gives it for the text and its VR.

    None when `recode` gives None for one of them. Raises DataSetError.
    """
    return _recoded(items, recode, 0)


def _recoded(items: bytes, recode: Callable[[bytes, str], bytes | None], depth: int) -> bytes | None:
    if depth > NESTING_MAX:
        raise DataSetError(f"a sequence nests more than {NESTING_MAX} others")
    changed = []
    for item in contents(items):
        content = []
        for tag, vr, value in item:
            other: bytes | None = value
            if vr == "SQ":
                other = _recoded(value, recode, depth + 1)
            elif vr in charset.TEXT_VRS:
                other = recode(value.rstrip(b" \0"), vr)
            if other is None:
                return None
            content.append(Content(tag, vr, other))
        changed.append(content)
    return joined(changed)
