"""Mask subtraction pixel by pixel from the words of PS3.3 C.7.6.10: the judge of `rendering.subtraction`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

Samples = np.ndarray[Any, np.dtype[Any]]


def difference(
    frames: Sequence[Samples],
    item: Dataset,
    number: int,
    modal: Callable[[float], float] = float,
    visibility: float = 0.0,
    region_shifts: Sequence[Dataset] = (),
) -> Samples | None:
    """What is shown of a frame, from 1; None: this item of Mask Subtraction Sequence is not for it."""
    pairs = list(item.get("ApplicableFrameRange", []))
    ranges = list(zip(pairs[::2], pairs[1::2], strict=True))
    averaged = item.get("ContrastFrameAveraging") or 1
    offset = item.get("TIDOffset", 1)
    offset = 1 if offset is None else offset
    if ranges and not any(first <= number <= last for first, last in ranges):
        return None
    if item.MaskOperation == "AVG_SUB":
        if not ranges and number > len(frames) - averaged + 1:
            return None
        named = item.MaskFrameNumbers
        mask_numbers = [named] if isinstance(named, int) else list(named)
    elif item.MaskOperation == "TID":
        mask_numbers = [number - offset]
        if not ranges and not 1 <= number - offset <= len(frames):
            return None
    else:
        first = ranges[0][0]
        mask_numbers = [(first - offset) - (number - first)]
    contrast_numbers = [each for each in range(number, number + averaged) if each <= len(frames)]
    rows, columns = frames[0].shape
    out = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            shift = _shift_at(item, region_shifts, row + 1, column + 1)
            contrast = [modal(float(frames[each - 1][row, column])) for each in contrast_numbers]
            mask = [_between(frames[each - 1], row - shift[0], column + shift[1], modal) for each in mask_numbers]
            part = (1 - visibility) * sum(mask) / len(mask)
            out[row, column] = sum(contrast) / len(contrast) - part
    return out


def _shift_at(item: Dataset, regions: Sequence[Dataset], row: int, column: int) -> tuple[float, float]:
    """The shift of a pixel, from 1: that of the last region that has it. Regions are rectangles here."""
    down, left = item.get("MaskSubPixelShift", (0.0, 0.0))
    for region in regions:
        corners = list(region.get("VerticesOfTheRegion", []))
        rows, columns = corners[::2], corners[1::2]
        if not corners or (min(rows) <= row <= max(rows) and min(columns) <= column <= max(columns)):
            down, left = region.MaskSubPixelShift
    return down, left


def _between(frame: Samples, row: float, column: float, modal: Callable[[float], float]) -> float:
    """A value between pixels, by its four neighbours; beyond the edge that of the edge."""
    row = min(max(row, 0), frame.shape[0] - 1)
    column = min(max(column, 0), frame.shape[1] - 1)
    top, left = math.floor(row), math.floor(column)
    total = 0.0
    for y, weight_y in ((top, 1 - (row - top)), (top + 1, row - top)):
        for x, weight_x in ((left, 1 - (column - left)), (left + 1, column - left)):
            if weight_y and weight_x:
                total += weight_y * weight_x * modal(float(frame[y, x]))
    return total
