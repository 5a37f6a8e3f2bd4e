"""Display shutters: what an image or a presentation state hides, as plain values (PS3.3 C.7.6.11, C.7.6.15).

`planes` applies them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from engine.archive.rendering.cielab import Colour, srgb
from engine.archive.rendering.overlay import Overlay, overlays
from engine.dicom import tags
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head

NUMBERS_MAX: Final = 10_000
"""Of one shutter."""
BITMAP: Final = "BITMAP"

_ATTRIBUTES: Final = {
    "RECTANGULAR": (
        tags.ShutterLeftVerticalEdge,
        tags.ShutterUpperHorizontalEdge,
        tags.ShutterRightVerticalEdge,
        tags.ShutterLowerHorizontalEdge,
    ),
    "CIRCULAR": (tags.CenterOfCircularShutter, tags.RadiusOfCircularShutter),
    "POLYGONAL": (tags.VerticesOfThePolygonalShutter,),
}
_LEAST: Final = {"RECTANGULAR": 4, "CIRCULAR": 3, "POLYGONAL": 6}


class Shutter(msgspec.Struct, frozen=True):
    """A shape within which the image is shown, its numbers in the order of the standard (rows and columns from 1)."""

    shape: str
    numbers: tuple[float, ...]


class Shutters(msgspec.Struct, frozen=True):
    """All shutters of an image; it is shown where all are open."""

    shapes: tuple[Shutter, ...] = ()
    bitmap: Overlay | None = None
    """A plane whose pixels are hidden."""
    level: int = 0
    """Grey level of what is hidden, 0 to 255."""
    colour: Colour | None = None
    """Its colour in an image of colour, instead of the level."""

    def __bool__(self) -> bool:
        return bool(self.shapes) or self.bitmap is not None


def shutters(head: Head) -> Shutters:
    """The shutters of a data set. Raises TranscodeError for one that cannot be applied."""
    names = head.texts(tags.ShutterShape)
    return Shutters(
        shapes=tuple(_shapes(head, [name for name in names if name != BITMAP])),
        bitmap=_bitmap(head) if BITMAP in names else None,
        level=head.number(tags.ShutterPresentationValue, 0) >> 8,
        colour=srgb(head.numbers(tags.ShutterPresentationColorCIELabValue)),
    )


def _shapes(head: Head, names: list[str]) -> Iterator[Shutter]:
    for shape in names:
        if shape not in _ATTRIBUTES:
            raise TranscodeError(f"a shutter of shape {shape[:16]} is not applied")
        numbers = [number for tag in _ATTRIBUTES[shape] for number in head.numbers(tag)]
        if not _LEAST[shape] <= len(numbers) <= NUMBERS_MAX:
            raise TranscodeError(f"the {shape.lower()} shutter has {len(numbers)} numbers")
        yield Shutter(shape, tuple(numbers))


def _bitmap(head: Head) -> Overlay:
    group = head.number(tags.ShutterOverlayGroup, 0)
    bitmap = next((overlay for overlay in overlays(head) if overlay.group == group and overlay.data), None)
    if bitmap is None:
        raise TranscodeError(f"the bitmap shutter names the overlay group {group:04X}, which has no plane")
    return bitmap
