"""Look-up tables and palettes, as plain values (PS3.3 C.11.1, C.11.2, C.11.6, C.7.9); `grey`, `colour` apply them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.dicom import tags
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head


_CHANNELS: Final = (
    (
        tags.RedPaletteColorLookupTableDescriptor,
        tags.RedPaletteColorLookupTableData,
        tags.SegmentedRedPaletteColorLookupTableData,
    ),
    (
        tags.GreenPaletteColorLookupTableDescriptor,
        tags.GreenPaletteColorLookupTableData,
        tags.SegmentedGreenPaletteColorLookupTableData,
    ),
    (
        tags.BluePaletteColorLookupTableDescriptor,
        tags.BluePaletteColorLookupTableData,
        tags.SegmentedBluePaletteColorLookupTableData,
    ),
)


class PaletteChannel(msgspec.Struct, frozen=True):
    """One colour of a palette as it is stored."""

    descriptor: tuple[int, ...]
    data: bytes
    segments: bytes
    """Instead of the data."""
    is_big_endian: bool


def palette_of(head: Head) -> tuple[PaletteChannel, ...]:
    """Red, green and blue. Raises TranscodeError."""
    channels: list[PaletteChannel] = []
    for descriptor_tag, data_tag, segmented_tag in _CHANNELS:
        descriptor = tuple(int(number) for number in head.numbers(descriptor_tag))
        if len(descriptor) != 3:
            raise TranscodeError("a palette's descriptor does not have three values")
        channels.append(PaletteChannel(descriptor, head.raw(data_tag), head.raw(segmented_tag), head.order == ">"))
    return tuple(channels)


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
