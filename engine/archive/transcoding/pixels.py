"""Decodes encapsulated Pixel Data frame by frame. Runs in `archive.transcoding.codec_process` only.

Knows no data set: takes the value of Pixel Data and the numbers of the Image Pixel Module, and returns native frames,
colour by pixel (Planar Configuration 0). Values stay as in the codestream, also in bits beyond Bits Stored; signed
samples are extended to Bits Allocated. With the default installation:

    transfer syntax                                    decoded by
    RLE Lossless                                       pydicom + pylibjpeg-rle
    JPEG Lossless, process 14 (.57, .70)               imagecodecs (libjpeg-turbo)
    JPEG-LS (.80, .81)                                 pydicom + pyjpegls
    JPEG 2000 (.90, .91), HTJ2K (.201, .202, .203)     pydicom + pylibjpeg-openjpeg
    JPEG, DCT of 8 bits (.50 to .56)                   Pillow
    JPEG, DCT of 12 bits (.51 to .56)                  imagecodecs (libjpeg-turbo)
    JPEG XL (.110, .111, .112)                         imagecodecs (libjxl)
    Deflated Image Frame, Encapsulated Uncompressed    here

.52, .54 and .56 are coded arithmetically. pylibjpeg-libjpeg is no dependency, since it is under the GPL. Video, JPEG
2000 Part 2, hierarchical JPEG (.59 to .66) and lossless JPEG with arithmetic coding (.58) cannot be decoded. DCT frames
in YCbCr become RGB, as do JPEG 2000 ones with a component transform (YBR_RCT, YBR_ICT) and JPEG XL ones in XYB;
lossless syntaxes keep YBR_FULL, since a conversion to RGB would lose bits. `colours` has the terms.
Standard: PS3.5 section 8, PS3.3 C.7.6.3.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias

import numpy as np
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder

from engine.archive.transcoding import colours
from engine.archive.transcoding.head import ImagePixel
from engine.errors import TranscodeError

if TYPE_CHECKING:
    Samples: TypeAlias = np.ndarray[Any, np.dtype[Any]]

RLE: Final = frozenset({"1.2.840.10008.1.2.5"})
DCT: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in range(50, 57))
PROCESS_14: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (57, 70))
JPEG_LS: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (80, 81))
JPEG_2000: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
JPEG_XL: Final = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
JPEG_XL_LOSSLESS, JPEG_XL_OF_JPEG = "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111"
DEFLATED_FRAME: Final = frozenset({"1.2.840.10008.1.2.8.1"})
ENCAPSULATED_UNCOMPRESSED: Final = frozenset({"1.2.840.10008.1.2.1.98"})

_PLUGINS: Final = {
    **dict.fromkeys(RLE | JPEG_2000, "pylibjpeg"),
    **dict.fromkeys(JPEG_LS, "pyjpegls"),
}

_DCT_FRAME_HEADER: Final = re.compile(rb"\xff[\xc0-\xc2\xc9\xca]\0.(.)", re.DOTALL)
"""SOF0 to SOF2, SOF9 and SOF10, with a length below 256, and the sample precision."""

_EOI: Final = b"\xff\xd9"
"""The marker at the end of JPEG and JPEG-LS codestreams. Their coded samples do not contain it."""
_PADDING_MAX: Final = 16
"""Bytes behind it that are not zeros: some encoders pad with FF or blanks."""

_CONTAINER_BITS: Final = (8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Frame:
    """One native frame."""

    value: bytes
    """Its samples; for single bits, those that fill whole bytes: the next frame has the rest (PS3.5 8.1.1)."""
    photometric_interpretation: str
    lossy_method: str
    """Its Lossy Image Compression Method (0028,2114), "" if it is lossless."""


def frames(
    encapsulated: BinaryIO, transfer_syntax_uid: str, image: ImagePixel, extended_offsets: tuple[bytes, bytes] | None
) -> Iterator[Frame]:
    """The native frames of an encapsulated value, which is read on demand. Raises TranscodeError."""
    if transfer_syntax_uid not in _DECODERS:
        raise TranscodeError(f"there is no decoder for transfer syntax {transfer_syntax_uid}")
    if image.bits_allocated != 1 and image.bits_allocated not in _CONTAINER_BITS:
        raise TranscodeError(f"Bits Allocated (0028,0100) is {image.bits_allocated}")
    bits = np.zeros(0, np.bool_)
    count = 0
    try:
        coded = generate_frames(
            encapsulated, number_of_frames=image.number_of_frames, extended_offsets=extended_offsets
        )
        for frame in islice(coded, image.number_of_frames):
            samples, photometric = samples_of(frame, transfer_syntax_uid, image)
            count += 1
            if image.bits_allocated == 1:
                bits = np.concatenate((bits, samples.reshape(-1) != 0))
                whole = len(bits) if count == image.number_of_frames else len(bits) & ~7
                value = np.packbits(bits[:whole], bitorder="little").tobytes()
                bits = bits[whole:]
            else:
                value = _contained(samples, image)
            yield Frame(value, photometric, lossy_method(frame, transfer_syntax_uid))
    except TranscodeError as error:
        raise TranscodeError(f"frame {count + 1}: {error}") from error
    except Exception as error:  # decoders raise many kinds of errors for hostile bytes; this is a separate process
        raise TranscodeError(f"frame {count + 1} cannot be decoded: {sentence(error)}") from error
    if count < image.number_of_frames:
        raise TranscodeError(f"there are {count} frames, Number of Frames (0028,0008) is {image.number_of_frames}")


def samples_of(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """One frame's samples, by pixel, and their Photometric Interpretation. Raises what the codec raises."""
    samples, photometric = _DECODERS[transfer_syntax_uid](frame, transfer_syntax_uid, image)
    samples, photometric = colours.to_native(samples, photometric, image.samples_per_pixel)
    if samples.size != image.frame_samples:
        raise TranscodeError(f"it has {samples.size} samples instead of {image.frame_samples}")
    return samples, photometric


