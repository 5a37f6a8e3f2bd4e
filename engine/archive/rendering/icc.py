"""ICC profiles of pictures: that of the data set, or one of three named ones (PS3.18 8.3.5.1.5).

Adobe RGB (1998) and ROMM RGB are made here from their primaries, white and gamma, since no library has them
(ICC.1:2001-04: a matrix, and a curve for each channel).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageCms

from engine.dicom import tags
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head

_D50: Final = (0.9642, 1.0, 0.8249)
# Red, green, blue as X, Y, Z under D50, and gamma.
_ADOBE: Final = (((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)), 2.19921875)
_ROMM: Final = (((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00008, 0.82491)), 1.8)


@dataclass(frozen=True, slots=True)
class Profile:
    """A conversion between two colour spaces; None is sRGB."""

    source: bytes | None
    target: bytes | None

    def applied(self, picture: Image.Image) -> tuple[Image.Image, bytes]:
        """The picture in the target space, and the profile to embed. Raises TranscodeError."""
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        embedded = self.target or srgb()
        if self.source == self.target:
            return picture, embedded
        try:
            changed = ImageCms.profileToProfile(
                picture, _opened(self.source or srgb()), _opened(embedded), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError) as error:
            raise TranscodeError("the ICC profile cannot be applied") from error
        return changed or picture, embedded


def conversion_of(head: Head, name: str) -> Profile | None:
    """The conversion for a value of `iccprofile`; None for no profile."""
    if name == "no":
        return None
    own = head.raw(tags.ICCProfile)
    if not own:
        optical = head.item(tags.OpticalPathSequence)
        own = optical.raw(tags.ICCProfile) if optical is not None else b""
    source = own or None
    targets = {"yes": source, "srgb": None, "adobergb": matrix_profile(*_ADOBE), "rommrgb": matrix_profile(*_ROMM)}
    return Profile(source, targets[name])


@cache
def srgb() -> bytes:
    """The profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


@cache
def matrix_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """A display profile of version 2."""
    text = b"Filmroom RGB\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67)
    elements = {
        b"desc": description,
        b"cprt": b"text" + bytes(4) + b"No copyright\0",
        b"wtpt": _xyz(_D50),
        **{name: _xyz(primary) for name, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))),
    }
    table, body = b"", b""
    at = 128 + 4 + 12 * len(elements)
    for name, element in elements.items():
        padded = element + bytes(-len(element) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(element))
        body += padded
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_D50)[8:] + bytes(48)
    return header + struct.pack(">I", len(elements)) + table + body


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))
