"""The frames of one instance as arrays, each read on demand. Runs in `render_process` only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from engine.archive.transcoding import pixels
from engine.archive.transcoding.compress import native_frame, native_image
from engine.dicom import tags
from engine.dicom.frames import frame_table, pixel_element
from engine.dicom.sources import Concatenation, Part, Whole
from engine.errors import FramesUnreadable, TranscodeError

if TYPE_CHECKING:
    from engine.archive.transcoding.head import Head, ImagePixel
    from engine.dicom.sources import Source
    from engine.dicom.transfer_syntax import TransferSyntax

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_FLOATS: Final = frozenset({tags.FloatPixelData, tags.DoubleFloatPixelData})


class DecodedFrame(NamedTuple):
    """A frame as arrays (rows, columns[, samples])."""

    samples: Samples
    image: ImagePixel
    """Its description after decoding."""
    container: Samples
    """The samples with all bits of Bits Allocated: planes may lie in the unused ones."""


class FrameReader:
    """The frames of one instance."""

    def __init__(self, source: Source, syntax: TransferSyntax, head: Head, decoded_bytes_max: int) -> None:
        """Raises TranscodeError if there are no pixels to show."""
        self._syntax = syntax
        # The head has been read.
        self._source = Concatenation(Whole(head.view), Part(source, len(head)))
        try:
            offset = len(head) if source.length > len(head) else -1
            element = pixel_element(self._source, head.encoding, offset)
            self._is_float = element.tag in _FLOATS
            self.image = head.image_pixel(is_float=self._is_float)
            if self.image.frame_bytes > decoded_bytes_max:
                raise TranscodeError(f"a frame has {self.image.frame_bytes} bytes, the limit is {decoded_bytes_max}")
            self._table = frame_table(self._source, syntax, offset)
        except FramesUnreadable as error:
            raise TranscodeError(str(error)) from error

    def frame(self, number: int) -> DecodedFrame:
        """A frame, counted from 0. Raises TranscodeError."""
        image = self.image
        try:
            value = self._table.read(self._source, number + 1)
        except FramesUnreadable as error:
            raise TranscodeError(str(error)) from error
        if self._is_float:
            samples: Samples = np.frombuffer(value, f"<f{image.bits_allocated // 8}")
            samples = samples.reshape(image.rows, image.columns)
            return DecodedFrame(samples, native_image(image, "MONOCHROME2"), samples)
        if self._table.is_encapsulated:
            frame = pixels.frame(bytes(value), self._syntax.uid, image)
        elif image.bits_allocated == 1:
            frame = pixels.Frame(bytes(value), image.photometric_interpretation, "")
        else:
            frame = native_frame(bytes(value), image)
        photometric = frame.photometric_interpretation
        if image.bits_allocated == 1:
            bits = np.unpackbits(np.frombuffer(frame.value, np.uint8), bitorder="little")[: image.frame_samples]
            samples = bits.reshape(image.rows, image.columns)
            return DecodedFrame(samples, native_image(image, photometric), samples)
        kind = f"<{'ui'[image.pixel_representation]}{image.bits_allocated // 8}"
        shape = (image.rows, image.columns, *((image.samples_per_pixel,) if image.samples_per_pixel > 1 else ()))
        samples = np.frombuffer(frame.value, kind).reshape(shape)
        return DecodedFrame(_stored_bits(samples, image), native_image(image, photometric), samples)


def _stored_bits(samples: Samples, image: ImagePixel) -> Samples:
    """The samples without bits beyond Bits Stored (overlays in old data sets), sign extended."""
    unused = image.bits_allocated - image.bits_stored
    if not unused or image.samples_per_pixel > 1:
        return samples
    if image.pixel_representation:
        return (samples << unused) >> unused
    masked: Samples = samples & np.array((1 << image.bits_stored) - 1, samples.dtype)
    return masked
