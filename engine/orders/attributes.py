"""Attributes of steps as the registry stores them: Explicit VR Little Endian, all texts in UTF-8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.dicom import charset, tags
from engine.dicom.identifier import Identifier, Value, decode_identifier, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN

Items = Mapping[int, Value]
"""Attributes by tag."""
_TEXT_VRS: Final = charset.TEXT_VRS


def in_utf_8(data_set: Identifier) -> dict[int, Value]:
    """The attributes of a data set, with all texts in UTF-8."""
    return {tag: _recoded(data_set, tag, value) for tag, value in data_set.items.items()}


def _recoded(data_set: Identifier, tag: int, value: bytes | list[Identifier]) -> Value:
    if isinstance(value, list):
        return [in_utf_8(item) for item in value]
    vr = tags.vr_of(tag)
    if vr not in _TEXT_VRS or (value.isascii() and b"\x1b" not in value):
        return value
    return charset.decode(value, data_set.character_set, vr).encode()


def encoded(items: Items) -> bytes:
    """Attributes with texts in UTF-8, as they are stored."""
    with_set = {tags.SpecificCharacterSet: charset.UTF_8, **items}
    return encode_identifier(dict(sorted(with_set.items())), EXPLICIT_VR_LITTLE_ENDIAN)


def decoded(data: bytes, *, element_count_max: int) -> Identifier:
    """Stored attributes. Raises DataSetError."""
    return decode_identifier(data, EXPLICIT_VR_LITTLE_ENDIAN, element_count_max=element_count_max)


def in_set(items: Items, character_set: bytes) -> dict[int, Value] | None:
    """Attributes whose texts are in UTF-8 in another character set; None: it lacks a character."""
    found: dict[int, Value] = {}
    for tag, value in items.items():
        if not isinstance(value, bytes):
            inner = [in_set(values_of(item), character_set) for item in value]
            if any(item is None for item in inner):
                return None
            found[tag] = [item for item in inner if item is not None]
        elif value.isascii() or tags.vr_of(tag) not in _TEXT_VRS:
            found[tag] = value
        else:
            text = charset.encode(value.decode("utf-8", "replace"), character_set, tags.vr_of(tag))
            if text is None:
                return None
            found[tag] = text
    return found


def with_set(items: Items, character_set: bytes) -> dict[int, Value]:
    """For an answer: in the requested character set if that has all letters, else in UTF-8, which is then named."""
    if is_plain(items):
        return dict(items)
    recoded = in_set(items, character_set) if character_set else None
    if recoded is not None:
        return {tags.SpecificCharacterSet: character_set, **recoded}
    return {tags.SpecificCharacterSet: charset.UTF_8, **items}


def is_plain(items: Items) -> bool:
    """Whether no text needs a character set."""
    for tag, value in items.items():
        if isinstance(value, bytes):
            if not value.isascii() and tags.vr_of(tag) in _TEXT_VRS:
                return False
        elif not all(is_plain(values_of(item)) for item in value):
            return False
    return True


def values_of(item: Identifier | Items) -> Items:
    """The attributes of an item of a sequence."""
    return item.items if isinstance(item, Identifier) else item
