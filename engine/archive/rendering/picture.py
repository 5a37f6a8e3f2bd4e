"""Draws one instance as a picture or an animation. Runs in `render_process` only.

    frame ─ mask subtracted ─ grey levels or RGB of 8 bits ─ shutters, overlay planes ─ region, flip, scale ─ annotation
      ─ colour space ─► JPEG, PNG, GIF, MP4

`presented` arranges a picture as a presentation state has it. Thumbnails have no overlays, which may name the patient.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
from msgspec.structs import replace
from PIL import Image

from engine.archive.rendering import annotation, colour, icc, icons, mask, planes, video
from engine.archive.rendering.blended import blended, upper_reader
from engine.archive.rendering.frames import DecodedFrame, FrameReader
from engine.archive.rendering.grey import (
    Window,
    difference_levels,
    grey_levels,
    modality,
    presented_levels,
    presented_modality,
    table_modality,
)
from engine.archive.rendering.options import GIF, JPEG, MP4, PNG, PictureOptions, Viewport
from engine.archive.rendering.overlay import overlays
from engine.archive.rendering.presented import presented
from engine.archive.rendering.shutters import Shutters, shutters
from engine.archive.rendering.subtraction import Subtractor
from engine.archive.transcoding.head import Head
from engine.dicom import elements, tags
from engine.dicom.frames import is_video, pixel_stream
from engine.dicom.sources import Concatenation, Part, Whole
from engine.errors import DataSetError, FramesUnreadable, TranscodeError

if TYPE_CHECKING:
    from engine.archive.rendering.presentation_state import Presentation
    from engine.archive.transcoding.head import ImagePixel
    from engine.dicom.sources import Source
    from engine.dicom.transfer_syntax import TransferSyntax

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FRAMES_MAX: Final = 4096
"""The most frames of an animation."""
FRAME_S: Final = 0.1
"""How long each frame of an animation is shown if the data set does not say."""

_GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2", ""})


class _Drawing(NamedTuple):
    """What is drawn."""

    reader: FrameReader
    head: Head
    options: PictureOptions
    subtractor: Subtractor | None
    """Subtracts masks from the frames."""
    upper: FrameReader | None
    """The image that is laid over it."""


def draw(source: Source, syntax: TransferSyntax, options: PictureOptions, *, decoded_bytes_max: int) -> bytes:
    """The picture, encoded. Raises TranscodeError.

    `source`: the data set; for a presentation state that lays another image over it, that one's data set behind it.
    """
    try:
        upper = None
        if options.presentation is not None and (blending := options.presentation.blending) is not None:
            upper = upper_reader(source, blending, decoded_bytes_max)
            source = Part(source, 0, blending.start)
        head = Head.read(source, elements.encoding_of(source.read(0, 8), syntax))
        if options.is_thumbnail and (why := icons.reason(head, has_pixels=source.length > len(head))):
            return _encoded(icons.icon(why, options.viewport), options, None)
        try:
            if is_video(syntax.uid):
                return _encoded(_still(source, syntax, head, options, decoded_bytes_max), options, None)
            reader = FrameReader(source, syntax, head, decoded_bytes_max)
            return _drawn(_Drawing(reader, head, options, _subtractor(reader, head, options), upper))
        except TranscodeError:
            if not options.is_thumbnail or options.frame is not None:
                raise
            return _encoded(icons.icon(icons.text(head), options.viewport), options, None)
    except DataSetError as error:
        raise TranscodeError(f"the data set cannot be read: {error}") from error


def _drawn(drawing: _Drawing) -> bytes:
    options = drawing.options
    if options.frame is None and options.media_type in (GIF, MP4):
        return _animation(drawing)
    number = options.frame if options.frame is not None else (drawing.reader.image.number_of_frames + 1) // 2
    profile = icc.conversion_of(drawing.head, options.icc_profile)
    return _encoded(_picture(drawing, number - 1), options, profile)


def _subtractor(reader: FrameReader, head: Head, options: PictureOptions) -> Subtractor | None:
    """What subtracts masks from the frames, if the presentation state, or without one the image, wants that.

    Raises TranscodeError if the state cannot be applied. An image is shown as stored if its own masks make no sense.
    """
    image, presentation = reader.image, options.presentation
    if presentation is not None:
        if presentation.subtraction is None:
            return None
        modal = presented_modality(image, presentation)
        return Subtractor(reader, presentation.subtraction, modal, partial(table_modality, image))
    try:
        subtraction = mask.of_image(head) if image.photometric_interpretation in _GREY else None
        return None if subtraction is None else Subtractor(reader, subtraction, modality(head, image, 0))
    except TranscodeError:
        return None


def _still(source: Source, syntax: TransferSyntax, head: Head, options: PictureOptions, bytes_max: int) -> Image.Image:
    """One picture of a video."""
    if options.frame is not None:
        raise TranscodeError(f"{syntax.name} is one video stream, without separate frames")
    try:
        stream = pixel_stream(Concatenation(Whole(head.view), Part(source, len(head))), syntax, len(head))
    except FramesUnreadable as error:
        raise TranscodeError(str(error)) from error
    picture = video.still(stream, bytes_max)
    if options.viewport is not None:
        picture = viewed(picture, options.viewport, _pixel_aspect(head))
    return _annotated(picture, head, options)


def _picture(drawing: _Drawing, number: int, range_of: Samples | None = None) -> Image.Image:
    """A frame, from 0. `range_of`: the frame whose range is shown from black to white if there is no window."""
    head, options = drawing.head, drawing.options
    decoded = drawing.reader.frame(number)
    samples, image, _ = decoded
    is_grey = image.photometric_interpretation in _GREY
    if is_grey and image.samples_per_pixel != 1:
        raise TranscodeError(f"{image.samples_per_pixel} samples a pixel cannot be shown as grey levels")
    if options.presentation is not None:
        if options.presentation.is_colour == is_grey:
            kind = "of colour" if is_grey else "of grey levels"
            raise TranscodeError(f"the presentation state is for images {kind}")
        return _annotated(_presented(drawing, decoded, number, options.presentation), head, options)
    if is_grey:
        window = Window(*options.window) if options.window else None
        levels = _difference(drawing, image, number, window)
        if levels is None:
            levels = grey_levels(samples, head, image, number, window, range_of)
    else:
        levels = colour.rgb(samples, head, image)
    hidden = _own_shutters(head)
    levels = planes.with_shutters(levels, hidden, number, decoded.container)
    if not options.is_thumbnail:
        shown = (plane for plane in overlays(head) if plane != hidden.bitmap)
        levels = planes.with_overlays(levels, shown, number, decoded.container)
    picture = Image.fromarray(np.ascontiguousarray(levels))
    if options.viewport is not None:
        picture = viewed(picture, options.viewport, _pixel_aspect(head))
    return _annotated(picture, head, options)


def _difference(drawing: _Drawing, image: ImagePixel, number: int, window: Window | None) -> Samples | None:
    """The levels of a frame from which the image's own mask is subtracted; None if there is none that can be."""
    subtractor = drawing.subtractor
    if subtractor is None:
        return None
    try:
        difference = subtractor.values(number + 1)
        if difference is None:
            return None
        extent = subtractor.extent(number + 1, difference.values)
    except TranscodeError:
        return None
    return difference_levels(difference.values, extent, drawing.head, image, number, window)


