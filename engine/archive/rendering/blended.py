"""Lays one image over another (PS3.4 N.2.4). Runs in `render_process` only.

    upper: stored values ─ resampled ─ modality ─ window ─ palette ─┐
    lower: grey levels, as its picture is ──────────────────────────┴─ opacity × upper + (1 - opacity) × lower ─► RGB

Between the pixels of the upper image its values are interpolated linearly. Where it has none, the lower image is alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from engine.archive.rendering.colour import palette_table
from engine.archive.rendering.frames import FrameReader
from engine.archive.rendering.grey import presented_levels, presented_modality
from engine.archive.rendering.subtraction import FrameValues
from engine.archive.transcoding.head import Head
from engine.dicom import elements, transfer_syntax
from engine.dicom.sources import Part
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from engine.archive.rendering.presentation_state import Blending
    from engine.dicom.sources import Source

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

SAMPLES_MAX: Final = 1 << 22
"""The largest lower image; each of its pixels takes some hundred bytes."""


def upper_reader(source: Source, blending: Blending, decoded_bytes_max: int) -> FrameReader:
    """Reads the upper image out of the source that has both. Raises TranscodeError, DataSetError."""
    upper = Part(source, blending.start)
    syntax = transfer_syntax.of(blending.transfer_syntax_uid)
    head = Head.read(upper, elements.encoding_of(upper.read(0, 8), syntax))
    return FrameReader(upper, syntax, head, decoded_bytes_max)


def blended(levels: Samples, blending: Blending, reader: FrameReader) -> Samples:
    """Grey levels (rows, columns) with the upper image laid over, (rows, columns, 3). Raises TranscodeError."""
    if levels.size > SAMPLES_MAX:
        raise TranscodeError(f"no image is laid over one of {levels.size} pixels")
    try:
        samples, image, _ = reader.frame(blending.frame - 1)
    except DataSetError as error:
        raise TranscodeError(f"the upper image cannot be read: {error}") from error
    if samples.ndim != 2:
        raise TranscodeError("the upper image of a blending presentation state is not one of grey levels")
    values, is_there = _resampled(samples, blending, *levels.shape)
    modal = presented_modality(image, blending.presentation)(values)
    ends = _ends(blending, image.bits_stored, is_signed=image.pixel_representation == 1, reader=reader)
    palette = palette_table(blending.presentation.palette)
    chosen = presented_levels(
        samples, image, blending.presentation, FrameValues(modal, False, *ends), top=len(palette) - 1
    )
    below = np.repeat(levels[:, :, None].astype(np.float32), 3, axis=2)
    above = palette[chosen].astype(np.float32)
    mixed = above * np.float32(blending.opacity) + below * np.float32(1 - blending.opacity)
    shown: Samples = (np.where(is_there[:, :, None], mixed, below) + 0.5).astype(np.uint8)
    return shown


def _ends(blending: Blending, bits: int, *, is_signed: bool, reader: FrameReader) -> tuple[float, float]:
    """The least and the greatest value that the upper image may have after its Modality LUT."""
    table = blending.presentation.modality_lut
    if table is not None:
        return 0.0, float((1 << min(max(int(table.descriptor[2]), 1), 16)) - 1)
    least = -(1 << (bits - 1)) if is_signed else 0
    stored = np.array([least, least + (1 << bits) - 1], np.float64)
    ends = presented_modality(reader.image, blending.presentation)(stored)
    return float(ends.min()), float(ends.max())


def _resampled(samples: Samples, blending: Blending, rows: int, columns: int) -> tuple[Samples, Samples]:
    """The upper image's stored values at each pixel of the lower one, and where there are any."""
    a, b, c, d, e, f = blending.placement
    row, column = np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)[None, :]
    x, y = a * column + b * row + c, d * column + e * row + f
    last_row, last_column = samples.shape[0] - 1, samples.shape[1] - 1
    is_there = (x >= -0.5) & (x <= last_column + 0.5) & (y >= -0.5) & (y <= last_row + 0.5)
    x, y = np.clip(x, 0, last_column), np.clip(y, 0, last_row)
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, bottom = np.minimum(left + 1, last_column), np.minimum(top + 1, last_row)
    across, down = x - left, y - top
    upper = samples[top, left] * (1 - across) + samples[top, right] * across
    lower = samples[bottom, left] * (1 - across) + samples[bottom, right] * across
    return (upper * (1 - down) + lower * down).astype(np.float64), is_there
