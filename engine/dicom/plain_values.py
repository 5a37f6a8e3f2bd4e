"""Converts values of the index and of matches to plain Python values for JSON and text output.

In the index, text is UTF-8, numbers of binary VRs are in little endian, a sequence is its items in Explicit VR Little
Endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from engine.dicom import tags, values
from engine.dicom.identifier import Identifier, decode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError, QueryError

_NUMBERS = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d", "UV": "<Q", "SV": "<q"}

_NUMBER_VRS = frozenset((*_NUMBERS, "AT", "IS", "DS"))

EMPTY_VALUE = '""'
"""The value of a key that matches attributes without a value (PS3.4 C.2.2.2.7)."""


def value_of(tag: int, value: bytes, vr_of: Callable[[int], str] = tags.vr_of) -> object:
    """An attribute of a match for JSON: text or a number; a list if PS3.6 allows several values.

    A missing number is None. A text that should be a number and is not stays text.
    """
    vr = vr_of(tag)
    if vr == "SQ":
        items = _items(tag, value)
        return [_item(item, vr_of) for item in items] if items or not value else ["(sequence)"]
    parts = _values(vr, value)
    if vr in values.SINGLE_VALUE_VRS or not _has_several_values(tag):
        return parts[0] if len(parts) == 1 else parts or (None if vr in _NUMBER_VRS else "")
    return parts


def encoded_numbers(tag: int, vr: str, text: str) -> bytes | None:
    """The key value for text typed for an attribute of a binary VR; None for another VR. Raises QueryError."""
    form = _NUMBERS.get(vr)
    if form is None or not text.strip(" *") or text == EMPTY_VALUE:
        return None if form is None else b""
    try:
        parse = float if form in ("<f", "<d") else int
        return b"".join(struct.pack(form, parse(part)) for part in text.split("\\"))
    except (ValueError, OverflowError, struct.error):
        raise QueryError(f"{tags.keyword_of(tag)}={text}: it is not a number of VR {vr}") from None


def text_of(tag: int, value: bytes, vr_of: Callable[[int], str] = tags.vr_of) -> str:
    """An attribute of a match as DICOM text: several values with backslashes between them."""
    return as_text(value_of(tag, value, vr_of))


def as_text(value: object) -> str:
    """A result of `value_of` as DICOM text."""
    if isinstance(value, dict):
        return "[" + ", ".join(f"{name}={as_text(inner)}" for name, inner in value.items()) + "]"
    if isinstance(value, list):
        return ("" if value and isinstance(value[0], dict) else "\\").join(map(as_text, value))
    return "" if value is None else str(value)


def _has_several_values(tag: int) -> bool:
    """Whether PS3.6 allows several values. A private attribute is a list only if it has several."""
    return tag in tags.SEVERAL_VALUED or tag in tags.OTHERS_SEVERAL_VALUED


def _values(vr: str, value: bytes) -> list[object]:
    if vr == "AT":
        return [tags.keyword_of(group << 16 | element) for group, element in _pairs(value)]
    form = _NUMBERS.get(vr)
    if form is not None:
        whole = value[: len(value) - len(value) % struct.calcsize(form)]
        return [number for (number,) in struct.iter_unpack(form, whole)]
    texts = values.split(vr, value.decode("utf-8", "replace"))
    return [_number(vr, text) for text in texts] if vr in ("IS", "DS") else list[object](texts)


def _number(vr: str, text: str) -> object:
    """An IS or DS as a number; the text if it is not one."""
    try:
        number = int(text) if vr == "IS" else float(text)
    except ValueError:
        return text or None
    return number if math.isfinite(number) else text


def _items(tag: int, value: bytes) -> list[Identifier]:
    """The items of a sequence of a match; empty if they cannot be read."""
    header = struct.pack("<HH2s2xI", tag >> 16, tag & 0xFFFF, b"SQ", len(value))
    try:
        return decode_identifier(header + value, EXPLICIT_VR_LITTLE_ENDIAN).sequence(tag)
    except DataSetError:
        return []


def _item(item: Identifier, vr_of: Callable[[int], str]) -> dict[str, object]:
    return {
        tags.keyword_of(tag): value_of(tag, value, vr_of)
        if isinstance(value, bytes)
        else [_item(inner, vr_of) for inner in value]
        for tag, value in item.items.items()
    }


def _pairs(value: bytes) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<HH", value[: len(value) // 4 * 4]))
