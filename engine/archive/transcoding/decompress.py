"""Converts a data set with encapsulated Pixel Data to an uncompressed transfer syntax. Runs in `codec_process` only.

`pixels` decodes. Only these elements change, all others keep their bytes. Memory holds the head of the data set and one
frame.

    (0028,0004) Photometric Interpretation   that of the decoded samples
    (0028,0006) Planar Configuration         0, if there is more than one sample a pixel
    (0028,2110) Lossy Image Compression      "01" with ratio (0028,2112) and method (0028,2114), if the codestream is
                                             lossy and the data set did not say so; never removed
    (7FE0,0010) Pixel Data                   native, OW beyond 8 bits and OB up to 8 (PS3.5 A.2)
    (7FE0,0001) (7FE0,0002) (7FE0,0003)      left out: offsets and lengths of the fragments
    (0028,0000) (7FE0,0000)                  left out: retired group lengths that would be wrong
    (0088,0200) Icon Image Sequence          its Pixel Data too; left out if that cannot be decoded

A data set without Pixel Data has nothing to decode and only changes its transfer syntax. Standard: PS3.5 section 8 and
Annex A.4, PS3.3 C.7.6.1.1.5 and C.7.6.3.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from engine.archive.transcoding import pixels
from engine.archive.transcoding.head import Head, ImagePixel, header
from engine.dicom import elements, tags, transfer_syntax
from engine.dicom.convert import convert
from engine.dicom.sources import PIECE_BYTES, Part, Source, Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR, TransferSyntax
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FILE_BUFFER_BYTES: Final = 4096
_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER: Final = b"\xfe\xff\xdd\xe0"
_UNDEFINED: Final = b"\xff\xff\xff\xff"

_ITEM_DEPTH_MAX: Final = 1
"""Icons have no icons."""

DROPPED: Final = frozenset(
    {
        0x00280000,
        0x7FE00000,
        tags.ExtendedOffsetTable,
        tags.ExtendedOffsetTableLengths,
        tags.EncapsulatedPixelDataValueTotalLength,
    }
)


def decompress(data: Buffer, source: TransferSyntax, target: TransferSyntax, *, decoded_bytes_max: int) -> bytes:
    """A whole data set with native Pixel Data, in the target transfer syntax. Raises TranscodeError."""
    native = b"".join(
        [bytes(piece) for piece in decompressed(Whole(data), source, decoded_bytes_max=decoded_bytes_max)]
    )
    between = native_syntax(Whole(data), source)
    return native if between.uid == target.uid else convert(native, between, target)


def native_syntax(source: Source, syntax: TransferSyntax) -> TransferSyntax:
    """The transfer syntax of a data set after decompression: its encoding stays."""
    is_explicit = bool(elements.encoding_of(source.read(0, 8), syntax) & EXPLICIT_VR)
    return transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN if is_explicit else transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN


def decompressed(source: Source, syntax: TransferSyntax, *, decoded_bytes_max: int) -> Iterator[Buffer]:
    """The data set with native Pixel Data, in its own encoding, piece by piece. Raises TranscodeError.

    `decoded_bytes_max` bounds one native frame; memory use is some four times as much. The longest Pixel Data bounds
    all frames together. An error in a later frame is raised after earlier frames have been yielded.
    """
    if syntax.deflated or syntax.big_endian:
        raise TranscodeError(f"{syntax.name} cannot be decoded")
    try:
        encoding = elements.encoding_of(source.read(0, 8), syntax)
        yield from _native(source, syntax, encoding, decoded_bytes_max, 0)
    except DataSetError as error:
        raise TranscodeError(f"the data set cannot be read: {error}") from error


def _native(source: Source, syntax: TransferSyntax, encoding: int, bytes_max: int, depth: int) -> Iterator[Buffer]:
    """The data set, or the item of an icon, with native Pixel Data, in its own encoding."""
    head = Head.read(source, encoding)
    start = bytes(source.read(len(head), 12))
    value_offset = len(head) + (12 if encoding & EXPLICIT_VR else 8)
    is_encapsulated = start[8:] == _UNDEFINED if encoding & EXPLICIT_VR else start[4:8] == _UNDEFINED
    changes: dict[int, bytes | None] = {}
    if depth < _ITEM_DEPTH_MAX and tags.IconImageSequence in head:
        changes |= _icons(head, syntax, bytes_max, depth)
    if not start or not is_encapsulated:
        if start and depth == 0:
            raise TranscodeError(f"Pixel Data (7FE0,0010) is not encapsulated, as {syntax.name} requires")
        yield head.rewritten(changes)
        yield from rest(source, len(head))
        return
    image = head.image_pixel()
    length = image.decoded_bytes + image.decoded_bytes % 2
    if image.frame_bytes > bytes_max or length >= 0xFFFFFFFF:
        limit = f"{image.frame_bytes} bytes a frame and {length} in all"
        raise TranscodeError(f"decoded it would have {limit}, the limits are {bytes_max} and {0xFFFFFFFE}")
    frames, end = encapsulated_frames(source, syntax, head, image, value_offset)
    first = next(frames)
    changes |= dict.fromkeys(DROPPED)
    changes |= _described(head, image, first, length / max(end - value_offset, 1))
    yield head.rewritten(changes)
    yield header(tags.PixelData, "OW" if image.bits_allocated > 8 else "OB", length, encoding)
    for frame in itertools.chain((first,), frames):
        yield frame.value
    yield bytes(length - image.decoded_bytes)
    yield from rest(source, end)


def encapsulated_frames(
    source: Source, syntax: TransferSyntax, head: Head, image: ImagePixel, value_offset: int
) -> tuple[Iterator[pixels.Frame], int]:
    """The native frames of encapsulated Pixel Data, and its end. Raises TranscodeError if it is truncated."""
    end = _end_of_fragments(source, value_offset)
    table = head.raw(tags.ExtendedOffsetTable), head.raw(tags.ExtendedOffsetTableLengths)
    file = io.BufferedReader(_File(Part(source, value_offset, end)), _FILE_BUFFER_BYTES)
    return pixels.frames(file, syntax.uid, image, table if all(table) else None), end


def rest(source: Source, start: int) -> Iterator[Buffer]:
    """The bytes from `start` on, piece by piece."""
    for at in range(start, source.length, PIECE_BYTES):
        yield source.read(at, PIECE_BYTES)


def _end_of_fragments(source: Source, start: int) -> int:
    """The end of encapsulated Pixel Data. Raises TranscodeError, before any decoding, if it is truncated."""
    file, at = io.BufferedReader(_File(Part(source, start)), _FILE_BUFFER_BYTES), start
    while at < source.length:
        header = file.read(8)
        at += 8
        if header[:4] == _SEQUENCE_DELIMITER:
            return at
        length = int.from_bytes(header[4:], "little")
        if header[:4] != _ITEM or at + length > source.length:
            raise TranscodeError(f"Pixel Data (7FE0,0010) is truncated, or has no fragment, at offset {at - 8}")
        file.seek(length, io.SEEK_CUR)
        at += length
    return at  # its delimiter is missing


class _File(io.RawIOBase):
    """A source as a file, for pydicom."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.length}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, target: Buffer) -> int:
        view = memoryview(target).cast("B")
        piece = memoryview(self._source.read(self._at, min(len(view), PIECE_BYTES)))
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def _described(head: Head, image: ImagePixel, first: pixels.Frame, ratio: float) -> dict[int, bytes | None]:
    """The changed elements that describe Pixel Data."""
    changes: dict[int, bytes | None] = {}
    if first.photometric_interpretation != image.photometric_interpretation:
        changes[tags.PhotometricInterpretation] = head.element(
            tags.PhotometricInterpretation, "CS", first.photometric_interpretation
        )
    if image.samples_per_pixel > 1:
        changes[tags.PlanarConfiguration] = head.short(tags.PlanarConfiguration, 0)
    if first.lossy_method and head.text(tags.LossyImageCompression) != "01":
        changes |= lossy(head, ratio, first.lossy_method)
    return changes


