"""Where one image lies in another, by the planes in which they were taken (PS3.3 C.7.6.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.dicom import tags

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head

PARALLEL: Final = 0.999
"""The least cosine of the angle between planes that count as parallel."""
NEAR_MM: Final = 0.01
"""By which positions may be rounded."""
WHOLE: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The placement of an image that covers another one pixel by pixel."""
THICKNESS_MM: Final = 1.0
"""Of an image that does not say."""

Vector = tuple[float, float, float]


class Plane(NamedTuple):
    """The plane of an image in its patient, lengths in mm."""

    frame_of_reference_uid: str
    origin: Vector
    """The center of the first pixel."""
    along_row: Vector
    along_column: Vector
    row_spacing: float
    column_spacing: float
    thickness: float

    @property
    def normal(self) -> Vector:
        """Of length 1."""
        (a, b, c), (d, e, f) = self.along_row, self.along_column
        return (b * f - c * e, c * d - a * f, a * e - b * d)


def plane_of(head: Head) -> Plane | None:
    """The plane of an image; None if it has none."""
    origin, turns = head.numbers(tags.ImagePositionPatient), head.numbers(tags.ImageOrientationPatient)
    spacing = head.numbers(tags.PixelSpacing)
    if len(origin) != 3 or len(turns) != 6 or len(spacing) != 2 or not all(each > 0 for each in spacing):
        return None
    row, column = (turns[0], turns[1], turns[2]), (turns[3], turns[4], turns[5])
    if not all(math.isclose(_dot(each, each), 1.0, abs_tol=0.01) for each in (row, column)):
        return None
    if abs(_dot(row, column)) > 0.01:
        return None
    gaps = (*head.numbers(tags.SpacingBetweenSlices)[:1], *head.numbers(tags.SliceThickness)[:1])
    return Plane(
        head.text(tags.FrameOfReferenceUID),
        (origin[0], origin[1], origin[2]),
        row,
        column,
        spacing[0],
        spacing[1],
        max((abs(gap) for gap in gaps), default=0.0) or THICKNESS_MM,
    )


def distance(lower: Plane, upper: Plane) -> float | None:
    """How far the upper plane is from the lower one in mm; None if they are not parallel, or of different patients."""
    if not lower.frame_of_reference_uid or lower.frame_of_reference_uid != upper.frame_of_reference_uid:
        return None
    if abs(_dot(lower.normal, upper.normal)) < PARALLEL:
        return None
    return abs(_dot(_minus(upper.origin, lower.origin), lower.normal))


def placement(lower: Plane, upper: Plane) -> tuple[float, ...]:
    """Where the pixel (column, row) of the lower image is in the upper one, as `Blending.placement` has it."""
    out: list[float] = []
    away = _minus(lower.origin, upper.origin)
    for axis, spacing in ((upper.along_row, upper.column_spacing), (upper.along_column, upper.row_spacing)):
        out.append(_dot(lower.along_row, axis) * lower.column_spacing / spacing)
        out.append(_dot(lower.along_column, axis) * lower.row_spacing / spacing)
        out.append(_dot(away, axis) / spacing)
    return tuple(out)


def upper_image(lower: Head, uppers: Sequence[Head]) -> tuple[int, tuple[float, ...]] | None:
    """Which of these images lies over another one, the nearest in a parallel plane, and its placement; None: none does.

    An image without a plane lies over another without one if it is alone and has as many rows, columns and frames.
    """
    plane = plane_of(lower)
    if plane is None:
        if len(uppers) != 1 or plane_of(uppers[0]) is not None or _size(uppers[0]) != _size(lower):
            return None
        return 0, WHOLE
    best: tuple[float, int, Plane] | None = None
    for number, head in enumerate(uppers):
        upper = plane_of(head)
        away = None if upper is None else distance(plane, upper)
        if upper is None or away is None or away > max(upper.thickness, plane.thickness) / 2 + NEAR_MM:
            continue
        if best is None or away < best[0]:
            best = away, number, upper
    return None if best is None else (best[1], placement(plane, best[2]))


def _size(head: Head) -> tuple[int, int, str]:
    return head.number(tags.Rows, 0), head.number(tags.Columns, 0), head.text(tags.NumberOfFrames) or "1"


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]
