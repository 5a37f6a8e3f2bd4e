"""Draws an image as a presentation state has it. Runs in `render_process` only; `presentation_state` has the order.

Texts and graphics are drawn last, at the places where the image's points have come to lie, so that no text is turned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.rendering.options import Viewport
    from engine.archive.rendering.presentation_state import Mark, Presentation

_TURNS: Final = {
    90: Image.Transpose.ROTATE_270,  # Pillow turns counterclockwise
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}
FAR: Final = 1 << 15
"""Pixels from the corner of a picture: a text or graphic object with a point beyond is left out (or with NaN)."""
_ELLIPSE_POINTS: Final = 72

Point = tuple[float, float]
_Ink = int | tuple[int, ...]


def presented(
    picture: Image.Image, presentation: Presentation, viewport: Viewport | None, aspect: float
) -> Image.Image:
    """A picture, arranged. `aspect`: of the image's pixels. Raises TranscodeError."""
    left, top, right, bottom = _visible(presentation.area, *picture.size)
    shown = picture.crop((left, top, right, bottom))
    aspect = presentation.aspect or aspect
    if presentation.rotation:
        shown = shown.transpose(_TURNS[presentation.rotation])
        aspect = 1 / aspect if presentation.rotation in (90, 270) else aspect
    if presentation.is_flipped:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = shown.size
    if viewport is not None:
        scale = min(viewport.width / turned[0], viewport.height / (turned[1] * aspect))
        size = max(round(turned[0] * scale), 1), max(round(turned[1] * aspect * scale), 1)
        sampling = Image.Resampling
        shown = shown.resize(size, sampling.BILINEAR if scale > 1 else sampling.BOX)

    def place(x: float, y: float, *, is_of_image: bool) -> Point:
        """Where a point of the image, or of the displayed area, lies in the picture."""
        if not is_of_image:
            return x * shown.size[0], y * shown.size[1]
        width, height = right - left, bottom - top
        x, y = x - left, y - top
        if presentation.rotation == 90:
            x, y = height - y, x
        elif presentation.rotation == 180:
            x, y = width - x, height - y
        elif presentation.rotation == 270:
            x, y = y, width - x
        if presentation.is_flipped:
            x = turned[0] - x
        return x * shown.size[0] / turned[0], y * shown.size[1] / turned[1]

    pen = ImageDraw.Draw(shown)
    font = ImageFont.load_default(max(min(shown.size) // 40, 10))
    for mark in presentation.marks:
        corners = zip(mark.points[::2], mark.points[1::2], strict=False)
        points = [place(x, y, is_of_image=mark.is_of_image) for x, y in corners]
        if points and all(abs(x) < FAR and abs(y) < FAR for x, y in points):
            _draw(pen, font, mark, points, _inks(shown.mode, mark))
    return shown


def _visible(area: tuple[float, float, float, float] | None, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the displayed area that the image has."""
    left, top, right, bottom = area or (0, 0, width, height)
    left, top, right, bottom = int(max(left, 0)), int(max(top, 0)), int(min(right, width)), int(min(bottom, height))
    if left >= right or top >= bottom:
        raise TranscodeError("the displayed area lies outside of the image")
    return left, top, right, bottom


def _inks(mode: str, mark: Mark) -> tuple[_Ink, _Ink]:
    """The ink of a mark, and that of its edge, which sets it off."""
    if mode == "L":
        return mark.level, 0 if mark.level > 127 else 255
    ink = mark.colour or (mark.level,) * 3
    return ink, (0, 0, 0) if max(ink) > 127 else (255, 255, 255)


def _draw(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    mark: Mark,
    points: list[Point],
    inks: tuple[_Ink, _Ink],
) -> None:
    kind = mark.kind
    ink, edge = inks
    if kind == "TEXT":
        pen.multiline_text(points[0], mark.text, ink, font, stroke_width=1, stroke_fill=edge)
        return
    if kind == "POINT":
        x, y = points[0]
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=ink, outline=edge)
        return
    if kind == "CIRCLE" and len(points) >= 2:
        center, end = points[0], points[1]
        points = _ellipse(center, (end[0] - center[0], end[1] - center[1]), (center[1] - end[1], end[0] - center[0]))
    elif kind == "ELLIPSE" and len(points) >= 4:
        center = ((points[0][0] + points[1][0]) / 2, (points[0][1] + points[1][1]) / 2)
        major, minor = [
            ((a[0] - b[0]) / 2, (a[1] - b[1]) / 2) for a, b in ((points[0], points[1]), (points[2], points[3]))
        ]
        points = _ellipse(center, major, minor)
    if len(points) < 2:
        return
    if mark.is_filled and len(points) > 2:
        pen.polygon(points, fill=ink)
    pen.line(points, fill=edge, width=3)
    pen.line(points, fill=ink, width=1)


def _ellipse(center: Point, major: Point, minor: Point) -> list[Point]:
    turns = [2 * math.pi * number / _ELLIPSE_POINTS for number in range(_ELLIPSE_POINTS + 1)]
    return [
        (
            center[0] + major[0] * math.cos(turn) + minor[0] * math.sin(turn),
            center[1] + major[1] * math.cos(turn) + minor[1] * math.sin(turn),
        )
        for turn in turns
    ]
