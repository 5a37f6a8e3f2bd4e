"""Mask subtraction: which frames are subtracted from which, as plain values (PS3.3 C.7.6.10, C.11.13, C.11.19).

    contrast frames ─ table ─ averaged ─────────────────────────────┐
    mask frames ───── table ─ averaged ─ shifted ─ × (1 - visibility) ┴─ difference ─► window

Frames are counted from 1. `subtraction` does the arithmetic. A frame that no mask is for is shown as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

import msgspec

from engine.archive.rendering.look_up_table import LookUpTable, table_in
from engine.dicom import tags
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head

AVERAGE: Final = "AVG_SUB"
INTERVAL: Final = "TID"
REVERSED_INTERVAL: Final = "REV_TID"
NONE: Final = "NONE"
SUBTRACTED: Final = "SUB"
TO_LOG: Final = "TO_LOG"

MASKS_MAX: Final = 1000
FRAMES_MAX: Final = 100
"""The most frames that are averaged."""
SHIFTS_MAX: Final = 1000
SHIFT_MAX: Final = 1 << 15
"""Pixels by which a mask is shifted at most."""
VERTICES_MAX: Final = 10_000

Ranges = tuple[tuple[int, int], ...]
"""First and last frame of each range, from 1; (): all frames."""


class Shift(msgspec.Struct, frozen=True):
    """Where the mask comes to lie: positive rows move it down, positive columns to the left
    (PS3.3 C.7.6.10.1.2: toward the lower row, and toward the left hand side)."""

    rows: float
    columns: float
    ranges: Ranges = ()
    vertices: tuple[float, ...] = ()
    """Row and column, from 1, of each corner of the region of the contrast frame that it is for; (): all of it."""


class Mask(msgspec.Struct, frozen=True):
    """One item of Mask Subtraction Sequence (0028,6100)."""

    operation: str
    """AVG_SUB, TID or REV_TID."""
    ranges: Ranges = ()
    mask_frames: tuple[int, ...] = ()
    """Of AVG_SUB."""
    averaged: int = 1
    """How many contrast frames are averaged, from the one that is shown on."""
    offset: int = 1
    """Of TID and REV_TID: how many frames the mask is before the contrast frame; negative: after it."""
    shifts: tuple[Shift, ...] = ()
    """Of a pixel in several regions the last one counts."""

    def frames_for(self, number: int, count: int) -> tuple[int, ...]:
        """The frames of the mask for a frame of an image of `count`; () if it is not for that frame."""
        if self.ranges and not _within(number, self.ranges):
            return ()
        if self.operation == AVERAGE:
            return self.mask_frames if self.ranges or number <= count - self.averaged + 1 else ()
        place = number - self.offset
        if self.operation == REVERSED_INTERVAL:
            first = self.ranges[0][0]
            place = first - self.offset - (number - first)
        return (place,) if 1 <= place <= count or self.ranges else ()


class View(msgspec.Struct, frozen=True):
    """How a range of frames is displayed, an item of Frame Display Sequence (0008,9458)."""

    first: int
    last: int
    is_subtracted: bool
    visibility: float
    """The share of the mask that stays visible, 0 to 1."""


class FrameTable(msgspec.Struct, frozen=True):
    """A table that makes the values of frames logarithmic, an item of Pixel Intensity Relationship LUT Sequence."""

    ranges: Ranges
    table: LookUpTable


class Subtraction(msgspec.Struct, frozen=True):
    """Everything that an image, or a presentation state for it, says of subtraction."""

    masks: tuple[Mask, ...] = ()
    is_subtracted: bool = True
    """Of frames without a view."""
    views: tuple[View, ...] = ()
    tables: tuple[FrameTable, ...] = ()

    def mask_for(self, number: int, count: int) -> Mask | None:
        """The mask of a frame of an image of `count`; None: the frame is shown as it is."""
        view = self._view(number)
        if not (self.is_subtracted if view is None else view.is_subtracted):
            return None
        return next((mask for mask in self.masks if mask.frames_for(number, count)), None)

    def visibility(self, number: int) -> float:
        """The share of the mask that stays visible in a frame."""
        view = self._view(number)
        return 0.0 if view is None else view.visibility

    def table_for(self, number: int) -> LookUpTable | None:
        """The table for the values of a frame."""
        return next((each.table for each in self.tables if not each.ranges or _within(number, each.ranges)), None)

    def _view(self, number: int) -> View | None:
        return next((view for view in self.views if view.first <= number <= view.last), None)


def of_image(head: Head) -> Subtraction | None:
    """The subtraction that a multi-frame image recommends; None if all frames are to be shown as stored.

    Raises TranscodeError for one that makes no sense, DataSetError.
    """
    if tags.MaskSubtractionSequence not in head:
        return None
    subtraction = Subtraction(
        tuple(_masks(head, None)), head.text(tags.RecommendedViewingMode) == SUBTRACTED, views=tuple(_views(head))
    )
    is_shown = subtraction.is_subtracted or any(view.is_subtracted for view in subtraction.views)
    return subtraction if subtraction.masks and is_shown else None


def of_state(head: Head, sop_instance_uid: str) -> Subtraction | None:
    """The subtraction that a presentation state has for an image. Raises TranscodeError, DataSetError."""
    views: list[View] = []
    for item in items_for(head, tags.MultiFramePresentationSequence, sop_instance_uid):
        views += _views(item)
    tables = tuple(
        FrameTable(_ranges(item, tags.LUTFrameRange), table_in(item, tags.PixelIntensityRelationshipLUTSequence))
        for item in items_for(head, tags.PixelIntensityRelationshipLUTSequence, sop_instance_uid)
        if item.text(tags.LUTFunction) in (TO_LOG, "")
    )
    masks = tuple(_masks(head, sop_instance_uid))
    return Subtraction(masks, views=tuple(views), tables=tables) if masks or tables else None


def _masks(head: Head, sop_instance_uid: str | None) -> Iterator[Mask]:
    of_frames = list(_shifts_of_frames(head)) if sop_instance_uid is None else []
    for index, item in enumerate(items_for(head, tags.MaskSubtractionSequence, sop_instance_uid)):
        if index == MASKS_MAX:
            raise TranscodeError(f"mask subtraction has more than {MASKS_MAX} items")
        operation = item.text(tags.MaskOperation)
        if operation != NONE:
            identifier = item.numbers(tags.SubtractionItemID)
            shifts = [shift for of, shift in of_frames if of == identifier]
            yield _mask(item, operation, (*_shifts(item), *shifts))


def _mask(item: Head, operation: str, shifts: tuple[Shift, ...]) -> Mask:
    mask = Mask(
        operation,
        ranges=_ranges(item, tags.ApplicableFrameRange),
        mask_frames=_whole(item, tags.MaskFrameNumbers),
        averaged=next(iter(_whole(item, tags.ContrastFrameAveraging)), 1) or 1,
        offset=next(iter(_whole(item, tags.TIDOffset)), 1),
        shifts=shifts,
    )
    if operation not in (AVERAGE, INTERVAL, REVERSED_INTERVAL):
        raise TranscodeError(f"mask subtraction by {operation[:16] or 'nothing'} is not applied")
    if operation == AVERAGE and not mask.mask_frames:
        raise TranscodeError("mask subtraction names no mask frames")
    if operation == REVERSED_INTERVAL and not mask.ranges:
        raise TranscodeError("mask subtraction by REV_TID has no range of frames")
    if max(len(mask.mask_frames), mask.averaged) > FRAMES_MAX:
        raise TranscodeError(f"mask subtraction averages more than {FRAMES_MAX} frames")
    return mask


def _shifts(item: Head) -> Iterator[Shift]:
    """Those of the whole mask, and those of frames and regions."""
    if tags.MaskSubPixelShift in item:
        yield _shift(item)
    count = 0
    for frames in item.items(tags.PixelShiftSequence):
        ranges = _ranges(frames, tags.PixelShiftFrameRange)
        for region in frames.items(tags.RegionPixelShiftSequence):
            count += 1
            vertices = region.numbers(tags.VerticesOfTheRegion)
            if count > SHIFTS_MAX or len(vertices) > VERTICES_MAX:
                raise TranscodeError("mask subtraction has too many regions")
            if vertices and (len(vertices) < 6 or len(vertices) % 2):
                raise TranscodeError(f"a region of mask subtraction has {len(vertices)} numbers")
            yield _shift(region, ranges, tuple(vertices))


def _shifts_of_frames(head: Head) -> Iterator[tuple[list[float], Shift]]:
    """The shifts in the functional groups of an enhanced image, each with the Subtraction Item ID of its mask."""
    groups: list[tuple[Ranges, Head]] = [((), group) for group in head.items(tags.SharedFunctionalGroupsSequence)]
    per_frame = enumerate(head.items(tags.PerFrameFunctionalGroupsSequence), 1)
    for ranges, group in chain(groups, ((((number, number),), group) for number, group in per_frame)):
        for item in group.items(tags.FramePixelShiftSequence):
            yield item.numbers(tags.SubtractionItemID), _shift(item, ranges)


def _shift(item: Head, ranges: Ranges = (), vertices: tuple[float, ...] = ()) -> Shift:
    numbers = item.numbers(tags.MaskSubPixelShift)
    if len(numbers) != 2 or not all(math.isfinite(each) and abs(each) <= SHIFT_MAX for each in numbers):
        raise TranscodeError("Mask Sub-pixel Shift (0028,6114) is no pair of pixels")
    return Shift(numbers[0], numbers[1], ranges, vertices)


def _views(head: Head) -> Iterator[View]:
    for index, item in enumerate(head.items(tags.FrameDisplaySequence)):
        first, last = _whole(item, tags.StartTrim), _whole(item, tags.StopTrim)
        mode = item.text(tags.RecommendedViewingMode)
        if index == MASKS_MAX:
            raise TranscodeError(f"Frame Display Sequence has more than {MASKS_MAX} items")
        if first and last and mode:
            visibility = next(iter(item.numbers(tags.MaskVisibilityPercentage)), 0.0) / 100
            yield View(first[0], last[0], mode == SUBTRACTED, min(max(visibility, 0.0), 1.0))


def items_for(head: Head, sequence: int, sop_instance_uid: str | None) -> Iterator[Head]:
    """The items of a sequence that are for an image (None: all); one that names no images is for each."""
    for item in head.items(sequence):
        named = [each.text(tags.ReferencedSOPInstanceUID) for each in item.items(tags.ReferencedImageSequence)]
        if sop_instance_uid is None or not named or sop_instance_uid in named:
            yield item


def _ranges(item: Head, tag: int) -> Ranges:
    numbers = _whole(item, tag)
    if len(numbers) % 2 or len(numbers) > 2 * SHIFTS_MAX:
        raise TranscodeError(f"{tags.keyword_of(tag)} has {len(numbers)} numbers")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _whole(item: Head, tag: int) -> tuple[int, ...]:
    numbers = item.numbers(tag)
    if not all(math.isfinite(each) for each in numbers):
        raise TranscodeError(f"{tags.keyword_of(tag)} has an invalid number")
    return tuple(int(each) for each in numbers)


def _within(number: int, ranges: Ranges) -> bool:
    return any(first <= number <= last for first, last in ranges)
