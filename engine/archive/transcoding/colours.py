"""Which colour space decoded samples are in. Runs in `archive.transcoding.codec_process` only.

Decoded samples are never subsampled and never transformed by a codec, so what a compressed data set says of them
(PS3.3 C.7.6.3.1.2) is not always what may be said of them afterwards:

    said of three samples a pixel          native
    YBR_FULL_422                           YBR_FULL: each pixel has its own Cb and Cr now
    YBR_RCT, YBR_ICT                       RGB: the transform belongs to JPEG 2000, whose decoder has undone it; beside
                                           other codecs these words are left over from a JPEG 2000 that came before
    YBR_PARTIAL_420, YBR_PARTIAL_422       RGB, calculated here: no term is defined for such samples at full resolution
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

_NATIVE: Final = {"YBR_FULL_422": "YBR_FULL", "YBR_RCT": "RGB", "YBR_ICT": "RGB", **dict.fromkeys(PARTIAL, "RGB")}

# ITU-R BT.601 of 8 bits, the inverse of PS3.3 C.7.6.3.1.2: rows R, G, B; columns Y - 16, Cb - 128, Cr - 128.
_FROM_PARTIAL: Final = np.array([[1.1644, 0.0, 1.5960], [1.1644, -0.3918, -0.8130], [1.1644, 2.0172, 0.0]])


def native_photometric_interpretation(said: str, samples_per_pixel: int) -> str:
    """What is to be said of samples that have been decoded, when `said` was said of the coded ones."""
    return _NATIVE.get(said, said) if samples_per_pixel == 3 else said


def to_native(samples: Samples, said: str, samples_per_pixel: int) -> tuple[Samples, str]:
    """The samples, by pixel, in the colour space that `native_photometric_interpretation` names, and its name."""
    native = native_photometric_interpretation(said, samples_per_pixel)
    if said in PARTIAL and samples_per_pixel == 3:
        if samples.dtype.itemsize != 1:
            raise TranscodeError(f"its samples are {said} of more than 8 bits, for which nothing is defined")
        ybr = samples.reshape(-1, 3).astype(np.float32) - np.array((16, 128, 128), np.float32)
        rgb = ybr @ _FROM_PARTIAL.T.astype(np.float32)
        samples = np.clip(np.rint(rgb), 0, 255).astype(np.uint8).reshape(-1)
    return samples, native


def upsampled_422(frame: bytes) -> Samples:
    """By pixel, from Y1 Y2 Cb Cr of each two pixels (PS3.3 C.7.6.3.1.2, YBR_FULL_422 that is native)."""
    pairs = np.frombuffer(frame, np.uint8).reshape(-1, 4)
    return pairs[:, (0, 2, 3, 1, 2, 3)].reshape(-1)
