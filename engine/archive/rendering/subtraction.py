"""Subtracts masks from frames, as `mask` describes it. Runs in `render_process` only.

Values are float32 after the Modality LUT: exact for samples of 16 bits. Beyond its edge a shifted mask continues with
its last row or column; between pixels it is interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.rendering.frames import FrameReader
    from engine.archive.rendering.look_up_table import LookUpTable
    from engine.archive.rendering.mask import Mask, Shift, Subtraction

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]
    Modal: TypeAlias = Callable[[Samples], Samples]
    """The Modality LUT, of values as float64."""
    Table: TypeAlias = Callable[[LookUpTable], Modal]
    """Applies a table of a presentation state."""

SAMPLES_MAX: Final = 1 << 24
"""The largest frame that is subtracted; 4096 rows and columns."""


class FrameValues(NamedTuple):
    """A frame after the Modality LUT and subtraction."""

    values: Samples
    """(rows, columns), float32."""
    is_difference: bool
    low: float
    high: float
    """The least and the greatest value that the frame may have; of a difference, the greatest in both directions."""


class Subtractor:
    """Subtracts masks from the frames of one image."""

    def __init__(self, reader: FrameReader, subtraction: Subtraction, modal: Modal, table: Table | None = None) -> None:
        """Raises TranscodeError for a frame that is too large."""
        if reader.image.frame_samples > SAMPLES_MAX or reader.image.samples_per_pixel > 1:
            raise TranscodeError(f"no mask is subtracted from frames of {reader.image.frame_samples} samples")
        self._reader = reader
        self._count = reader.image.number_of_frames
        self._subtraction = subtraction
        self._modal = modal
        self._table = table
        self._mask: tuple[tuple[int, ...], Samples] | None = None
        self._extent: float | None = None
        self.range_number: int | None = None
        """The frame, from 1, whose range is that of all frames of an animation; None: each has its own."""

    def values(self, number: int) -> FrameValues | None:
        """The values of a frame, from 1; None: nothing is subtracted from it, and no table is for it.

        Raises TranscodeError.
        """
        mask = self._subtraction.mask_for(number, self._count)
        low, high = self._ends(number)
        if mask is None:
            has_table = self._subtraction.table_for(number) is not None
            return FrameValues(self._average((number,)), False, low, high) if has_table else None
        last = min(number + mask.averaged - 1, self._count)
        contrast = self._average(range(number, last + 1))
        masking = self._masking(mask.frames_for(number, self._count))
        share = np.float32(1.0 - self._subtraction.visibility(number))
        return FrameValues(contrast - share * _shifted(masking, mask, number), True, low - high, high - low)

    def extent(self, number: int, otherwise: Samples) -> float:
        """The greatest difference in the frame whose range all frames have, or in `otherwise`, those of a frame."""
        if self.range_number in (None, number):
            return float(np.abs(otherwise).max())
        if self._extent is None:
            difference = self.values(self.range_number or number)
            self._extent = float(np.abs(otherwise if difference is None else difference.values).max())
        return self._extent

    def _ends(self, number: int) -> tuple[float, float]:
        """The least and the greatest value of a frame after its table."""
        image = self._reader.image
        least = -(1 << (image.bits_stored - 1)) if image.pixel_representation else 0
        table = self._subtraction.table_for(number)
        if table is not None:
            return 0.0, float((1 << min(max(int(table.descriptor[2]), 1), 16)) - 1)
        ends = self._modal(np.array([least, least + (1 << image.bits_stored) - 1], np.float64))
        return float(ends.min()), float(ends.max())

    def _masking(self, frames: tuple[int, ...]) -> Samples:
        """The mask; that of the frame before, if it is made of the same frames."""
        if self._mask is None or self._mask[0] != frames:
            if not all(1 <= frame <= self._count for frame in frames):
                raise TranscodeError(f"mask subtraction names a frame beyond the {self._count} of the image")
            self._mask = frames, self._average(frames)
        return self._mask[1]

    def _average(self, numbers: Iterable[int]) -> Samples:
        total: Samples | None = None
        count = 0
        for number in numbers:
            samples = self._reader.frame(number - 1).samples
            table = self._subtraction.table_for(number)
            modal = self._modal if table is None or self._table is None else self._table(table)
            values = modal(samples.astype(np.float64))
            total = values if total is None else total + values
            count += 1
        if total is None:
            raise TranscodeError("mask subtraction names no frames")
        return (total / count).astype(np.float32)


def _shifted(values: Samples, mask: Mask, number: int) -> Samples:
    """The mask as it lies under a frame; without a shift where no region is."""
    shifted = values
    for shift in mask.shifts:
        if shift.ranges and not any(first <= number <= last for first, last in shift.ranges):
            continue
        moved = _moved(_moved(values, 0, shift.rows), 1, -shift.columns)
        shifted = np.where(_region(shift, *values.shape), moved, shifted) if shift.vertices else moved
    return shifted


def _moved(values: Samples, axis: int, by: float) -> Samples:
    if not by:
        return values
    last = values.shape[axis] - 1
    places = np.clip(np.arange(last + 1) - by, 0, last)
    low = np.floor(places).astype(np.intp)
    share = (places - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    below = np.take(values, low, axis)
    if not share.any():
        return below
    moved: Samples = below * (1 - share) + np.take(values, np.minimum(low + 1, last), axis) * share
    return moved


def _region(shift: Shift, rows: int, columns: int) -> Samples:
    picture = Image.new("1", (columns, rows), 0)
    corners = zip(shift.vertices[::2], shift.vertices[1::2], strict=True)
    ImageDraw.Draw(picture).polygon([(column - 1, row - 1) for row, column in corners], fill=1)
    return np.asarray(picture)
