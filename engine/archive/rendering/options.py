"""What a picture is to be like: plain values, checked where they come from, passed to the process that draws.

Standard: PS3.18 8.3.5.1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
GIF: Final = "image/gif"
MP4: Final = "video/mp4"
MEDIA_TYPES: Final = (JPEG, PNG, GIF, MP4)
ANIMATED: Final = (GIF, MP4)

QUALITY: Final = 90
SIDE_MAX: Final = 16384
"""Pixels of a picture's side."""
ANNOTATIONS: Final = ("patient", "technique")
ICC_PROFILES: Final = ("no", "yes", "srgb", "adobergb", "rommrgb")


@dataclass(frozen=True, slots=True)
class Viewport:
    """Pixels that the picture must fit into, and the region of the image that it shows; None: all of it.

    A negative width or height of the region flips it.
    """

    width: int
    height: int
    left: float | None = None
    top: float | None = None
    region_width: float | None = None
    region_height: float | None = None
    is_relative: bool = False
    """Whether the region counts in shares of the image (0 to 1), as WADO-URI has it, and not in pixels."""
    is_enlarging: bool = True
    """Whether a region that is smaller than the viewport is scaled up."""


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """One picture, or one animation of all frames."""

    media_type: str = JPEG
    frame: int | None = 1
    """From 1. None: all frames, of an animation; of another type the middle one."""
    window: tuple[float, float, str] | None = None
    """Center, width, VOI LUT Function (PS3.3 C.11.2.1.3)."""
    viewport: Viewport | None = None
    quality: int = QUALITY
    """1 to 100, of JPEG."""
    annotation: tuple[str, ...] = ()
    """Of ANNOTATIONS."""
    icc_profile: str = "no"
    """Of ICC_PROFILES."""
    corrections: tuple[tuple[int, str], ...] = ()
    """Tag and value of what is annotated otherwise than the stored data set says."""
    is_thumbnail: bool = False
    """An icon takes the place of what may have a patient's name in its pixels."""

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> PictureOptions:
        """From plain values."""
        viewport, window = values.get("viewport"), values.get("window")
        return cls(
            **{
                **values,
                "viewport": Viewport(**viewport) if viewport else None,
                "window": tuple(window) if window else None,
                "annotation": tuple(values.get("annotation", ())),
                "corrections": tuple((tag, text) for tag, text in values.get("corrections", ())),
            }
        )
