"""Look-up tables of a presentation state, as plain values (PS3.3 C.11.1, C.11.2, C.11.6). `grey` applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.dicom import tags
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head


class LookUpTable(msgspec.Struct, frozen=True):
    """A Modality, VOI, Presentation or Pixel Intensity Relationship LUT as it is stored."""

    descriptor: tuple[float, ...]
    data: bytes
    is_big_endian: bool


def table_of(head: Head, sequence: int) -> LookUpTable | None:
    """The look-up table of a sequence's first item. Raises TranscodeError if that has none."""
    item = head.item(sequence)
    return None if item is None else table_in(item, sequence)


def table_in(item: Head, sequence: int) -> LookUpTable:
    """The look-up table of an item of a sequence. Raises TranscodeError if there is none."""
    descriptor, data = item.numbers(tags.LUTDescriptor), item.raw(tags.LUTData)
    if len(descriptor) != 3 or not data:
        raise TranscodeError(f"{tags.keyword_of(sequence)} of the presentation state has no table")
    return LookUpTable(tuple(descriptor), data, item.order == ">")
