"""What lies over the pixels of an image: shutters and overlay planes, as arrays. Runs in `render_process` only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.rendering.overlay import Overlay
    from engine.archive.rendering.shutters import Shutter, Shutters

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FAR: Final = 1 << 15
"""Pixels from the corner of an image: a shutter beyond is an error."""


def with_shutters(levels: Samples, shutters: Shutters, number: int, container: Samples) -> Samples:
    """The levels of a frame where all shutters are open, else the shutters' level. Raises TranscodeError.

    `number`: the frame, from 0. `container`: its samples with all bits.
    """
    is_grey = levels.ndim == 2
    ink = np.asarray(shutters.level if is_grey else shutters.colour or (shutters.level,) * 3, np.uint8)
    for shutter in shutters.shapes:
        is_open = _opening(shutter, levels.shape[0], levels.shape[1])
        levels = np.where(is_open if is_grey else is_open[:, :, None], levels, ink)
    if shutters.bitmap is not None and (hidden := plane(shutters.bitmap, number, container)) is not None:
        levels = levels.copy()
        levels[hidden] = ink
    return levels


def _opening(shutter: Shutter, rows: int, columns: int) -> Samples:
    """Which pixels of an image one shutter shows."""
    mask = Image.new("1", (columns, rows), 0)
    pen, numbers = ImageDraw.Draw(mask), shutter.numbers
    if not all(abs(number) < FAR for number in numbers):
        raise TranscodeError("a shutter lies far outside of the image")
    if shutter.shape == "RECTANGULAR":
        left, top, right, bottom = numbers[:4]
        if left <= right and top <= bottom:
            pen.rectangle((left - 1, top - 1, right - 1, bottom - 1), fill=1)
    elif shutter.shape == "CIRCULAR":
        row, column, radius = numbers[:3]
        if radius >= 0:
            pen.ellipse((column - 1 - radius, row - 1 - radius, column - 1 + radius, row - 1 + radius), fill=1)
    else:
        vertices = zip(numbers[::2], numbers[1::2], strict=False)
        pen.polygon([(column - 1, row - 1) for row, column in vertices], fill=1)
    return np.asarray(mask)


def with_overlays(levels: Samples, overlays: Iterable[Overlay], number: int, container: Samples) -> Samples:
    """The levels of a frame (rows, columns[, 3]) with planes drawn into a copy.

    `number`: the frame, from 0. `container`: its samples with all bits.
    """
    is_copied = False
    for overlay in overlays:
        mask = plane(overlay, number, container)
        if mask is not None:
            levels = levels if is_copied else levels.copy()
            is_copied = True
            levels[_outline(mask) if overlay.is_region else mask] = overlay.level
    return levels


def _outline(mask: Samples) -> Samples:
    """The pixels of a region with a neighbour outside of it, or at the edge of the image."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    outline: Samples = mask & ~inner
    return outline


def plane(overlay: Overlay, number: int, container: Samples) -> Samples | None:
    """Which pixels of the image a plane has in a frame, from 0; None: it has no plane for this frame."""
    index = 0
    if overlay.frame_count:
        index = number + 1 - overlay.first_frame
        if not 0 <= index < overlay.frame_count:
            return None
    rows, columns = container.shape[:2]
    if not overlay.data:
        return _within_samples(overlay, container)
    mask = np.zeros((rows, columns), np.bool_)
    top, left = max(overlay.top, 0), max(overlay.left, 0)
    bottom, right = min(overlay.top + overlay.rows, rows), min(overlay.left + overlay.columns, columns)
    if top < bottom and left < right:
        bits = _bits(overlay, index)
        mask[top:bottom, left:right] = bits[
            top - overlay.top : bottom - overlay.top, left - overlay.left : right - overlay.left
        ]
    return mask


def _within_samples(overlay: Overlay, container: Samples) -> Samples | None:
    """A plane in unused bits of the samples (retired in 2004)."""
    if container.ndim != 2 or container.dtype.kind not in "ui" or overlay.bit >= 8 * container.dtype.itemsize:
        return None
    mask: Samples = (container >> overlay.bit) & 1 == 1
    return mask


def _bits(overlay: Overlay, index: int) -> Samples:
    count = overlay.rows * overlay.columns
    first = index * count
    packed = np.frombuffer(overlay.data, np.uint8)
    if overlay.is_swapped:
        packed = packed[: len(packed) // 2 * 2].reshape(-1, 2)[:, ::-1].reshape(-1)
    packed = packed[first // 8 : (first + count + 7) // 8]
    bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + count]
    shaped: Samples = bits.reshape(overlay.rows, overlay.columns).astype(np.bool_)
    return shaped
