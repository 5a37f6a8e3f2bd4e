"""Frames of one instance as arrays, each read when it is wanted. Runs in `render_process` only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from engine.archive.transcoding import pixels
from engine.archive.transcoding.compress import native_frame, native_frame_bytes, native_image
from engine.archive.transcoding.decompress import coded_frame
from engine.dicom import tags
from engine.dicom.sources import PIECE_BYTES
from engine.dicom.transfer_syntax import BIG_ENDIAN, EXPLICIT_VR
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head, ImagePixel
    from engine.dicom.sources import Source
    from engine.dicom.transfer_syntax import TransferSyntax

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_UNDEFINED: Final = 0xFFFFFFFF
_FLOATS: Final = {tags.FloatPixelData: "f4", tags.DoubleFloatPixelData: "f8"}


class FrameReader:
    """See the head."""

    def __init__(self, source: Source, syntax: TransferSyntax, head: Head, decoded_bytes_max: int) -> None:
        """Raises TranscodeError when there are no pixels that can be shown."""
        self._source = source
        self._syntax = syntax
        self._head = head
        start = bytes(source.read(len(head), 12))
        if len(start) < 8:
            raise TranscodeError("the instance has no Pixel Data")
        is_explicit = bool(head.encoding & EXPLICIT_VR)
        order = "big" if head.encoding & BIG_ENDIAN else "little"
        group, number = (int.from_bytes(start[at : at + 2], order) for at in (0, 2))  # type: ignore[arg-type]
        self._float = _FLOATS.get(group << 16 | number, "")
        self._offset = len(head) + (12 if is_explicit else 8)
        self._length = int.from_bytes(start[8:12] if is_explicit else start[4:8], order)  # type: ignore[arg-type]
        if self._length != _UNDEFINED and not syntax.convertible:
            raise TranscodeError(f"Pixel Data (7FE0,0010) is not encapsulated, as it has to be in {syntax.name}")
        self.image = head.image_pixel(is_float=bool(self._float))
        if self.image.frame_bytes > decoded_bytes_max:
            raise TranscodeError(f"a frame has {self.image.frame_bytes} bytes, the limit is {decoded_bytes_max}")

    def frame(self, number: int) -> tuple[Samples, ImagePixel]:
        """A frame, counted from 0, as (rows, columns[, samples]), and what its samples are. Raises TranscodeError."""
        image = self.image
        if not 0 <= number < image.number_of_frames:
            raise TranscodeError(f"there is no frame {number + 1}, Number of Frames is {image.number_of_frames}")
        if self._float:
            value, photometric, kind = self._native(number, image.frame_bytes), "MONOCHROME2", self._float
            samples: Samples = np.frombuffer(value, self._head.order + kind)
            return samples.reshape(image.rows, image.columns), native_image(image, photometric)
        frame = self._decoded(number)
        if image.bits_allocated == 1:
            bits = np.unpackbits(np.frombuffer(frame.value, np.uint8), bitorder="little")[: image.frame_samples]
            return bits.reshape(image.rows, image.columns), native_image(image, frame.photometric_interpretation)
        kind = f"<{'ui'[image.pixel_representation]}{image.bits_allocated // 8}"
        shape = (image.rows, image.columns, *((image.samples_per_pixel,) if image.samples_per_pixel > 1 else ()))
        samples = np.frombuffer(frame.value, kind).reshape(shape)
        return _stored_bits(samples, image), native_image(image, frame.photometric_interpretation)

    def _decoded(self, number: int) -> pixels.Frame:
        image = self.image
        if self._length == _UNDEFINED:
            codestream = coded_frame(self._source, self._head, image, self._offset, number)
            return pixels.frame(codestream, self._syntax.uid, image)
        if image.bits_allocated == 1:
            return self._bits(number)
        value = self._native(number, native_frame_bytes(image))
        return native_frame(value, image, is_big_endian=bool(self._head.encoding & BIG_ENDIAN))

    def _bits(self, number: int) -> pixels.Frame:
        """Frames of single bits follow one another without padding (PS3.5 8.1.1)."""
        image = self.image
        first = number * image.frame_samples
        start, end = first // 8, (first + image.frame_samples + 7) // 8
        bits = np.unpackbits(np.frombuffer(self._read(start, end - start), np.uint8), bitorder="little")
        own = bits[first - 8 * start : first - 8 * start + image.frame_samples]
        return pixels.Frame(np.packbits(own, bitorder="little").tobytes(), image.photometric_interpretation, "")

    def _native(self, number: int, frame_bytes: int) -> bytes:
        return self._read(number * frame_bytes, frame_bytes)

    def _read(self, start: int, count: int) -> bytes:
        if start + count > self._length:
            raise TranscodeError("Pixel Data is shorter than Rows, Columns and Number of Frames say")
        at = self._offset + start
        pieces = [
            bytes(self._source.read(offset, min(PIECE_BYTES, at + count - offset)))
            for offset in range(at, at + count, PIECE_BYTES)
        ]
        value = b"".join(pieces)
        if len(value) < count:
            raise TranscodeError("Pixel Data is cut")
        return value


def _stored_bits(samples: Samples, image: ImagePixel) -> Samples:
    """Without what lies beyond Bits Stored: overlays in old data sets; sign extended."""
    unused = image.bits_allocated - image.bits_stored
    if not unused or image.samples_per_pixel > 1:
        return samples
    if image.pixel_representation:
        return (samples << unused) >> unused
    meant: Samples = samples & np.array((1 << image.bits_stored) - 1, samples.dtype)
    return meant
