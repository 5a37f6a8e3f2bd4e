"""Reads a Grayscale, Color, Pseudo-Color, Blending or XA/XRF Softcopy Presentation State (PS3.3 A.33): how one of its
images is to be shown, as plain values.

    stored values ─ rescale or Modality LUT ─ mask ─ window or VOI LUT ─ shape or Presentation LUT ─► grey levels
    shutters ─ overlay planes ─ displayed area ─ rotation, clockwise ─ horizontal flip ─ texts and graphics ─► picture

Grey levels follow from the state alone (PS3.4 N.2). Compound graphics and edge enhancement are left out. A colour state
has no grey levels, and its layers have colours. A palette makes colours of grey levels: in a pseudo-colour state of the
image, in a blending one of another image, which is laid over it (`blended`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from engine.archive.rendering import mask
from engine.archive.rendering.cielab import Colour, srgb
from engine.archive.rendering.look_up_table import LookUpTable, PaletteChannel, palette_of, table_of
from engine.archive.rendering.mask import Subtraction
from engine.archive.rendering.overlay import GROUPS, WHITE, Overlay, of, overlays
from engine.archive.rendering.shutters import Shutters, shutters
from engine.archive.transcoding.head import Head
from engine.dicom import charset, elements, tags
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from engine.dicom.sources import Source
    from engine.dicom.transfer_syntax import TransferSyntax

GRAYSCALE: Final = "1.2.840.10008.5.1.4.1.1.11.1"
COLOUR: Final = "1.2.840.10008.5.1.4.1.1.11.2"
PSEUDO_COLOUR: Final = "1.2.840.10008.5.1.4.1.1.11.3"
BLENDING: Final = "1.2.840.10008.5.1.4.1.1.11.4"
XA_XRF: Final = "1.2.840.10008.5.1.4.1.1.11.5"
STATE_BYTES_MAX: Final = 4 << 20
"""The longest state that is read; most have some kilobytes."""
REFERENCES_MAX: Final = 10_000
LAYERS_MAX: Final = 1000
MARKS_MAX: Final = 1000
POINTS_MAX: Final = 10_000
"""Of one graphic object."""
TEXT_MAX: Final = 1024


class Reference(msgspec.Struct, frozen=True):
    """An image that a state is for."""

    sop_instance_uid: str
    frames: tuple[int, ...]
    """Frames from 1; (): all."""


class Mark(msgspec.Struct, frozen=True):
    """A text or a graphic object."""

    kind: str
    """TEXT, or a Graphic Type."""
    is_of_image: bool
    """Whether points are in pixels of the image, else in shares of the displayed area."""
    points: tuple[float, ...]
    text: str = ""
    is_filled: bool = False
    level: int = WHITE
    """Grey level of its layer."""
    colour: Colour | None = None
    """Colour of its layer in an image of colour, instead of the level."""


class Blending(msgspec.Struct, frozen=True):
    """An image that is laid over the image (PS3.4 N.2.4)."""

    presentation: Presentation
    """How the upper image gets its colours; nothing else of it counts."""
    opacity: float
    """The share of the upper image, 0 to 1."""
    placement: tuple[float, ...] = ()
    """Where the pixel (column, row) of the lower image is in the upper one: a, b, c and d, e, f of
    column' = a column + b row + c and row' = d column + e row + f, all from 0; (): unknown."""
    start: int = 0
    """Where the upper data set begins in the source that has both."""
    transfer_syntax_uid: str = ""
    """Of the upper data set."""
    frame: int = 1
    """Of the upper image, from 1."""


class Presentation(msgspec.Struct, frozen=True):
    """How one image is shown."""

    is_colour: bool
    """Whether it is for images of colour, whose samples stay as they are."""
    modality_lut: LookUpTable | None
    """Instead of slope and intercept."""
    slope: float
    intercept: float
    voi_lut: LookUpTable | None
    """Instead of the window."""
    window: tuple[float, float, str] | None
    """Center, width, VOI LUT Function; None: the whole range of the samples."""
    subtraction: Subtraction | None
    presentation_lut: LookUpTable | None
    is_inverse: bool
    area: tuple[float, float, float, float] | None
    """Left, top, right and bottom edge in pixels of the image from 0; None: all of it."""
    aspect: float | None
    """Height of a pixel divided by its width; None: as the image has it."""
    rotation: int
    """Degrees clockwise: 0, 90, 180, 270."""
    is_flipped: bool
    shutters: Shutters
    overlays: tuple[Overlay, ...]
    """Planes of the state itself, the lowest layer first."""
    image_overlays: tuple[tuple[int, int], ...]
    """Groups of the image's own planes that are shown, each with its level."""
    marks: tuple[Mark, ...]
    """The lowest layer first."""
    palette: tuple[PaletteChannel, ...] = ()
    """Red, green and blue for grey levels; (): they stay grey."""
    blending: Blending | None = None


