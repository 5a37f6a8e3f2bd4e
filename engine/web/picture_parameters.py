"""Parses the query of a rendered resource into picture options (PS3.18 8.3.5, 9.1.2.2).

Pure functions. Percent-encoded separators are accepted, since viewers encode commas. An invalid value raises
RequestError with the name of the parameter; unknown parameters are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from engine.archive.rendering.options import (
    ANNOTATIONS,
    ICC_PROFILES,
    JPEG,
    QUALITY,
    SIDE_MAX,
    PictureOptions,
    Viewport,
)
from engine.errors import RequestError

FUNCTIONS: Final = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
"""VOI LUT Functions as spelled in PS3.18 8.3.5.1.4."""

THUMBNAIL_SIDE: Final = 256
THUMBNAIL_QUALITY: Final = 80


def rendered(
    query: Mapping[str, str], media_type: str, *, frame: int | None, is_presentation: bool = False
) -> tuple[PictureOptions, list[str]]:
    """The options of a rendered resource, and warnings for ignored values. Raises RequestError.

    `is_presentation`: of a presentation state, which has its own window and region.
    """
    warnings: list[str] = []
    window = _window(query.get("window", ""))
    viewport = _viewport(query.get("viewport", ""))
    if is_presentation and window is not None:
        raise RequestError("window: a presentation state has its own")
    if is_presentation and viewport is not None and viewport.left is not None:
        raise RequestError("viewport: a presentation state has its own region")
    profile = query.get("iccprofile", "no").lower()
    if profile not in ICC_PROFILES:
        raise RequestError(f"iccprofile: must be one of {', '.join(ICC_PROFILES)}")
    if profile != "no" and media_type not in ("image/jpeg", "image/png"):
        raise RequestError(f"iccprofile: {media_type} cannot have one")
    options = PictureOptions(
        media_type=media_type,
        frame=frame,
        window=window,
        viewport=viewport,
        quality=_quality(query.get("quality", "")),
        annotation=_annotation(query.get("annotation"), warnings),
        icc_profile=profile,
    )
    return options, warnings


def thumbnail(query: Mapping[str, str], media_type: str = JPEG, *, frame: int | None = None) -> PictureOptions:
    """The options of a thumbnail, which has only a size. Raises RequestError."""
    viewport = _viewport(query.get("viewport", "")) or Viewport(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    if viewport.left is not None or viewport.region_width is not None:
        raise RequestError("viewport: a thumbnail shows the whole image")
    return PictureOptions(
        media_type=media_type, frame=frame, viewport=viewport, quality=THUMBNAIL_QUALITY, is_thumbnail=True
    )


def wado_uri(query: Mapping[str, str], media_type: str) -> PictureOptions:
    """The options of WADO-URI (PS3.18 9.1.2.2.1). Raises RequestError."""
    center, width = query.get("windowCenter"), query.get("windowWidth")
    if (center is None) != (width is None):
        raise RequestError("windowCenter and windowWidth: both are required together")
    window = None
    if center is not None and width is not None:
        window = _number("windowCenter", center), _number("windowWidth", width), "LINEAR"
        if window[1] < 1:
            raise RequestError("windowWidth: must be at least 1")
    frame = _whole("frameNumber", query["frameNumber"]) if "frameNumber" in query else None
    annotation = tuple(
        name for name in _list(query.get("annotation", "")) if name in ANNOTATIONS
    )  # unknown values are ignored (9.1.2.2.1.8)
    return PictureOptions(
        media_type=media_type,
        frame=frame,
        window=window,
        viewport=_uri_viewport(query),
        quality=_quality(query.get("imageQuality", ""), "imageQuality"),
        annotation=annotation,
    )


def _uri_viewport(query: Mapping[str, str]) -> Viewport | None:
    rows = _side("rows", query["rows"]) if "rows" in query else None
    columns = _side("columns", query["columns"]) if "columns" in query else None
    left = top = across = down = None
    if "region" in query:
        ends = [_number("region", text) for text in _list(query["region"])]
        if len(ends) != 4 or not all(0 <= end <= 1 for end in ends) or ends[0] >= ends[2] or ends[1] >= ends[3]:
            raise RequestError("region: must be left, top, right, bottom, each from 0 to 1")
        left, top, across, down = ends[0], ends[1], ends[2] - ends[0], ends[3] - ends[1]
    if rows is None and columns is None and left is None:
        return None
    return Viewport(
        columns or SIDE_MAX,
        rows or SIDE_MAX,
        left,
        top,
        across,
        down,
        is_relative=True,
        is_enlarging=bool(rows or columns),
    )


def _window(text: str) -> tuple[float, float, str] | None:
    if not text:
        return None
    parts = _list(text)
    if len(parts) not in (2, 3):
        raise RequestError("window: must be center, width and function")
    function = FUNCTIONS.get(parts[2].lower()) if len(parts) == 3 else "LINEAR"
    if function is None:
        raise RequestError(f"window: the function must be one of {', '.join(FUNCTIONS)}")
    center, width = _number("window", parts[0]), _number("window", parts[1])
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise RequestError("window: the width is too small")
    return center, width, function


def _viewport(text: str) -> Viewport | None:
    if not text:
        return None
    parts = _list(text)
    if len(parts) not in (2, 6):
        raise RequestError("viewport: must be width and height, and optionally left, top, width, height of a region")
    width, height = _side("viewport", parts[0]), _side("viewport", parts[1])
    left, top, across, down = [_number("viewport", part) if part else None for part in parts[2:]] or [None] * 4
    if (left is not None and left < 0) or (top is not None and top < 0):
        raise RequestError("viewport: the region must begin within the image")
    return Viewport(width, height, left, top, across, down)


def _quality(text: str, name: str = "quality") -> int:
    if not text:
        return QUALITY
    quality = _whole(name, text)
    if not 1 <= quality <= 100:
        raise RequestError(f"{name}: must be from 1 to 100")
    return quality


def _annotation(text: str | None, warnings: list[str]) -> tuple[str, ...]:
    if text is None:
        return ()
    names = [name.lower() for name in _list(text)]
    if not any(names):
        raise RequestError(f"annotation: must be one of {', '.join(ANNOTATIONS)}, or both")
    unknown = [name for name in names if name not in ANNOTATIONS]
    if unknown:
        warnings.append(f"The following annotation values are not supported: {', '.join(unknown)[:200]}")
    return tuple(dict.fromkeys(name for name in names if name in ANNOTATIONS))


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.replace("%2C", ",").replace("%2c", ",").split(",")]


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e12:
        raise RequestError(f"{name}: {text[:32]!r} is not a number")
    return number


def _whole(name: str, text: str) -> int:
    number = _number(name, text)
    if number != int(number) or number < 1:
        raise RequestError(f"{name}: must be a whole number above 0")
    return int(number)


def _side(name: str, text: str) -> int:
    side = _whole(name, text)
    if side > SIDE_MAX:
        raise RequestError(f"{name}: a side of a picture has at most {SIDE_MAX} pixels")
    return side
