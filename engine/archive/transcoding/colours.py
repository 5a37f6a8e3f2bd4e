"""The colour space of decoded samples. Runs in `archive.transcoding.codec_process` only.

Decoded samples are never subsampled, and a codec has undone its own transform, so the Photometric Interpretation of
compressed samples (PS3.3 C.7.6.3.1.2) does not always hold for decoded ones:

    compressed, three samples a pixel      native
    YBR_FULL_422                           YBR_FULL: each pixel has its own Cb and Cr now
    XYB                                    RGB: the colour space of JPEG XL, which its decoder has left
    YBR_RCT, YBR_ICT                       RGB: the transform of JPEG 2000, which its decoder has undone; with another
                                           codec the term is left over from an earlier JPEG 2000
    YBR_PARTIAL_420, YBR_PARTIAL_422       RGB, computed here: no term is defined for such samples at full resolution
    anything else                          the same
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing import TypeAlias

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PARTIAL: Final = frozenset({"YBR_PARTIAL_420", "YBR_PARTIAL_422"})
YBR: Final = frozenset({"YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"}) | PARTIAL

_NATIVE: Final = {
    "YBR_FULL_422": "YBR_FULL",
    "YBR_RCT": "RGB",
    "YBR_ICT": "RGB",
    "XYB": "RGB",
    **dict.fromkeys(PARTIAL, "RGB"),
}

# ITU-R BT.601 of 8 bits, the inverse of PS3.3 C.7.6.3.1.2: rows R, G, B; columns Y - 16, Cb - 128, Cr - 128.
_FROM_PARTIAL: Final = np.array([[1.1644, 0.0, 1.5960], [1.1644, -0.3918, -0.8130], [1.1644, 2.0172, 0.0]])


def native_photometric_interpretation(photometric_interpretation: str, samples_per_pixel: int) -> str:
    """The Photometric Interpretation of decoded samples, from that of the compressed ones."""
    return (
        _NATIVE.get(photometric_interpretation, photometric_interpretation)
        if samples_per_pixel == 3
        else photometric_interpretation
    )


def to_native(samples: Samples, photometric_interpretation: str, samples_per_pixel: int) -> tuple[Samples, str]:
    """The samples, by pixel, in the colour space of `native_photometric_interpretation`, and its name."""
    native = native_photometric_interpretation(photometric_interpretation, samples_per_pixel)
    if photometric_interpretation in PARTIAL and samples_per_pixel == 3:
        if samples.dtype.itemsize != 1:
            raise TranscodeError(
                f"its samples are {photometric_interpretation} of more than 8 bits, which is not defined"
            )
        ybr = samples.reshape(-1, 3).astype(np.float32) - np.array((16, 128, 128), np.float32)
        rgb = ybr @ _FROM_PARTIAL.T.astype(np.float32)
        samples = np.clip(np.rint(rgb), 0, 255).astype(np.uint8).reshape(-1)
    return samples, native


def upsampled_422(frame: bytes) -> Samples:
    """Native YBR_FULL_422 by pixel, from Y1 Y2 Cb Cr of each two pixels (PS3.3 C.7.6.3.1.2)."""
    pairs = np.frombuffer(frame, np.uint8).reshape(-1, 4)
    return pairs[:, (0, 2, 3, 1, 2, 3)].reshape(-1)
