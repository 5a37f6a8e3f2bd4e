"""The items of a sequence in a level blob: in Explicit VR Little Endian, texts in UTF-8.

Decodes items, and encodes them again with defined lengths and their own VRs, not the dictionary's. Does not know what
their attributes mean: `index.query` chooses which of them an answer shows, `services.answers` the character set.
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
"""Sequences within sequences; one in a blob has a few KiB."""

_ENCODING: Final = EXPLICIT_VR_LITTLE_ENDIAN.encoding


class Content(NamedTuple):
    """One element of an item."""

    tag: int
    vr: str
    value: bytes
    """The raw bytes with padding; for a sequence its items."""


def decode_items(items: bytes) -> list[list[Content]]:
    """The elements of each item. Raises DataSetError."""
    return [
        [
            Content(element.tag, element.vr, items[element.value_offset : element.value_offset + element.length])
            for element in elements.walk(items, _ENCODING, item.value_offset, item.value_offset + item.length)
        ]
        for item in elements.walk(items, _ENCODING)
    ]


def encode_items(items: Iterable[Iterable[Content]]) -> bytes:
    """The reverse of `decode_items`."""
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
        recode_texts(items, look)
    return not is_ascii


def recode_texts(items: bytes, recode: Callable[[bytes, str], bytes | None]) -> bytes | None:
    """Replaces each text, at any depth, by the result of `recode` for the text and its VR.

    Returns None if `recode` returns None for one of them. Raises DataSetError.
    """
    return _recode_texts(items, recode, 0)


def _recode_texts(items: bytes, recode: Callable[[bytes, str], bytes | None], depth: int) -> bytes | None:
    if depth > NESTING_MAX:
        raise DataSetError(f"a sequence nests more than {NESTING_MAX} others")
    new_items = []
    for item in decode_items(items):
        contents = []
        for tag, vr, value in item:
            new_value: bytes | None = value
            if vr == "SQ":
                new_value = _recode_texts(value, recode, depth + 1)
            elif vr in charset.TEXT_VRS:
                new_value = recode(value.rstrip(b" \0"), vr)
            if new_value is None:
                return None
            contents.append(Content(tag, vr, new_value))
        new_items.append(contents)
    return encode_items(new_items)
