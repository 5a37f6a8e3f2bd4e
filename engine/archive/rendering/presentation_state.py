"""Reads a Grayscale Softcopy Presentation State (PS3.3 A.33.1): how one of its images is to be shown, as plain values.

    stored values ─ rescale ─ window ─ shape ─► grey levels         from the state alone (PS3.4 N.2)
    shutter ─ displayed area ─ rotation, clockwise ─ horizontal flip ─ texts and graphics ─► picture

Look-up tables, mask subtraction and bitmap shutters are not applied: a state that has one is an error that names it,
since a picture without it would be wrong. Overlays, compound graphics, and the layers' colours and order are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from engine.archive.transcoding.head import Head
from engine.dicom import charset, elements, tags
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from engine.dicom.sources import Source
    from engine.dicom.transfer_syntax import TransferSyntax

GRAYSCALE: Final = "1.2.840.10008.5.1.4.1.1.11.1"
STATE_BYTES_MAX: Final = 4 << 20
"""The longest state that is read; most have some kilobytes."""
REFERENCES_MAX: Final = 10_000
MARKS_MAX: Final = 1000
POINTS_MAX: Final = 10_000
"""Of one graphic object."""
TEXT_MAX: Final = 1024

_UNSUPPORTED: Final = (
    (tags.ModalityLUTSequence, "a Modality LUT"),
    (tags.PresentationLUTSequence, "a Presentation LUT"),
    (tags.MaskSubtractionSequence, "mask subtraction"),
)
_SHUTTERS: Final = {
    "RECTANGULAR": (
        tags.ShutterLeftVerticalEdge,
        tags.ShutterUpperHorizontalEdge,
        tags.ShutterRightVerticalEdge,
        tags.ShutterLowerHorizontalEdge,
    ),
    "CIRCULAR": (tags.CenterOfCircularShutter, tags.RadiusOfCircularShutter),
    "POLYGONAL": (tags.VerticesOfThePolygonalShutter,),
}


class Reference(msgspec.Struct, frozen=True):
    """An image that a state is for."""

    sop_instance_uid: str
    frames: tuple[int, ...]
    """Frames from 1; (): all."""


class Shutter(msgspec.Struct, frozen=True):
    """A shape within which the image is shown, its numbers in the order of the standard (rows and columns from 1)."""

    shape: str
    numbers: tuple[float, ...]


class Mark(msgspec.Struct, frozen=True):
    """A text or a graphic object."""

    kind: str
    """TEXT, or a Graphic Type."""
    is_of_image: bool
    """Whether points are in pixels of the image, else in shares of the displayed area."""
    points: tuple[float, ...]
    text: str = ""
    is_filled: bool = False


class Presentation(msgspec.Struct, frozen=True):
    """How one image is shown."""

    slope: float
    intercept: float
    window: tuple[float, float, str] | None
    """Center, width, VOI LUT Function; None: the whole range of the samples."""
    is_inverse: bool
    area: tuple[float, float, float, float] | None
    """Left, top, right and bottom edge in pixels of the image from 0; None: all of it."""
    aspect: float | None
    """Height of a pixel divided by its width; None: as the image has it."""
    rotation: int
    """Degrees clockwise: 0, 90, 180, 270."""
    is_flipped: bool
    shutters: tuple[Shutter, ...]
    shutter_level: int
    """Grey level outside of the shutters, 0 to 255."""
    marks: tuple[Mark, ...]


class PresentationState:
    """One state, read. Its methods raise DataSetError and TranscodeError."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._character_set = head.raw(tags.SpecificCharacterSet)

    @classmethod
    def read(cls, source: Source, syntax: TransferSyntax) -> PresentationState:
        """Raises TranscodeError."""
        check_length(source.length)
        try:
            return cls(Head.read(source, elements.encoding_of(source.read(0, 8), syntax)))
        except DataSetError as error:
            raise TranscodeError(f"the presentation state cannot be read: {error}") from error

    def references(self) -> list[Reference]:
        """The images that it is for, in its order."""
        found: list[Reference] = []
        for series in self._head.items(tags.ReferencedSeriesSequence):
            for item in series.items(tags.ReferencedImageSequence):
                if len(found) == REFERENCES_MAX:
                    return found
                frames = tuple(int(number) for number in item.numbers(tags.ReferencedFrameNumber) if number >= 1)
                found.append(Reference(item.text(tags.ReferencedSOPInstanceUID), frames))
        return found

    def of(self, sop_instance_uid: str) -> Presentation:
        """How the image of that UID is shown."""
        head = self._head
        for tag, what in _UNSUPPORTED:
            if tag in head:
                raise TranscodeError(f"{what} of a presentation state is not applied")
        area = self._item_for(tags.DisplayedAreaSelectionSequence, sop_instance_uid)
        rotation = head.number(tags.ImageRotation, 0)
        if rotation not in (0, 90, 180, 270):
            raise TranscodeError(f"Image Rotation (0070,0042) is {rotation}")
        return Presentation(
            slope=next(iter(head.numbers(tags.RescaleSlope)), 1.0) or 1.0,
            intercept=next(iter(head.numbers(tags.RescaleIntercept)), 0.0),
            window=self._window(sop_instance_uid),
            is_inverse=head.text(tags.PresentationLUTShape) == "INVERSE",
            area=None if area is None else _area(area),
            aspect=None if area is None else _aspect(area),
            rotation=rotation,
            is_flipped=head.text(tags.ImageHorizontalFlip) == "Y",
            shutters=tuple(self._shutters()),
            shutter_level=head.number(tags.ShutterPresentationValue, 0) >> 8,
            marks=tuple(self._marks(sop_instance_uid)),
        )

    def _item_for(self, sequence: int, sop_instance_uid: str) -> Head | None:
        return next(self._items_for(sequence, sop_instance_uid), None)

    def _items_for(self, sequence: int, sop_instance_uid: str) -> Iterator[Head]:
        """The items for an image; one that names no images is for all."""
        for item in self._head.items(sequence):
            named = [image.text(tags.ReferencedSOPInstanceUID) for image in item.items(tags.ReferencedImageSequence)]
            if not named or sop_instance_uid in named:
                yield item

    def _window(self, sop_instance_uid: str) -> tuple[float, float, str] | None:
        item = self._item_for(tags.SoftcopyVOILUTSequence, sop_instance_uid)
        if item is None:
            return None
        center, width = item.numbers(tags.WindowCenter), item.numbers(tags.WindowWidth)
        if not center or not width:
            raise TranscodeError("a VOI LUT of a presentation state is not applied")
        function = item.text(tags.VOILUTFunction) or "LINEAR"
        return center[0], width[0], function if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else "LINEAR"

    def _shutters(self) -> Iterator[Shutter]:
        for shape in self._head.texts(tags.ShutterShape):
            if shape not in _SHUTTERS:
                raise TranscodeError(f"a shutter of shape {shape[:16]} is not applied")
            numbers = [number for tag in _SHUTTERS[shape] for number in self._head.numbers(tag)]
            least = {"RECTANGULAR": 4, "CIRCULAR": 3, "POLYGONAL": 6}[shape]
            if len(numbers) < least or len(numbers) > POINTS_MAX:
                raise TranscodeError(f"the {shape.lower()} shutter has {len(numbers)} numbers")
            yield Shutter(shape, tuple(numbers))

    def _marks(self, sop_instance_uid: str) -> Iterator[Mark]:
        count = 0
        for layer in self._items_for(tags.GraphicAnnotationSequence, sop_instance_uid):
            for mark in (*self._graphics(layer), *self._texts(layer)):
                count += 1
                if count > MARKS_MAX:
                    raise TranscodeError(f"the presentation state has more than {MARKS_MAX} annotations")
                yield mark

    def _graphics(self, layer: Head) -> Iterator[Mark]:
        for item in layer.items(tags.GraphicObjectSequence):
            points = item.numbers(tags.GraphicData)
            if len(points) > 2 * POINTS_MAX:
                raise TranscodeError(f"a graphic object has more than {POINTS_MAX} points")
            yield Mark(
                item.text(tags.GraphicType),
                item.text(tags.GraphicAnnotationUnits) == "PIXEL",
                tuple(points),
                is_filled=item.text(tags.GraphicFilled) == "Y",
            )

    def _texts(self, layer: Head) -> Iterator[Mark]:
        for item in layer.items(tags.TextObjectSequence):
            at, units = item.numbers(tags.BoundingBoxTopLeftHandCorner), tags.BoundingBoxAnnotationUnits
            if len(at) != 2:
                at, units = item.numbers(tags.AnchorPoint), tags.AnchorPointAnnotationUnits
            text = charset.decode(item.raw(tags.UnformattedTextValue)[:TEXT_MAX], self._character_set, "ST")
            yield Mark("TEXT", item.text(units) == "PIXEL", tuple(at), text.strip())


def check_length(length: int) -> None:
    """Raises TranscodeError for the length of a state that is not read."""
    if length > STATE_BYTES_MAX:
        raise TranscodeError(f"a presentation state of {length} bytes is not applied")


def _area(item: Head) -> tuple[float, float, float, float] | None:
    """Its corners name the pixels that are at the top left and bottom right when the image is turned."""
    first = item.numbers(tags.DisplayedAreaTopLeftHandCorner)
    last = item.numbers(tags.DisplayedAreaBottomRightHandCorner)
    if len(first) != 2 or len(last) != 2:
        return None
    (left, right), (top, bottom) = (sorted(pair) for pair in zip(first, last, strict=True))
    return left - 1, top - 1, right, bottom


def _aspect(item: Head) -> float | None:
    for tag in (tags.PresentationPixelSpacing, tags.PresentationPixelAspectRatio):
        numbers = item.numbers(tag)
        if len(numbers) == 2 and numbers[0] > 0 and numbers[1] > 0 and 0.1 <= numbers[0] / numbers[1] <= 10:
            return numbers[0] / numbers[1]
    return None
