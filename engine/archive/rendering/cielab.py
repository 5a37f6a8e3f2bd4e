"""Colours of graphic layers and shutters: CIELab values as DICOM codes them, in sRGB (PS3.3 C.10.7.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Colour = tuple[int, int, int]

_WHITE: Final = (0.9642, 1.0, 0.8249)
"""D50."""
_TO_SRGB: Final = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)
"""XYZ of D50 to linear sRGB."""
_EPSILON: Final = 6 / 29


def srgb(values: Sequence[float]) -> Colour | None:
    """The colour of three values from 0 to 65535; None for other values."""
    if len(values) != 3 or not all(0 <= value <= 0xFFFF for value in values):
        return None
    lightness = values[0] / 0xFFFF * 100
    a, b = (value / 0xFFFF * 255 - 128 for value in values[1:])
    y = (lightness + 16) / 116
    xyz = [white * _cubed(part) for white, part in zip(_WHITE, (y + a / 500, y, y - b / 200), strict=True)]
    red, green, blue = (_level(sum(factor * part for factor, part in zip(row, xyz, strict=True))) for row in _TO_SRGB)
    return red, green, blue


def _cubed(part: float) -> float:
    return part**3 if part > _EPSILON else 3 * _EPSILON**2 * (part - 4 / 29)


def _level(linear: float) -> int:
    share = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(min(max(share, 0.0), 1.0) * 255)