def lossy(head: Head, ratio: float, method: str) -> dict[int, bytes | None]:
    """The elements that mark the image as lossy (PS3.3 C.7.6.1.1.5)."""
    return {
        tags.LossyImageCompression: head.element(tags.LossyImageCompression, "CS", "01"),
        tags.LossyImageCompressionRatio: head.element(tags.LossyImageCompressionRatio, "DS", f"{ratio:.4g}"),
        tags.LossyImageCompressionMethod: head.element(tags.LossyImageCompressionMethod, "CS", method),
    }


def _icons(head: Head, source: TransferSyntax, bytes_max: int, depth: int) -> dict[int, bytes | None]:
    """The Icon Image Sequence with native Pixel Data: {} if it has that already, None if it cannot be decoded."""
    content: list[bytes] = []
    is_changed = False
    try:
        for item in head.items(tags.IconImageSequence):
            pieces = _native(Whole(item.view), source, item.encoding, bytes_max, depth + 1)
            native = b"".join([bytes(piece) for piece in pieces])
            is_changed |= native != item.view
            content.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(native)) + native)
    except (DataSetError, TranscodeError):
        return {tags.IconImageSequence: None}
    if not is_changed:
        return {}
    return {tags.IconImageSequence: head.element(tags.IconImageSequence, "SQ", b"".join(content))}
