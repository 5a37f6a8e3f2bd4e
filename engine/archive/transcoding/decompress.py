"""Brings a data set with encapsulated Pixel Data into an uncompressed transfer syntax. Runs in `decoder` only.

Decodes nothing itself (`pixels`) and rewrites nothing that need not be: elements but these keep their bytes.

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

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.archive.transcoding import pixels
from engine.dicom import elements, tags, transfer_syntax
from engine.dicom.convert import convert
from engine.dicom.transfer_syntax import EXPLICIT_VR, TransferSyntax
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

FRAMES_MAX: Final = 1 << 20

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
    """The data set with native Pixel Data, in the target transfer syntax. Raises TranscodeError.

    `decoded_bytes_max` bounds the native Pixel Data; all in all some four times as much memory is taken.
    """
    if source.deflated or source.big_endian:
        raise TranscodeError(f"{source.name} cannot be decoded")
    encoding = elements.encoding_of(data, source)
    try:
        native = _native(memoryview(data), source, encoding, decoded_bytes_max, 0)
    except DataSetError as error:
        raise TranscodeError(f"the data set cannot be read: {error}") from error
    is_explicit = bool(encoding & EXPLICIT_VR)
    between = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN if is_explicit else transfer_syntax.IMPLICIT_VR_LITTLE_ENDIAN
    return native if between.uid == target.uid else convert(native, between, target)


@dataclass(frozen=True, slots=True)
class _Part:
    """One element of the data set, header included."""

    tag: int
    start: int
    end: int
    element: elements.Element


def _parts(view: memoryview, encoding: int) -> list[_Part]:
    parts: list[_Part] = []
    start = 0
    for element in elements.walk(view, encoding):
        end = element.value_offset + element.length + (8 if element.is_undefined_length else 0)
        parts.append(_Part(element.tag, start, end, element))
        start = end
    return parts


def _native(view: memoryview, source: TransferSyntax, encoding: int, bytes_max: int, depth: int) -> bytes:
    """The data set, or the item of an icon, with native Pixel Data; in the encoding that it has."""
    parts = _parts(view, encoding)
    changed: dict[int, bytes | None] = {}
    if depth < _ITEM_DEPTH_MAX:
        for part in parts:
            if part.tag == tags.IconImageSequence:
                changed |= _icons(view, part, source, encoding, bytes_max, depth)
    found = [part for part in parts if part.tag == tags.PixelData]
    if len(found) > 1:
        raise TranscodeError("it has Pixel Data (7FE0,0010) twice")
    if found and found[0].element.is_undefined_length:
        changed |= dict.fromkeys(_DROPPED)
        changed |= _decoded(view, parts, found[0], source, encoding, bytes_max)
    elif found and depth == 0:
        raise TranscodeError(f"Pixel Data (7FE0,0010) is not encapsulated, as it has to be in {source.name}")
    return _assembled(view, parts, changed)


def _decoded(
    view: memoryview, parts: Sequence[_Part], pixel_data: _Part, source: TransferSyntax, encoding: int, bytes_max: int
) -> dict[int, bytes | None]:
    """Pixel Data decoded, and the elements that describe it otherwise than before."""
    values = _Values(view, parts)
    image = _image_pixel(values)
    if image.decoded_bytes > bytes_max:
        raise TranscodeError(f"decoded it would have {image.decoded_bytes} bytes, the limit is {bytes_max}")
    element = pixel_data.element
    encapsulated = bytes(view[element.value_offset : element.value_offset + element.length])
    table = values.raw(tags.ExtendedOffsetTable), values.raw(tags.ExtendedOffsetTableLengths)
    decoded = pixels.decode(encapsulated, source.uid, image, table if all(table) else None)
    if len(decoded.value) % 2:
        decoded.value.append(0)
    changed: dict[int, bytes | None] = {
        tags.PixelData: _header(
            tags.PixelData, "OW" if image.bits_allocated > 8 else "OB", len(decoded.value), encoding
        )
        + decoded.value
    }
    if decoded.photometric_interpretation != image.photometric_interpretation:
        changed[tags.PhotometricInterpretation] = _text(
            tags.PhotometricInterpretation, "CS", decoded.photometric_interpretation, encoding
        )
    if image.samples_per_pixel > 1:
        changed[tags.PlanarConfiguration] = _header(tags.PlanarConfiguration, "US", 2, encoding) + b"\0\0"
    if decoded.lossy_method and values.text(tags.LossyImageCompression) != "01":
        ratio = len(decoded.value) / max(len(encapsulated), 1)
        changed[tags.LossyImageCompression] = _text(tags.LossyImageCompression, "CS", "01", encoding)
        changed[tags.LossyImageCompressionRatio] = _text(
            tags.LossyImageCompressionRatio, "DS", f"{ratio:.4g}", encoding
        )
        changed[tags.LossyImageCompressionMethod] = _text(
            tags.LossyImageCompressionMethod, "CS", decoded.lossy_method, encoding
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
            native = _native(value, source, inner, bytes_max, depth + 1)
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
