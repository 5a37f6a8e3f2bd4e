"""Overlay planes: what an image or a presentation state says of them, as plain values (PS3.3 C.9.2, C.11.7).

The attributes of up to sixteen planes stand in the groups 6000, 6002 to 601E. `planes` makes arrays of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from engine.dicom import tags

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head

GROUPS: Final = range(0x6000, 0x6020, 2)
ORIGIN_MAX: Final = 1 << 15
WHITE: Final = 255


class Overlay(msgspec.Struct, frozen=True):
    """One overlay plane, or the planes of several frames."""

    group: int
    rows: int
    columns: int
    top: int
    """Row of the image on which the first row lies, from 0."""
    left: int
    first_frame: int
    """Frame of the image that has the first plane, from 1."""
    frame_count: int
    """Number of planes; 0: one, for every frame of the image."""
    data: bytes
    """One bit a pixel, the lowest first; b"": the bits are in the Pixel Data."""
    bit: int
    """Of a plane in the Pixel Data: its bit in each sample."""
    is_swapped: bool
    """Whether `data` consists of big-endian words."""
    is_region: bool = False
    """Whether it marks a region of interest, of which the outline is drawn: the region itself is to be seen."""
    level: int = WHITE
    """Grey level in which it is drawn."""


def overlays(head: Head) -> Iterator[Overlay]:
    """The planes of a data set; one that makes no sense is left out."""
    for group in GROUPS:
        if of(tags.OverlayRows, group) in head:
            overlay = _overlay(head, group)
            if overlay is not None:
                yield overlay


def of(tag: int, group: int) -> int:
    """The tag of an attribute in a group, from its tag in group 6000."""
    return tag + ((group - GROUPS.start) << 16)


def _overlay(head: Head, group: int) -> Overlay | None:
    rows, columns = head.number(of(tags.OverlayRows, group), 0), head.number(of(tags.OverlayColumns, group), 0)
    origin = head.numbers(of(tags.OverlayOrigin, group))
    top, left = (int(origin[0]) - 1, int(origin[1]) - 1) if len(origin) == 2 else (0, 0)
    frames = head.text(of(tags.NumberOfFramesInOverlay, group))
    frame_count = int(frames) if frames.isascii() and frames.isdigit() and len(frames) < 7 else 0
    data_tag = of(tags.OverlayData, group)
    data = head.raw(data_tag)
    is_swapped = head.order == ">" and head.vr(data_tag) == "OW"
    if is_swapped:
        data = data[: len(data) // 2 * 2]
    bit = head.number(of(tags.OverlayBitPosition, group), 0)
    is_complete = 8 * len(data) >= max(frame_count, 1) * rows * columns if data else 0 < bit < 32
    if not rows * columns or not is_complete or max(abs(top), abs(left)) > ORIGIN_MAX:
        return None
    return Overlay(
        group=group,
        rows=rows,
        columns=columns,
        top=top,
        left=left,
        first_frame=head.number(of(tags.ImageFrameOrigin, group), 1),
        frame_count=frame_count,
        data=data,
        bit=bit,
        is_swapped=is_swapped,
        is_region=head.text(of(tags.OverlayType, group)) == "R",
    )
