"""The options of a picture: plain values, checked by their source, for the drawing process.

Standard: PS3.18 8.3.5.1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import msgspec

from engine.archive.rendering.presentation_state import Presentation

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
GIF: Final = "image/gif"
MP4: Final = "video/mp4"
MEDIA_TYPES: Final = (JPEG, PNG, GIF, MP4)
ANIMATED: Final = (GIF, MP4)

QUALITY: Final = 90
SIDE_MAX: Final = 16384
"""The longest side of a picture, in pixels."""
ANNOTATIONS: Final = ("patient", "technique")
ICC_PROFILES: Final = ("no", "yes", "srgb", "adobergb", "rommrgb")


@dataclass(frozen=True, slots=True)
class Viewport:
    """The size in pixels that the picture must fit into, and the region of the image to show; None: all of it.

    A negative width or height of the region flips it.
    """

    width: int
    height: int
    left: float | None = None
    top: float | None = None
    region_width: float | None = None
    region_height: float | None = None
    is_relative: bool = False
    """Whether the region is in shares of the image (0 to 1), as in WADO-URI, and not in pixels."""
    is_enlarging: bool = True
    """Whether to scale up a region that is smaller than the viewport."""


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """The options of one picture, or of an animation of all frames."""

    media_type: str = JPEG
    frame: int | None = 1
    """The frame, from 1. None: all frames of an animation, else the middle one."""
    frames: tuple[int, ...] = ()
    """The frames of an animation, from 1; (): all."""
    window: tuple[float, float, str] | None = None
    """Center, width, VOI LUT Function (PS3.3 C.11.2.1.3)."""
    viewport: Viewport | None = None
    quality: int = QUALITY
    """JPEG quality, 1 to 100."""
    annotation: tuple[str, ...] = ()
    """Some of ANNOTATIONS."""
    icc_profile: str = "no"
    """One of ICC_PROFILES."""
    corrections: tuple[tuple[int, str], ...] = ()
    """Tags and values that replace those of the stored data set in annotations."""
    is_thumbnail: bool = False
    """Whether an icon replaces a picture that may have a patient's name in its pixels."""

    presentation: Presentation | None = None
    """How a presentation state shows the image, instead of its own description."""

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        plain = asdict(replace(self, presentation=None))
        return {**plain, "presentation": msgspec.to_builtins(self.presentation)}

    @classmethod
    def of(cls, values: dict[str, Any]) -> PictureOptions:
        """From plain values."""
        viewport, window = values.get("viewport"), values.get("window")
        presentation = values.get("presentation")
        return cls(
            **{
                **values,
                "viewport": Viewport(**viewport) if viewport else None,
                "window": tuple(window) if window else None,
                "presentation": msgspec.convert(presentation, Presentation) if presentation else None,
                "frames": tuple(values.get("frames", ())),
                "annotation": tuple(values.get("annotation", ())),
                "corrections": tuple((tag, text) for tag, text in values.get("corrections", ())),
            }
        )