def frame(codestream: bytes, transfer_syntax_uid: str, image: ImagePixel) -> Frame:
    """One native frame; also one of single bits begins at a byte. Raises TranscodeError."""
    if transfer_syntax_uid not in _DECODERS:
        raise TranscodeError(f"there is no decoder for transfer syntax {transfer_syntax_uid}")
    try:
        samples, photometric = samples_of(codestream, transfer_syntax_uid, image)
        if image.bits_allocated == 1:
            value = np.packbits(samples.reshape(-1) != 0, bitorder="little").tobytes()
        else:
            value = _contained(samples, image)
    except TranscodeError:
        raise
    except Exception as error:  # as above
        raise TranscodeError(f"it cannot be decoded: {sentence(error)}") from error
    return Frame(value, photometric, lossy_method(codestream, transfer_syntax_uid))


def lossy_method(frame: bytes, transfer_syntax_uid: str) -> str:
    """The lossy method according to the codestream, whatever was done to the image before."""
    if transfer_syntax_uid in DCT or transfer_syntax_uid == JPEG_XL_OF_JPEG:
        return "ISO_10918_1"
    if transfer_syntax_uid in JPEG_XL:
        return "" if transfer_syntax_uid == JPEG_XL_LOSSLESS else "ISO_18181_1"
    if transfer_syntax_uid in JPEG_LS:
        # T.87 C.2.3: the scan header ends with NEAR, the interleave mode and the point transform.
        scan = frame.find(b"\xff\xda")
        end = scan + 2 + int.from_bytes(frame[scan + 2 : scan + 4], "big")
        return "ISO_14495_1" if scan >= 0 and frame[end - 3 : end - 2] > b"\0" else ""
    if transfer_syntax_uid in JPEG_2000:
        # T.800 A.6.1: byte 13 of COD is the wavelet transformation, 0 the irreversible one.
        coding = frame.find(b"\xff\x52\0")
        if coding < 0 or frame[coding + 13 : coding + 14] != b"\0":
            return ""
        return "ISO_15444_15" if ".4.20" in transfer_syntax_uid else "ISO_15444_1"
    return ""