def _presented(drawing: _Drawing, decoded: DecodedFrame, number: int, presentation: Presentation) -> Image.Image:
    head = drawing.head
    if presentation.is_colour:
        levels = colour.rgb(decoded.samples, head, decoded.image)
    else:
        subtracted = None if drawing.subtractor is None else drawing.subtractor.values(number + 1)
        palette = colour.palette_table(presentation.palette) if presentation.palette else None
        top = 255 if palette is None else len(palette) - 1
        levels = presented_levels(decoded.samples, decoded.image, presentation, subtracted, top)
        if palette is not None:
            levels = palette[levels]
        elif presentation.blending is not None and drawing.upper is not None:
            levels = blended(levels, presentation.blending, drawing.upper)
    levels = planes.with_shutters(levels, presentation.shutters, number, decoded.container)
    active = dict(presentation.image_overlays)
    own = (replace(plane, level=active[plane.group]) for plane in overlays(head) if plane.group in active)
    levels = planes.with_overlays(levels, (*own, *presentation.overlays), number, decoded.container)
    picture = Image.fromarray(np.ascontiguousarray(levels))
    return presented(picture, presentation, drawing.options.viewport, _pixel_aspect(head))


def _own_shutters(head: Head) -> Shutters:
    """The shutters of the image itself; none if they make no sense, since the image without them hides nothing."""
    try:
        return shutters(head)
    except TranscodeError:
        return Shutters()


def _annotated(picture: Image.Image, head: Head, options: PictureOptions) -> Image.Image:
    if options.annotation:
        annotation.draw(picture, head, options.annotation, dict(options.corrections))
    return picture


def _pixel_aspect(head: Head) -> float:
    """Height of a pixel divided by its width (PS3.3 C.7.6.3.1.7)."""
    for tag in (tags.PixelAspectRatio, tags.PixelSpacing, tags.ImagerPixelSpacing):
        numbers = head.numbers(tag)
        if len(numbers) == 2 and numbers[0] > 0 and numbers[1] > 0:
            aspect = numbers[0] / numbers[1]
            return aspect if 0.1 <= aspect <= 10 else 1.0
    return 1.0