class _Layer(NamedTuple):
    """A graphic layer (PS3.3 C.10.7)."""

    order: float
    level: int
    colour: Colour | None = None


class PresentationState:
    """One state, read. Its methods raise DataSetError and TranscodeError."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._character_set = head.raw(tags.SpecificCharacterSet)
        self._layers = _layers(head)

    @classmethod
    def read(cls, source: Source, syntax: TransferSyntax) -> PresentationState:
        """Raises TranscodeError."""
        check_length(source.length)
        try:
            return cls(Head.read(source, elements.encoding_of(source.read(0, 8), syntax)))
        except DataSetError as error:
            raise TranscodeError(f"the presentation state cannot be read: {error}") from error

    @property
    def is_blending(self) -> bool:
        """Whether it lays one image over another."""
        return self._head.text(tags.SOPClassUID) == BLENDING

    def references(self) -> list[Reference]:
        """The images that it is for, in its order; of a blending state those below."""
        return self._references(self._blended("UNDERLYING") if self.is_blending else self._head)

    def upper_references(self) -> list[Reference]:
        """The images that a blending state lays over others."""
        return self._references(self._blended("SUPERIMPOSED"))

    def _blended(self, position: str) -> Head:
        """The images of a blending state on one side."""
        for item in self._head.items(tags.BlendingSequence):
            if item.text(tags.BlendingPosition) == position:
                return item
        raise TranscodeError(f"the blending presentation state has no images that are {position}")

    @staticmethod
    def _references(head: Head) -> list[Reference]:
        found: list[Reference] = []
        for series in head.items(tags.ReferencedSeriesSequence):
            for item in series.items(tags.ReferencedImageSequence):
                if len(found) == REFERENCES_MAX:
                    return found
                frames = tuple(int(number) for number in item.numbers(tags.ReferencedFrameNumber) if number >= 1)
                found.append(Reference(item.text(tags.ReferencedSOPInstanceUID), frames))
        return found

    def of(self, sop_instance_uid: str) -> Presentation:
        """How the image of that UID is shown; a blending state shows it alone."""
        head = self._head
        if tags.FrameDisplayShutterSequence in head:
            raise TranscodeError("shutters of single frames are not applied")
        if tags.ReferencedSpatialRegistrationSequence in head:
            raise TranscodeError("a presentation state that needs a spatial registration is not applied")
        area = _item_for(head, tags.DisplayedAreaSelectionSequence, sop_instance_uid)
        rotation = head.number(tags.ImageRotation, 0)
        if rotation not in (0, 90, 180, 270):
            raise TranscodeError(f"Image Rotation (0070,0042) is {rotation}")
        hidden = shutters(head)
        grey = self._blended("UNDERLYING") if self.is_blending else head
        return Presentation(
            is_colour=head.text(tags.SOPClassUID) == COLOUR,
            **_grey_levels(grey, sop_instance_uid),
            subtraction=mask.of_state(head, sop_instance_uid),
            presentation_lut=table_of(head, tags.PresentationLUTSequence),
            is_inverse=head.text(tags.PresentationLUTShape) == "INVERSE",
            area=None if area is None else _area(area),
            aspect=None if area is None else _aspect(area),
            rotation=rotation,
            is_flipped=head.text(tags.ImageHorizontalFlip) == "Y",
            shutters=hidden,
            overlays=tuple(self._overlays(hidden)),
            image_overlays=tuple(self._image_overlays()),
            marks=tuple(self._marks(sop_instance_uid)),
            palette=palette_of(head) if head.text(tags.SOPClassUID) == PSEUDO_COLOUR else (),
        )

    def blending(self, lower: Presentation, upper_uid: str) -> Blending:
        """How the image of that UID is laid over one that is shown as `lower`."""
        upper = self._blended("SUPERIMPOSED")
        opacity = next(iter(self._head.numbers(tags.RelativeOpacity)), math.nan)
        if not 0 <= opacity <= 1:
            raise TranscodeError("Relative Opacity (0070,0403) is not between 0 and 1")
        presentation = msgspec.structs.replace(
            lower,
            **_grey_levels(upper, upper_uid),
            palette=palette_of(self._head),
            marks=(),
        )
        return Blending(presentation, opacity)

    def _layer(self, name: str) -> _Layer:
        return self._layers.get(name, _Layer(0, WHITE))

    def _overlays(self, hidden: Shutters) -> Iterator[Overlay]:
        """Its own planes that a layer shows (PS3.3 C.11.7), the lowest layer first."""
        planes: list[tuple[_Layer, Overlay]] = []
        for plane in overlays(self._head):
            name = self._head.text(of(tags.OverlayActivationLayer, plane.group))
            if name and plane.data and (hidden.bitmap is None or plane.group != hidden.bitmap.group):
                planes.append((self._layer(name), plane))
        for layer, plane in sorted(planes, key=lambda pair: pair[0].order):
            yield msgspec.structs.replace(plane, level=layer.level)

    def _image_overlays(self) -> Iterator[tuple[int, int]]:
        """Groups of the image's planes that a layer shows; a plane of the state itself replaces the image's."""
        for group in GROUPS:
            name = self._head.text(of(tags.OverlayActivationLayer, group))
            if name and of(tags.OverlayRows, group) not in self._head:
                yield group, self._layer(name).level

    def _marks(self, sop_instance_uid: str) -> Iterator[Mark]:
        annotations = mask.items_for(self._head, tags.GraphicAnnotationSequence, sop_instance_uid)
        layers = [(self._layer(item.text(tags.GraphicLayer)), item) for item in annotations]
        count = 0
        for layer, item in sorted(layers, key=lambda pair: pair[0].order):
            for mark in (*self._graphics(item, layer), *self._texts(item, layer)):
                count += 1
                if count > MARKS_MAX:
                    raise TranscodeError(f"the presentation state has more than {MARKS_MAX} annotations")
                yield mark

    def _graphics(self, annotation: Head, layer: _Layer) -> Iterator[Mark]:
        for item in annotation.items(tags.GraphicObjectSequence):
            points = item.numbers(tags.GraphicData)
            if len(points) > 2 * POINTS_MAX:
                raise TranscodeError(f"a graphic object has more than {POINTS_MAX} points")
            yield Mark(
                item.text(tags.GraphicType),
                item.text(tags.GraphicAnnotationUnits) == "PIXEL",
                tuple(points),
                is_filled=item.text(tags.GraphicFilled) == "Y",
                level=layer.level,
                colour=layer.colour,
            )

    def _texts(self, annotation: Head, layer: _Layer) -> Iterator[Mark]:
        for item in annotation.items(tags.TextObjectSequence):
            at, units = item.numbers(tags.BoundingBoxTopLeftHandCorner), tags.BoundingBoxAnnotationUnits
            if len(at) != 2:
                at, units = item.numbers(tags.AnchorPoint), tags.AnchorPointAnnotationUnits
            text = charset.decode(item.raw(tags.UnformattedTextValue)[:TEXT_MAX], self._character_set, "ST")
            yield Mark(
                "TEXT", item.text(units) == "PIXEL", tuple(at), text.strip(), level=layer.level, colour=layer.colour
            )


def check_length(length: int) -> None:
    """Raises TranscodeError for the length of a state that is not read."""
    if length > STATE_BYTES_MAX:
        raise TranscodeError(f"a presentation state of {length} bytes is not applied")


def _layers(head: Head) -> dict[str, _Layer]:
    layers: dict[str, _Layer] = {}
    for item in head.items(tags.GraphicLayerSequence):
        if len(layers) == LAYERS_MAX:
            break
        order = next(iter(item.numbers(tags.GraphicLayerOrder)), 0.0)
        level = item.number(tags.GraphicLayerRecommendedDisplayGrayscaleValue, 0xFFFF) >> 8
        colour = srgb(item.numbers(tags.GraphicLayerRecommendedDisplayCIELabValue))
        layers[item.text(tags.GraphicLayer)] = _Layer(order, level, colour)
    return layers


def _item_for(head: Head, sequence: int, sop_instance_uid: str) -> Head | None:
    return next(mask.items_for(head, sequence, sop_instance_uid), None)


def _grey_levels(head: Head, sop_instance_uid: str) -> dict[str, Any]:
    """The fields of a Presentation that make grey levels of an image's stored values."""
    voi = _item_for(head, tags.SoftcopyVOILUTSequence, sop_instance_uid)
    return {
        "modality_lut": table_of(head, tags.ModalityLUTSequence),
        "slope": next(iter(head.numbers(tags.RescaleSlope)), 1.0) or 1.0,
        "intercept": next(iter(head.numbers(tags.RescaleIntercept)), 0.0),
        "voi_lut": None if voi is None else table_of(voi, tags.VOILUTSequence),
        "window": None if voi is None else _window(voi),
    }


def _window(item: Head) -> tuple[float, float, str] | None:
    center, width = item.numbers(tags.WindowCenter), item.numbers(tags.WindowWidth)
    if not center or not width:
        return None
    function = item.text(tags.VOILUTFunction) or "LINEAR"
    return center[0], width[0], function if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else "LINEAR"


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