def sentence(error: Exception) -> str:
    """The last line of a decoder's error; pydicom writes one line a plugin, after its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{lines[-1]} no reason given, most likely too little memory" if lines[-1].endswith(":") else lines[-1]


def _contained(samples: Samples, image: ImagePixel) -> bytes:
    """One frame's samples in the container of Bits Allocated."""
    bits = samples.dtype.itemsize * 8
    if bits > image.bits_allocated:
        raise TranscodeError(f"its samples have {bits} bits, Bits Allocated (0028,0100) is {image.bits_allocated}")
    container = np.dtype(f"<{'ui'[image.pixel_representation]}{image.bits_allocated // 8}")
    return samples.reshape(-1).astype(container, casting="unsafe", copy=False).tobytes()


# One frame ---------------------------------------------------------------------------------------


def _plugin(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """Decodes with pydicom and the one plugin named above, so the same bytes give the same pixels everywhere."""
    options: dict[str, Any] = {
        "decoding_plugin": _PLUGINS.get(transfer_syntax_uid, ""),
        "number_of_frames": 1,
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": image.samples_per_pixel,
        "bits_allocated": image.bits_allocated,
        "bits_stored": image.bits_stored,
        "pixel_representation": image.pixel_representation,
        "photometric_interpretation": image.photometric_interpretation,
    }
    if image.samples_per_pixel > 1:
        options["planar_configuration"] = image.planar_configuration
    if transfer_syntax_uid in RLE:
        options["correct_unused_bits"] = False  # overlays lie there in old data sets
    source = encapsulate([frame], has_bot=False)
    samples, found = next(get_decoder(transfer_syntax_uid).iter_array(source, raw=True, **options))
    return samples, str(found["photometric_interpretation"])


def _has_end(frame: bytes) -> bool:
    return _EOI in frame.rstrip(b"\0")[-len(_EOI) - _PADDING_MAX :]


def _jpeg_ls(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """Decodes JPEG-LS. CharLS searches forever for the end of a truncated codestream, but stops at an EOI marker."""
    return _plugin(frame if _has_end(frame) else frame + _EOI, transfer_syntax_uid, image)


def _rle(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """Decodes RLE. Single bits are coded as the bytes that contain them (PS3.5 G.2)."""
    if image.bits_allocated > 1:
        return _plugin(frame, transfer_syntax_uid, image)
    packed_image = replace(
        image, rows=1, columns=(image.frame_samples + 7) // 8, samples_per_pixel=1, bits_allocated=8, bits_stored=8
    )
    packed, photometric = _plugin(frame, transfer_syntax_uid, packed_image)
    return np.unpackbits(packed.reshape(-1), bitorder="little")[: image.frame_samples], photometric


def _dct(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """Decodes with Pillow, which has libjpeg-turbo for 8 bits."""
    from PIL import Image, UnidentifiedImageError

    header = _DCT_FRAME_HEADER.search(frame)
    if header and header[1] != b"\x08":
        return _libjpeg(frame, transfer_syntax_uid, image)
    try:
        opened = Image.open(io.BytesIO(frame), formats=("JPEG",))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise TranscodeError("it is no JPEG image") from error
    with opened:
        bands = len(opened.getbands())
        if opened.size != (image.columns, image.rows) or bands != image.samples_per_pixel:
            raise TranscodeError(
                f"it has {opened.size[1]} rows, {opened.size[0]} columns and {bands} samples a pixel,"
                f" instead of {image.rows}, {image.columns} and {image.samples_per_pixel}"
            )
        is_partial = False
        if bands == 3:
            # libjpeg takes components for YCbCr unless a marker or their names say otherwise. If the data set says RGB
            # and no marker says YCbCr, request them unconverted.
            is_marked = "adobe_transform" in opened.info or "jfif" in opened.info
            is_named_rgb = [layer[0] for layer in getattr(opened, "layer", [])] == [ord(name) for name in "RGB"]
            is_partial = image.photometric_interpretation in colours.PARTIAL  # libjpeg would assume the full range
            is_ybr = image.photometric_interpretation in colours.YBR
            if is_partial or not (is_ybr or is_marked or is_named_rgb):
                opened.draft("YCbCr", opened.size)
        samples = np.frombuffer(opened.tobytes(), np.uint8)
    return samples, "RGB" if bands == 3 and not is_partial else image.photometric_interpretation


def _libjpeg(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """Decodes lossless JPEG of any predictor, and DCT of 12 bits; colour components stay unconverted."""
    import imagecodecs

    if not _has_end(frame):
        raise TranscodeError("its codestream is truncated")  # libjpeg would fill the rest with grey
    # libjpeg would convert colour to RGB, or refuse to, depending on the markers.
    as_coded: dict[str, Any] = {"colorspace": "RGB", "outcolorspace": "RGB"} if image.samples_per_pixel == 3 else {}
    samples: Samples = imagecodecs.jpeg8_decode(frame, **as_coded)
    return _signed(_shaped(samples, image), image), image.photometric_interpretation


def _jpeg_xl(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """Decodes JPEG XL. libjxl converts what it coded in a colour space of its own (XYB), and YCbCr of JPEG, to RGB."""
    import imagecodecs

    samples = _shaped(imagecodecs.jpegxl_decode(frame), image)
    is_kept = image.samples_per_pixel == 1 or transfer_syntax_uid == JPEG_XL_LOSSLESS
    return _signed(samples, image), image.photometric_interpretation if is_kept else "RGB"


def _shaped(samples: Samples, image: ImagePixel) -> Samples:
    """The samples, if they are as many as the data set says. Raises TranscodeError."""
    components = (image.samples_per_pixel,) if image.samples_per_pixel > 1 else ()
    if samples.shape != (image.rows, image.columns, *components):
        raise TranscodeError(
            f"its rows, columns and components are {samples.shape}, "
            f"not {image.rows}, {image.columns} and {image.samples_per_pixel}"
        )
    return samples.reshape(-1)


def _signed(samples: Samples, image: ImagePixel) -> Samples:
    """Signed samples, which the codec takes for unsigned ones."""
    if image.pixel_representation == 1 and samples.dtype == np.uint16 and image.bits_stored <= 16:
        unused = 16 - image.bits_stored
        return (samples << unused).view(np.int16) >> unused
    return samples


def _deflated(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    """Inflates a native frame from one raw deflate stream (PS3.5 A.4.12)."""
    wanted = (image.frame_samples * image.bits_allocated + 7) // 8
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, wanted + 1)
    return native(inflated, image)


def _native(frame: bytes, transfer_syntax_uid: str, image: ImagePixel) -> tuple[Samples, str]:
    return native(frame, image)


def native(frame: bytes, image: ImagePixel) -> tuple[Samples, str]:
    """The samples of a native frame, by pixel, and their Photometric Interpretation. Raises TranscodeError."""
    photometric = image.photometric_interpretation
    if image.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")
        return bits[: image.frame_samples], photometric
    container = np.dtype(f"<u{image.bits_allocated // 8}")
    expected = image.frame_samples * container.itemsize
    if photometric == "YBR_FULL_422" and image.bits_allocated == 8 and len(frame) == expected // 3 * 2:
        return colours.upsampled_422(frame), photometric
    if not expected <= len(frame) <= expected + 1:
        raise TranscodeError(f"it has {len(frame)} bytes instead of {expected}")
    samples = np.frombuffer(frame, container, image.frame_samples)
    if image.samples_per_pixel > 1 and image.planar_configuration == 1:
        samples = samples.reshape(image.samples_per_pixel, -1).T
    return samples, photometric


_Decoder: TypeAlias = "Callable[[bytes, str, ImagePixel], tuple[Samples, str]]"

_DECODERS: Final[dict[str, _Decoder]] = {
    **dict.fromkeys(RLE, _rle),
    **dict.fromkeys(JPEG_LS, _jpeg_ls),
    **dict.fromkeys(JPEG_2000, _plugin),
    **dict.fromkeys(PROCESS_14, _libjpeg),
    **dict.fromkeys(DCT, _dct),
    **dict.fromkeys(JPEG_XL, _jpeg_xl),
    **dict.fromkeys(DEFLATED_FRAME, _deflated),
    **dict.fromkeys(ENCAPSULATED_UNCOMPRESSED, _native),
}