def viewed(picture: Image.Image, viewport: Viewport, aspect: float = 1.0) -> Image.Image:
    """Crops, flips and scales the region to fit the viewport, with its proportions kept (PS3.18 8.3.5.1.3)."""
    width, height = picture.size
    unit_x, unit_y = (width, height) if viewport.is_relative else (1, 1)
    left = (viewport.left or 0.0) * unit_x
    top = (viewport.top or 0.0) * unit_y
    across = viewport.region_width * unit_x if viewport.region_width else width - left
    down = viewport.region_height * unit_y if viewport.region_height else height - top
    box = _within(left, top, left + abs(across), top + abs(down), width, height)
    region_width, region_height = box[2] - box[0], (box[3] - box[1]) * aspect
    scale = min(viewport.width / region_width, viewport.height / region_height)
    if not viewport.is_enlarging:
        scale = min(scale, 1.0)
    size = max(round(region_width * scale), 1), max(round(region_height * scale), 1)
    sampling = Image.Resampling
    is_whole = box == (0.0, 0.0, float(width), float(height))
    if scale <= 0.5 and is_whole and not (width % size[0] or height % size[1]):
        scaled = picture.reduce((width // size[0], height // size[1]))  # the same as BOX, in a quarter of the time
    else:
        resample = sampling.BILINEAR if scale > 1 else sampling.BOX if scale <= 0.5 else sampling.HAMMING
        scaled = picture.resize(size, resample, box=box)
    if across < 0:
        scaled = scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if down < 0:
        scaled = scaled.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return scaled


def _within(
    left: float, top: float, right: float, bottom: float, width: int, height: int
) -> tuple[float, float, float, float]:
    left, right = min(max(left, 0.0), width), min(max(right, 0.0), width)
    top, bottom = min(max(top, 0.0), height), min(max(bottom, 0.0), height)
    if right - left < 1e-3 or bottom - top < 1e-3:
        raise TranscodeError("the region lies outside of the image")
    return left, top, right, bottom


def _encoded(picture: Image.Image, options: PictureOptions, profile: icc.Profile | None) -> bytes:
    embedded = None
    if profile is not None:
        picture, embedded = profile.applied(picture)
    if options.media_type == JPEG and embedded is None:
        import simplejpeg

        levels = np.asarray(picture)
        is_grey = levels.ndim == 2
        return bytes(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(levels[:, :, None] if is_grey else levels),
                quality=options.quality,
                colorspace="GRAY" if is_grey else "RGB",
                colorsubsampling="444" if options.quality >= 95 else "422",
            )
        )
    out = io.BytesIO()
    if options.media_type == JPEG:
        picture.save(out, "JPEG", quality=options.quality, icc_profile=embedded)
    elif options.media_type == PNG:
        picture.save(out, "PNG", compress_level=1, icc_profile=embedded)
    elif options.media_type == GIF:
        picture.save(out, "GIF")
    else:
        raise TranscodeError(f"one frame is no {options.media_type}")
    return out.getvalue()


def _animation(drawing: _Drawing) -> bytes:
    reader, head, options = drawing.reader, drawing.head, drawing.options
    numbers = options.frames or range(1, reader.image.number_of_frames + 1)
    if len(numbers) > FRAMES_MAX:
        raise TranscodeError(f"it has {len(numbers)} frames, the limit of an animation is {FRAMES_MAX}")
    middle = numbers[len(numbers) // 2]
    shown = reader.frame(middle - 1).samples
    if drawing.subtractor is not None:
        drawing.subtractor.range_number = middle
    pictures = (_picture(drawing, number - 1, shown) for number in numbers)
    if options.media_type == MP4:
        return video.mp4(pictures, frame_s(head))
    return _gif(pictures, frame_s(head))


def _gif(pictures: Iterator[Image.Image], seconds: float) -> bytes:
    out = io.BytesIO()
    first = next(pictures)
    first.save(
        out,
        "GIF",
        save_all=True,
        append_images=pictures,
        duration=max(round(seconds * 1000), 20),
        loop=0,
    )
    return out.getvalue()


def frame_s(head: Head) -> float:
    """How long to show each frame, in seconds (PS3.3 C.7.6.5)."""
    times = head.numbers(tags.FrameTime)
    if times and 0 < times[0] <= 60_000:
        return times[0] / 1000
    for tag in (tags.RecommendedDisplayFrameRate, tags.CineRate):
        rates = head.numbers(tag)
        if rates and 0 < rates[0] <= 1000:
            return 1 / rates[0]
    vector = head.numbers(tags.FrameTimeVector)
    if len(vector) > 1 and 0 < vector[1] <= 60_000:
        return vector[1] / 1000
    return FRAME_S
