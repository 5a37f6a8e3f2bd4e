"""Reads the headers of compressed images: JPEG, JPEG-LS, JPEG 2000, HTJ2K. Decodes no pixels.

JPEG        FFD8, markers; the frame header (ITU-T T.81 B.2.2) has precision, lines, samples per line, components
JPEG-LS     the same with FFF7 (ITU-T T.87 C.2.2)
JPEG 2000   FF4F, SIZ (ISO 15444-1 A.5.1), COD with the kind of wavelet (A.6.1), CAP if it is HTJ2K; or a JP2 file
            with such a codestream in its box jp2c
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from engine.errors import DataSetError

LOOK_BYTES_MAX: Final = 1 << 20
"""Read this much of a codestream: profiles and thumbnails come before the frame header."""

_ROOT: Final = "1.2.840.10008.1.2.4."
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_NO_FRAME_HEADERS: Final = frozenset((0xC4, 0xC8, 0xCC))
_ALONE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_PROCESSES: Final = {0xC0: "50", 0xC1: "51", 0xC2: "55", 0xC9: "52", 0xCA: "56"}
"""Progressive and arithmetic ones are retired in DICOM; others still write them, and an image is stored as it came."""


@dataclass(frozen=True, slots=True)
class Codestream:
    """The header of one compressed image."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    samples_per_pixel: int
    bits_stored: int
    is_signed: bool
    photometric_interpretation: str
    start: int
    """Offset of the codestream, after the boxes of a file format."""
    stop: int | None
    """Offset of its end; None: the end of the data."""

    @property
    def is_lossy(self) -> bool:
        """Whether its header says that the compression is lossy."""
        lossy = (*_JPEG_PROCESSES.values(), "81", "91", "203")
        return self.transfer_syntax_uid.removeprefix(_ROOT) in lossy


def describe(data: bytes) -> Codestream:
    """Reads the header of a compressed image. Raises DataSetError for any other format."""
    try:
        if data.startswith(_JP2):
            start, stop = _code_box(data)
            return _jpeg_2000(data, start, stop)
        if data.startswith(b"\xff\x4f"):
            return _jpeg_2000(data, 0, None)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except (IndexError, struct.error):
        raise DataSetError("the image ends within its header") from None
    raise DataSetError("the image is neither JPEG, JPEG-LS nor JPEG 2000")


def _jpeg(data: bytes) -> Codestream:
    at, frame, colours, is_rgb = 2, b"", False, False
    kind = near = predictor = 0
    while True:
        if data[at] != 0xFF:
            raise DataSetError(f"no marker at offset {at} of the JPEG image")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        length = struct.unpack_from(">H", data, at + 2)[0]
        segment = data[at + 4 : at + 2 + length]
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADERS) or marker == 0xF7:
            kind, frame = marker, segment
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            colours, is_rgb = True, segment[11] == 0
        elif marker == 0xDA:
            near = predictor = segment[1 + 2 * segment[0]]
            break
        elif marker == 0xD9:
            raise DataSetError("the JPEG image has no scan")
        at += 2 + length
    precision, rows, columns, components = struct.unpack_from(">BHHB", frame)
    if kind == 0xF7:
        syntax = "81" if near else "80"
    elif kind == 0xC3:
        syntax = "70" if predictor == 1 else "57"
    elif kind in _JPEG_PROCESSES:
        syntax = "51" if precision > 8 and kind == 0xC0 else _JPEG_PROCESSES[kind]
    else:
        raise DataSetError(f"JPEG process FF{kind:02X} is not supported")
    names = [frame[6 + 3 * number] for number in range(components)]
    photometric = "MONOCHROME2"
    if components == 3:
        is_plain = kind in (0xC3, 0xF7) or (colours and is_rgb) or bytes(names) == b"RGB"
        is_subsampled = frame[7] != 0x11
        photometric = "RGB" if is_plain else "YBR_FULL_422" if is_subsampled else "YBR_FULL"
    return Codestream(_ROOT + syntax, rows, columns, components, precision, False, photometric, 0, None)


def _jpeg_2000(data: bytes, start: int, stop: int | None) -> Codestream:
    at = start + 2
    size = coding = b""
    is_high_throughput = False
    while not (size and coding):
        marker, length = struct.unpack_from(">HH", data, at)
        segment = data[at + 4 : at + 2 + length]
        if marker == 0xFF51:
            size = segment
        elif marker == 0xFF50:
            is_high_throughput = True
        elif marker == 0xFF52:
            coding = segment
        elif marker in (0xFF90, 0xFF93, 0xFFD9):
            raise DataSetError("the JPEG 2000 image has no header")
        at += 2 + length
    width, height, left, top = struct.unpack_from(">IIII", size, 2)
    components = struct.unpack_from(">H", size, 34)[0]
    depth = size[36]
    is_reversible, has_transform = coding[9] == 1, coding[4] == 1
    syntax = ("201" if is_reversible else "203") if is_high_throughput else ("90" if is_reversible else "91")
    photometric = "MONOCHROME2"
    if components == 3:
        photometric = ("YBR_RCT" if is_reversible else "YBR_ICT") if has_transform else "RGB"
    return Codestream(
        _ROOT + syntax,
        height - top,
        width - left,
        components,
        (depth & 0x7F) + 1,
        depth > 0x7F,
        photometric,
        start,
        stop,
    )


def _code_box(data: bytes) -> tuple[int, int | None]:
    """Start and end of the codestream in a JP2 file."""
    at = 0
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        if kind == b"jp2c":
            return at + head, None if length == 0 else at + length
        if length < head:
            raise DataSetError("the JP2 file has no codestream")
        at += length
