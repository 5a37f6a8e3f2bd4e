"""Decodes PNG and GIF pictures to native pixels. `pictures` runs in `archive.transcoding.codec_process` only.

The result of a job, little endian:

    head      rows u32 | columns u32 | samples per pixel u8 | bits u8 | frames u32
    frames    one after another, colour by pixel (Planar Configuration 0)

PNG: grey of up to 16 bits, RGB of 8 and 16 bits; smaller greys are scaled to 8 bits, palettes become RGB. GIF: each
picture of an animation is a frame in RGB. Transparency is dropped, since DICOM pixels have none. A request for one
sample gets a colour picture whose pixels are all grey as grey, and an error for any other.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from typing_extensions import Buffer

_HEAD: Final = struct.Struct("<IIBBI")
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_GIF: Final = (b"GIF87a", b"GIF89a")
_PNG_HEAD: Final = struct.Struct(">8xI4sIIBB")
_PNG_SAMPLES: Final = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
"""Colour type → samples of the result."""


class Raster(NamedTuple):
    """Describes the native frames of a picture."""

    rows: int
    columns: int
    samples_per_pixel: int
    bits: int
    """8 or 16."""
    frame_count: int

    @classmethod
    def unpack(cls, head: Buffer) -> Raster:
        """Reads the head of a result."""
        return cls(*_HEAD.unpack(head))

    def pack(self) -> bytes:
        """Writes it."""
        return _HEAD.pack(*self)

    def check(self, bytes_max: int) -> None:
        """Raises TranscodeError if the frames together are larger. Call it before anything is decoded."""
        # Decoders hold four channels of a picture with transparency.
        if not 0 < self.rows <= 0xFFFF or not 0 < self.columns <= 0xFFFF:
            raise TranscodeError(f"a picture of {self.columns} x {self.rows} pixels")
        if self.rows * self.columns * 4 * self.frame_count * (self.bits // 8) > bytes_max:
            raise TranscodeError(f"a picture of {self.columns} x {self.rows} pixels, {self.frame_count} times")


def pictures(data: bytes, samples_per_pixel: int, bytes_max: int) -> Iterator[Buffer]:
    """Head and frames of one file. Raises TranscodeError.

    `samples_per_pixel`: as requested; 0: as the file has them.
    """
    try:
        if data.startswith(_PNG):
            yield from _png(data, samples_per_pixel, bytes_max)
        elif data.startswith(_GIF):
            yield from _gif(data, samples_per_pixel, bytes_max)
        else:
            raise TranscodeError("the picture is neither PNG nor GIF")
    except (TranscodeError, MemoryError):
        raise
    except Exception as error:  # libraries raise anything for hostile bytes
        raise TranscodeError(f"the picture cannot be decoded: {type(error).__name__}") from error


def _png(data: bytes, requested: int, bytes_max: int) -> Iterator[Buffer]:
    _, kind, columns, rows, depth, colour_type = _PNG_HEAD.unpack_from(data)
    if kind != b"IHDR" or colour_type not in _PNG_SAMPLES:
        raise TranscodeError("the PNG picture has no valid header")
    raster = Raster(rows, columns, _PNG_SAMPLES[colour_type], 16 if depth == 16 else 8, 1)
    raster.check(bytes_max)
    import imagecodecs

    pixels = imagecodecs.png_decode(data)
    if pixels.shape[:2] != (rows, columns) or pixels.itemsize * 8 != raster.bits:
        raise TranscodeError("the PNG picture is not as its header says")
    if raster.samples_per_pixel == 1:
        pixels = pixels.reshape(rows, columns, -1)[:, :, 0]
    else:
        pixels = pixels[:, :, :3]
    samples, pixels = _requested(pixels, requested)
    yield raster._replace(samples_per_pixel=samples).pack()
    yield pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def _gif(data: bytes, requested: int, bytes_max: int) -> Iterator[Buffer]:
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["GIF"]) as image:
        raster = Raster(image.height, image.width, 3, 8, 1)
        raster.check(bytes_max)
        raster = raster._replace(frame_count=getattr(image, "n_frames", 1))
        raster.check(bytes_max)
        for number in range(raster.frame_count):
            image.seek(number)
            samples, pixels = _requested(np.asarray(image.convert("RGB")), requested)
            if number == 0:
                yield raster._replace(samples_per_pixel=samples).pack()
            yield pixels.tobytes()


def _requested(pixels: Any, samples_per_pixel: int) -> tuple[int, Any]:
    """The pixels with as many samples as were requested. Raises TranscodeError."""
    own = 1 if pixels.ndim == 2 else 3
    if samples_per_pixel in (0, own):
        return own, pixels
    grey = pixels[:, :, :1] if own == 3 else None
    if grey is None or samples_per_pixel != 1 or (pixels != grey).any():
        raise TranscodeError(f"the picture has {own} samples per pixel, the metadata says {samples_per_pixel}")
    return 1, grey[:, :, 0]
