"""Converts a data set, or one frame, to a compressed transfer syntax. Runs in `codec_process` only.

Each frame is one fragment, and the Basic Offset Table is empty. Only these elements change:

    (0028,0004) Photometric Interpretation   YBR_RCT where JPEG 2000 transforms RGB, YBR_FULL_422 of JPEG
    (0028,0006) Planar Configuration         0, if there is more than one sample a pixel
    (0028,2110) and (0028,2112), (0028,2114) Lossy Image Compression, ratio and method, if the target is lossy
    (7FE0,0010) Pixel Data                   OB, encapsulated
    (7FE0,0001) (7FE0,0002) (7FE0,0003)      left out; so are the group lengths (0028,0000) and (7FE0,0000)

    target                                   encoded by                           bits
    RLE Lossless                             pydicom + pylibjpeg-rle              8, 16
    JPEG Lossless SV1 (.70)                  imagecodecs (libjpeg-turbo)          up to 16
    JPEG-LS Lossless (.80)                   pydicom + pyjpegls                   up to 16
    JPEG 2000 Lossless (.90)                 imagecodecs (OpenJPEG)               up to 16
    HTJ2K Lossless (.201)                    imagecodecs (OpenJPH)                up to 16
    JPEG Baseline (.50), lossy               simplejpeg                           8

Lossless targets keep every bit of every sample. Compressed input is decoded first; lossy input stays marked as lossy.
Standard: PS3.5 section 8 and A.4, PS3.3 C.7.6.3.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from pydicom.pixels.encoders.base import get_encoder

from engine.archive.transcoding import colours, pixels
from engine.archive.transcoding.decompress import DROPPED, encapsulated_frames, lossy, rest
from engine.archive.transcoding.head import Head, ImagePixel, header
from engine.dicom import elements, tags, transfer_syntax
from engine.dicom.convert import convert
from engine.dicom.sources import PIECE_BYTES, Source
from engine.dicom.transfer_syntax import (
    BIG_ENDIAN,
    EXPLICIT_VR,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS_SV1: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS: Final = "1.2.840.10008.1.2.4.80"
JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
HTJ2K_LOSSLESS: Final = "1.2.840.10008.1.2.4.201"
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"

JPEG_QUALITY: Final = 90
"""The default quality of JPEG Baseline."""

_ITEM: Final = struct.Struct("<HHI")
_UNDEFINED: Final = 0xFFFFFFFF


def compressed(
    source: Source, syntax: TransferSyntax, target: TransferSyntax, *, decoded_bytes_max: int
) -> Iterator[Buffer]:
    """The data set in the compressed target, piece by piece. Raises TranscodeError."""
    if syntax.deflated:
        raise TranscodeError(f"{syntax.name} must be inflated before it is compressed")
    try:
        yield from _compressed(source, syntax, target.uid, decoded_bytes_max)
    except DataSetError as error:
        raise TranscodeError(f"the data set cannot be read: {error}") from error


def _compressed(source: Source, syntax: TransferSyntax, target_uid: str, bytes_max: int) -> Iterator[Buffer]:
    encoding = elements.encoding_of(source.read(0, 8), syntax)
    head = Head.read(source, encoding)
    start = bytes(source.read(len(head), 12))
    if not start:
        yield _explicit(bytes(head.view), encoding)
        return
    _check_pixel_data(start, encoding)
    image = head.image_pixel()
    if image.frame_bytes > bytes_max:
        raise TranscodeError(f"a frame has {image.frame_bytes} bytes, the limit is {bytes_max}")
    value_offset = len(head) + (12 if encoding & EXPLICIT_VR else 8)
    size = start[8:12] if encoding & EXPLICIT_VR else start[4:8]
    length = int.from_bytes(size, "big" if encoding & BIG_ENDIAN else "little")
    if length == _UNDEFINED:
        frames, end = encapsulated_frames(source, syntax, head, image, value_offset)
    else:
        end = min(value_offset + length, source.length)
        frames = _native_frames(source, image, value_offset, end, encoding)
    first = next(frames)
    native = native_image(image, first.photometric_interpretation)
    coded, photometric = encode(first.value, target_uid, native)
    changes: dict[int, bytes | None] = dict.fromkeys(DROPPED)
    if photometric != image.photometric_interpretation:
        changes[tags.PhotometricInterpretation] = head.element(tags.PhotometricInterpretation, "CS", photometric)
    if image.samples_per_pixel > 1:
        changes[tags.PlanarConfiguration] = head.short(tags.PlanarConfiguration, 0)
    method = "ISO_10918_1" if target_uid == JPEG_BASELINE else first.lossy_method
    if method and (target_uid == JPEG_BASELINE or head.text(tags.LossyImageCompression) != "01"):
        changes |= lossy(head, image.frame_bytes / max(len(coded), 1), method)
    yield _explicit(head.rewritten(changes), encoding)
    yield header(tags.PixelData, "OB", _UNDEFINED, EXPLICIT_VR)
    yield _ITEM.pack(0xFFFE, 0xE000, 0)
    for codestream in itertools.chain((coded,), (encode(frame.value, target_uid, native)[0] for frame in frames)):
        yield _ITEM.pack(0xFFFE, 0xE000, len(codestream) + len(codestream) % 2)
        yield codestream + b"\0" * (len(codestream) % 2)
    yield _ITEM.pack(0xFFFE, 0xE0DD, 0)
    behind = b"".join([bytes(piece) for piece in rest(source, end)])
    yield _explicit(behind, encoding)


def _check_pixel_data(start: bytes, encoding: int) -> None:
    group, number = struct.unpack(">HH" if encoding & BIG_ENDIAN else "<HH", start[:4])
    if group << 16 | number != tags.PixelData:
        raise TranscodeError("Float and Double Float Pixel Data cannot be compressed")


def _explicit(data: bytes, encoding: int) -> bytes:
    """Elements in Explicit VR Little Endian."""
    if encoding == EXPLICIT_VR or not data:
        return data
    syntax = EXPLICIT_VR_BIG_ENDIAN if encoding & BIG_ENDIAN else IMPLICIT_VR_LITTLE_ENDIAN
    return convert(data, syntax, EXPLICIT_VR_LITTLE_ENDIAN)


def native_image(image: ImagePixel, photometric_interpretation: str) -> ImagePixel:
    """The description of decoded frames."""
    return replace(image, photometric_interpretation=photometric_interpretation, planar_configuration=0)


def _native_frames(source: Source, image: ImagePixel, start: int, end: int, encoding: int) -> Iterator[pixels.Frame]:
    """The frames of native Pixel Data, by pixel and in little endian. Raises TranscodeError."""
    if image.bits_allocated not in (8, 16, 32):
        raise TranscodeError(f"Bits Allocated (0028,0100) is {image.bits_allocated}")
    frame_bytes = native_frame_bytes(image)
    for number in range(image.number_of_frames):
        at = start + number * frame_bytes
        if at + frame_bytes > end:
            raise TranscodeError(f"frame {number + 1} is truncated")
        pieces = range(at, at + frame_bytes, PIECE_BYTES)
        value = b"".join([bytes(source.read(offset, min(PIECE_BYTES, at + frame_bytes - offset))) for offset in pieces])
        yield native_frame(value, image, is_big_endian=bool(encoding & BIG_ENDIAN))


def native_frame_bytes(image: ImagePixel) -> int:
    """The length of a frame in native Pixel Data, where chrominance may be subsampled."""
    if image.photometric_interpretation == "YBR_FULL_422" and image.samples_per_pixel == 3:
        return image.frame_bytes // 3 * 2
    return image.frame_bytes


def native_frame(value: bytes, image: ImagePixel, *, is_big_endian: bool = False) -> pixels.Frame:
    """A frame of native Pixel Data, by pixel and in little endian. Raises TranscodeError."""
    if is_big_endian and image.bits_allocated > 8:
        value = (
            np.frombuffer(value, f">u{image.bits_allocated // 8}").astype(f"<u{image.bits_allocated // 8}").tobytes()
        )
    samples, photometric = pixels.native(value, image)
    samples, photometric = colours.to_native(samples, photometric, image.samples_per_pixel)
    return pixels.Frame(samples.tobytes(), photometric, "")


def frame_in(source: Source, syntax_uid: str, target_uid: str, image: ImagePixel, *, decoded_bytes_max: int) -> bytes:
    """One frame in another transfer syntax; "": native, by pixel, in little endian. Raises TranscodeError.

    `source`: the stored frame, as its codestream with fragments joined, or its native bytes.
    """
    if image.frame_bytes > decoded_bytes_max:
        raise TranscodeError(f"a frame has {image.frame_bytes} bytes, the limit is {decoded_bytes_max}")
    pieces = [bytes(source.read(at, PIECE_BYTES)) for at in range(0, source.length, PIECE_BYTES)]
    value = b"".join(pieces)
    syntax = transfer_syntax.of(syntax_uid)
    if syntax.convertible:
        frame = native_frame(value, image, is_big_endian=syntax.big_endian)
    else:
        frame = pixels.frame(value, syntax_uid, image)
    if not target_uid:
        return frame.value
    return encode(frame.value, target_uid, native_image(image, frame.photometric_interpretation))[0]


# One frame ---------------------------------------------------------------------------------------


def encode(value: bytes, target_uid: str, image: ImagePixel) -> tuple[bytes, str]:
    """The codestream of a native frame, and its Photometric Interpretation. Raises TranscodeError."""
    encoder = _ENCODERS.get(target_uid)
    if encoder is None:
        raise TranscodeError(f"there is no encoder for {transfer_syntax.of(target_uid).name}")
    if image.bits_allocated not in (8, 16) or image.samples_per_pixel not in (1, 3):
        raise TranscodeError(
            f"{image.samples_per_pixel} samples of {image.bits_allocated} bits a pixel cannot be compressed"
        )
    kind = "ui"[image.pixel_representation]
    samples = np.frombuffer(value, f"<{kind}{image.bits_allocated // 8}")
    shape = (image.rows, image.columns, 3) if image.samples_per_pixel == 3 else (image.rows, image.columns)
    try:
        return encoder(samples.reshape(shape), target_uid, _with_all_bits(samples, image))
    except TranscodeError:
        raise
    except Exception as error:  # codecs raise many kinds of errors
        raise TranscodeError(f"it cannot be encoded: {pixels.sentence(error)}") from error


def _with_all_bits(samples: Samples, image: ImagePixel) -> ImagePixel:
    """The description with Bits Stored raised to keep all bits: overlays lie there in old data sets."""
    low, high = int(samples.min()), int(samples.max())
    unsigned_max = (1 << image.bits_stored) - 1
    is_within = (
        -(unsigned_max + 1) // 2 <= low and high <= unsigned_max // 2
        if image.pixel_representation
        else high <= unsigned_max
    )
    return image if is_within else replace(image, bits_stored=image.bits_allocated)


def _by_pydicom(samples: Samples, target_uid: str, image: ImagePixel) -> tuple[bytes, str]:
    options = asdict(image) | {"number_of_frames": 1}
    plugin = "pyjpegls" if target_uid == JPEG_LS_LOSSLESS else "pylibjpeg"
    coded = get_encoder(target_uid).encode(samples.tobytes(), encoding_plugin=plugin, **options)
    return bytes(coded), image.photometric_interpretation


def _jpeg_2000(samples: Samples, target_uid: str, image: ImagePixel) -> tuple[bytes, str]:
    import imagecodecs

    is_transformed = image.photometric_interpretation == "RGB"
    coded = imagecodecs.jpeg2k_encode(
        samples,
        level=0,
        reversible=True,
        codecformat="J2K",
        bitspersample=image.bits_stored,
        # Each level halves the image, and OpenJPEG refuses to halve a pixel.
        resolutions=min(6, max(min(image.rows, image.columns).bit_length(), 1)),
        mct=is_transformed,
    )
    return bytes(coded), "YBR_RCT" if is_transformed else image.photometric_interpretation


def _jpeg_lossless(samples: Samples, target_uid: str, image: ImagePixel) -> tuple[bytes, str]:
    import imagecodecs

    unsigned = samples.view(f"<u{image.bits_allocated // 8}")
    if image.pixel_representation:
        unsigned = unsigned & np.array((1 << image.bits_stored) - 1, unsigned.dtype)
    as_coded: dict[str, Any] = {"colorspace": "RGB", "outcolorspace": "RGB"} if image.samples_per_pixel == 3 else {}
    precision = max(image.bits_stored, 2)
    coded = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(unsigned), lossless=True, predictor=1, bitspersample=precision, **as_coded
    )
    return bytes(coded), image.photometric_interpretation


def _htj2k(samples: Samples, target_uid: str, image: ImagePixel) -> tuple[bytes, str]:
    import imagecodecs

    is_transformed = image.photometric_interpretation == "RGB"
    coded = imagecodecs.htj2k_encode(samples, reversible=True, rgb=is_transformed)
    return bytes(coded), "YBR_RCT" if is_transformed else image.photometric_interpretation


def _jpeg_baseline(samples: Samples, target_uid: str, image: ImagePixel) -> tuple[bytes, str]:
    return jpeg(samples, image, JPEG_QUALITY)


def jpeg(samples: Samples, image: ImagePixel, quality: int) -> tuple[bytes, str]:
    """JPEG of 8 bits: grey, or RGB as YCbCr with horizontally subsampled chrominance. Raises TranscodeError."""
    import simplejpeg

    if image.bits_allocated != 8 or image.pixel_representation:
        raise TranscodeError("JPEG Baseline needs unsigned samples of 8 bits")
    if image.samples_per_pixel == 1:
        grey = np.ascontiguousarray(samples.reshape(image.rows, image.columns, 1))
        coded = simplejpeg.encode_jpeg(grey, quality=quality, colorspace="GRAY", fastdct=False)
        return coded, image.photometric_interpretation
    if image.photometric_interpretation != "RGB":
        raise TranscodeError(f"JPEG Baseline cannot be made from {image.photometric_interpretation}")
    coded = simplejpeg.encode_jpeg(
        np.ascontiguousarray(samples), quality=quality, colorspace="RGB", colorsubsampling="422", fastdct=False
    )
    return coded, "YBR_FULL_422"


_Encoder: TypeAlias = "Callable[[Samples, str, ImagePixel], tuple[bytes, str]]"

_ENCODERS: Final[dict[str, _Encoder]] = {
    RLE_LOSSLESS: _by_pydicom,
    JPEG_LS_LOSSLESS: _by_pydicom,
    JPEG_2000_LOSSLESS: _jpeg_2000,
    JPEG_LOSSLESS_SV1: _jpeg_lossless,
    HTJ2K_LOSSLESS: _htj2k,
    JPEG_BASELINE: _jpeg_baseline,
}
