"""Brings a data set with encapsulated Pixel Data into an uncompressed transfer syntax. Runs in `decoder` only.

Decodes nothing itself (`pixels`) and rewrites nothing that need not be: elements but these keep their bytes. Holds the
head of the data set and one frame.

    (0028,0004) Photometric Interpretation   what the decoded samples are
    (0028,0006) Planar Configuration         0, if there is more than one sample a pixel
    (0028,2110) Lossy Image Compression      "01" with ratio (0028,2112) and method (0028,2114), if the codestream lost
                                             something and the data set did not say so; never taken away
    (7FE0,0010) Pixel Data                   native, OW beyond 8 bits and OB up to 8 (PS3.5 A.2)
    (7FE0,0001) (7FE0,0002) (7FE0,0003)      left out: offsets and lengths of what is not there any more
    (0028,0000) (7FE0,0000)                  left out: retired group lengths that would be wrong
    (0088,0200) Icon Image Sequence          its Pixel Data as well; left out if that cannot be decoded

A data set without Pixel Data has nothing to decode and only changes its transfer syntax. Standard: PS3.5 section 8 and
Annex A.4, PS3.3 C.7.6.1.1.5 and C.7.6.3.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.archive.transcoding import pixels
from engine.dicom import elements, tags, transfer_syntax
from engine.dicom.convert import convert
from engine.dicom.sources import PIECE_BYTES, Part, Source, Whole
from engine.dicom.transfer_syntax import EXPLICIT_VR, TransferSyntax
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

FRAMES_MAX: Final = 1 << 20
HEAD_BYTES_MAX: Final = 64 << 20
"""Before Pixel Data: so much of a data set is held."""

_HEAD_STEP_BYTES: Final = 256 << 10
_FILE_BUFFER_BYTES: Final = 4096
_PIXEL_DATA_TAG: Final = b"\xe0\x7f\x10\x00"
_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER: Final = b"\xfe\xff\xdd\xe0"
_UNDEFINED: Final = b"\xff\xff\xff\xff"

_ITEM_DEPTH_MAX: Final = 1
"""Icons have no icons."""

_DROPPED: Final = frozenset(
    {
        0x00280000,
        0x7FE00000,
        tags.ExtendedOffsetTable,
        tags.ExtendedOffsetTableLengths,
        tags.EncapsulatedPixelDataValueTotalLength,
    }
)
_LONG_VRS: Final = frozenset({"OB", "OW", "SQ"})


def decompress(data: Buffer, source: TransferSyntax, target: TransferSyntax, *, decoded_bytes_max: int) -> bytes:
    """A whole data set with native Pixel Data, in the target transfer syntax. Raises TranscodeError."""
    native = b"".join(
        [bytes(piece) for piece in decompressed(Whole(data), source, decoded_bytes_max=decoded_bytes_max)]
    )
    between = native_syntax(Whole(data), source)
    return native if between.uid == target.uid else convert(native, between, target)


def native_syntax(source: Source, syntax: TransferSyntax) -> TransferSyntax:
    """The transfer syntax that a data set has once it is decompressed: its encoding stays."""
    is_explicit = bool(elements.encoding_of(source.read(0, 8), syntax) & EXPLICIT_VR)
    return transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN if is_explicit else transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN


def decompressed(source: Source, syntax: TransferSyntax, *, decoded_bytes_max: int) -> Iterator[Buffer]:
    """The data set with native Pixel Data, in the encoding that it has, piece by piece. Raises TranscodeError.

    `decoded_bytes_max` bounds one native frame; some four times as much memory is taken. All frames together are
    bounded by what the length of Pixel Data can say. What is wrong with a later frame is found when others are out.
    """
    if syntax.deflated or syntax.big_endian:
        raise TranscodeError(f"{syntax.name} cannot be decoded")
    try:
        encoding = elements.encoding_of(source.read(0, 8), syntax)
        yield from _native(source, syntax, encoding, decoded_bytes_max, 0)
    except DataSetError as error:
        raise TranscodeError(f"the data set cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class _Part:
    """One element of the data set, header included."""

    tag: int
    start: int
    end: int
    element: elements.Element


def _each(view: memoryview, encoding: int) -> Iterator[_Part]:
    start = 0
    for element in elements.walk(view, encoding):
        end = element.value_offset + element.length + (8 if element.is_undefined_length else 0)
        yield _Part(element.tag, start, end, element)
        start = end


def _head(source: Source, encoding: int) -> memoryview:
    """The data set up to the tag of Pixel Data, or all of it."""
    size = _HEAD_STEP_BYTES
    while True:
        view, start = memoryview(bytes(source.read(0, size))), 0
        is_all = len(view) == source.length
        try:
            for part in _each(view, encoding):
                if part.tag == tags.PixelData:
                    return view[: part.start]
                start = part.end
            if is_all:
                return view
        except DataSetError:
            if bytes(view[start : start + 4]) == _PIXEL_DATA_TAG:  # it goes beyond what has been read
                return view[:start]
            if is_all:
                raise
        if size >= HEAD_BYTES_MAX:
            raise TranscodeError(f"there is no Pixel Data within the first {size} bytes")
        size *= 4


def _native(source: Source, syntax: TransferSyntax, encoding: int, bytes_max: int, depth: int) -> Iterator[Buffer]:
    """The data set, or the item of an icon, with native Pixel Data; in the encoding that it has."""
    head = _head(source, encoding)
    header = bytes(source.read(len(head), 12))
    value_offset = len(head) + (12 if encoding & EXPLICIT_VR else 8)
    is_encapsulated = header[8:] == _UNDEFINED if encoding & EXPLICIT_VR else header[4:8] == _UNDEFINED
    parts = list(_each(head, encoding))
    changed: dict[int, bytes | None] = {}
    if depth < _ITEM_DEPTH_MAX:
        for part in parts:
            if part.tag == tags.IconImageSequence:
                changed |= _icons(head, part, syntax, encoding, bytes_max, depth)
    if not header or not is_encapsulated:
        if header and depth == 0:
            raise TranscodeError(f"Pixel Data (7FE0,0010) is not encapsulated, as it has to be in {syntax.name}")
        yield _assembled(head, parts, changed)
        yield from _rest(source, len(head))
        return
    values = _Values(head, parts)
    image = _image_pixel(values)
    length = image.decoded_bytes + image.decoded_bytes % 2
    if image.frame_bytes > bytes_max or length >= 0xFFFFFFFF:
        limit = f"{image.frame_bytes} bytes a frame and {length} in all"
        raise TranscodeError(f"decoded it would have {limit}, the limits are {bytes_max} and {0xFFFFFFFE}")
    end = _end_of_fragments(source, value_offset)
    table = values.raw(tags.ExtendedOffsetTable), values.raw(tags.ExtendedOffsetTableLengths)
    file = io.BufferedReader(_File(Part(source, value_offset, end)), _FILE_BUFFER_BYTES)
    frames = pixels.frames(file, syntax.uid, image, table if all(table) else None)
    first = next(frames)
    changed |= dict.fromkeys(_DROPPED)
    changed |= _described(values, image, first, length / max(end - value_offset, 1), encoding)
    yield _assembled(head, parts, changed)
    yield _header(tags.PixelData, "OW" if image.bits_allocated > 8 else "OB", length, encoding)
    for frame in itertools.chain((first,), frames):
        yield frame.value
    yield bytes(length - image.decoded_bytes)
    yield from _rest(source, end)


def _rest(source: Source, start: int) -> Iterator[Buffer]:
    for at in range(start, source.length, PIECE_BYTES):
        yield source.read(at, PIECE_BYTES)


def _end_of_fragments(source: Source, start: int) -> int:
    """Where encapsulated Pixel Data is over. Raises TranscodeError when it is cut, before anything is decoded."""
    file, at = io.BufferedReader(_File(Part(source, start)), _FILE_BUFFER_BYTES), start
    while at < source.length:
        header = file.read(8)
        at += 8
        if header[:4] == _SEQUENCE_DELIMITER:
            return at
        length = int.from_bytes(header[4:], "little")
        if header[:4] != _ITEM or at + length > source.length:
            raise TranscodeError(f"Pixel Data (7FE0,0010) is cut, or no fragments, at offset {at - 8}")
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


def _described(
    values: _Values, image: pixels.ImagePixel, first: pixels.Frame, ratio: float, encoding: int
) -> dict[int, bytes | None]:
    """The elements that describe Pixel Data otherwise than before."""
    changed: dict[int, bytes | None] = {}
    if first.photometric_interpretation != image.photometric_interpretation:
        changed[tags.PhotometricInterpretation] = _text(
            tags.PhotometricInterpretation, "CS", first.photometric_interpretation, encoding
        )
    if image.samples_per_pixel > 1:
        changed[tags.PlanarConfiguration] = _header(tags.PlanarConfiguration, "US", 2, encoding) + b"\0\0"
    if first.lossy_method and values.text(tags.LossyImageCompression) != "01":
        changed[tags.LossyImageCompression] = _text(tags.LossyImageCompression, "CS", "01", encoding)
        changed[tags.LossyImageCompressionRatio] = _text(
            tags.LossyImageCompressionRatio, "DS", f"{ratio:.4g}", encoding
        )
        changed[tags.LossyImageCompressionMethod] = _text(
            tags.LossyImageCompressionMethod, "CS", first.lossy_method, encoding
        )
    return changed


def _icons(
    view: memoryview, part: _Part, source: TransferSyntax, encoding: int, bytes_max: int, depth: int
) -> dict[int, bytes | None]:
    """The Icon Image Sequence with native Pixel Data: nothing if it has that already, None if it cannot have it."""
    start, end = part.element.value_offset, part.element.value_offset + part.element.length
    items: list[bytes] = []
    is_changed = False
    try:
        for item in elements.walk(view, encoding, start, end):
            inner = elements.item_encoding(view, item, encoding)
            value = view[item.value_offset : item.value_offset + item.length]
            pieces = _native(Whole(value), source, inner, bytes_max, depth + 1)
            native = b"".join([bytes(piece) for piece in pieces])
            is_changed |= native != value
            items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(native)) + native)
    except (DataSetError, TranscodeError):
        return {part.tag: None}
    if not is_changed:
        return {}
    content = b"".join(items)
    return {part.tag: _header(part.tag, "SQ", len(content), encoding) + content}


def _assembled(view: memoryview, parts: Sequence[_Part], changed: dict[int, bytes | None]) -> bytes:
    """The elements with some replaced, left out (None) or added, in the order of their tags."""
    pieces: list[bytes | memoryview] = []
    present = {part.tag for part in parts}
    added = sorted((tag for tag, value in changed.items() if value is not None and tag not in present), reverse=True)
    for part in parts:
        while added and added[-1] < part.tag:
            pieces.append(changed[added.pop()] or b"")
        if part.tag in changed:
            pieces.append(changed[part.tag] or b"")
        else:
            pieces.append(view[part.start : part.end])
    pieces += [changed[tag] or b"" for tag in reversed(added)]
    return b"".join(pieces)


# What the data set says of its pixels ------------------------------------------------------------


class _Values:
    """Values of top-level elements; of a tag that is there twice the last one counts."""

    def __init__(self, view: memoryview, parts: Sequence[_Part]) -> None:
        self._view = view
        self._elements = {part.tag: part.element for part in parts}

    def raw(self, tag: int) -> bytes:
        """The bytes, b"" if there is none."""
        element = self._elements.get(tag)
        if element is None:
            return b""
        return bytes(self._view[element.value_offset : element.value_offset + element.length])

    def text(self, tag: int) -> str:
        """The first value of a text."""
        return self.raw(tag).decode("ascii", "replace").split("\\")[0].strip(" \0")

    def number(self, tag: int, otherwise: int | None = None) -> int:
        """An unsigned short. Raises TranscodeError if it is neither there nor given."""
        raw = self.raw(tag)
        if len(raw) >= 2:
            return int.from_bytes(raw[:2], "little")
        if otherwise is None:
            raise TranscodeError(f"{tags.keyword_of(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing")
        return otherwise


def _image_pixel(values: _Values) -> pixels.ImagePixel:
    frames = values.text(tags.NumberOfFrames) or "1"
    try:
        number_of_frames = max(int(frames), 1)
    except ValueError:
        raise TranscodeError(f"Number of Frames (0028,0008) is {frames[:16]!r}") from None
    bits_allocated = values.number(tags.BitsAllocated)
    image = pixels.ImagePixel(
        number_of_frames=number_of_frames,
        rows=values.number(tags.Rows),
        columns=values.number(tags.Columns),
        samples_per_pixel=values.number(tags.SamplesPerPixel, 1),
        bits_allocated=bits_allocated,
        bits_stored=values.number(tags.BitsStored, bits_allocated),
        pixel_representation=values.number(tags.PixelRepresentation, 0),
        photometric_interpretation=values.text(tags.PhotometricInterpretation),
        planar_configuration=values.number(tags.PlanarConfiguration, 0),
    )
    if not image.frame_samples or image.samples_per_pixel > 4 or number_of_frames > FRAMES_MAX:
        raise TranscodeError(
            f"{image.rows} rows, {image.columns} columns, {image.samples_per_pixel} samples a pixel and"
            f" {number_of_frames} frames are no image"
        )
    if image.pixel_representation > 1 or not 0 < image.bits_stored <= image.bits_allocated:
        raise TranscodeError("Bits Stored (0028,0101) or Pixel Representation (0028,0103) makes no sense")
    return image


def _header(tag: int, vr: str, length: int, encoding: int) -> bytes:
    group, element = tag >> 16, tag & 0xFFFF
    if not encoding & EXPLICIT_VR:
        return struct.pack("<HHI", group, element, length)
    if vr in _LONG_VRS:
        return struct.pack("<HH2sxxI", group, element, vr.encode(), length)
    return struct.pack("<HH2sH", group, element, vr.encode(), length)


def _text(tag: int, vr: str, text: str, encoding: int) -> bytes:
    value = text.encode("ascii", "replace")
    value += b" " * (len(value) % 2)
    return _header(tag, vr, len(value), encoding) + value
