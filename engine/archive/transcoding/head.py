"""The data set up to its Pixel Data: reads and rewrites the description of an image. Knows no codec.

A head keeps the bytes that it was read from, so unchanged elements keep theirs. The processes of `process_pool` use it;
the items of a sequence are heads too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine.dicom import elements, tags
from engine.dicom.transfer_syntax import BIG_ENDIAN, EXPLICIT_VR
from engine.errors import DataSetError, TranscodeError

if TYPE_CHECKING:
    from engine.dicom.sources import Source

HEAD_BYTES_MAX: Final = 64 << 20
"""The most bytes before Pixel Data that are held in memory."""
FRAMES_MAX: Final = 1 << 20
SAMPLES_PER_PIXEL_MAX: Final = 4

PIXEL_DATA_TAGS: Final = frozenset({tags.PixelData, tags.FloatPixelData, tags.DoubleFloatPixelData})

_HEAD_STEP_BYTES: Final = 64 << 10
_LONG_VRS: Final = frozenset({"OB", "OW", "SQ", "UN"})
_FLOATS: Final = {"FL": "f", "FD": "d", "US": "H", "SS": "h", "UL": "I", "SL": "i", "OW": "H", "OB": "B"}


@dataclass(frozen=True, slots=True)
class ImagePixel:
    """The attributes of the Image Pixel Module that define the layout of samples (PS3.3 C.7.6.3)."""

    number_of_frames: int
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    photometric_interpretation: str
    planar_configuration: int

    @property
    def frame_samples(self) -> int:
        """Samples in one frame."""
        return self.rows * self.columns * self.samples_per_pixel

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame."""
        return (self.frame_samples * self.bits_allocated + 7) // 8

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all native frames; frames of single bits follow one another without padding (PS3.5 8.1.1)."""
        return (self.number_of_frames * self.frame_samples * self.bits_allocated + 7) // 8


@dataclass(frozen=True, slots=True)
class Part:
    """One element of a head, with its header."""

    start: int
    end: int
    element: elements.Element


class Head:
    """The elements before Pixel Data; if a tag occurs twice, the last one counts."""

    def __init__(self, view: memoryview, encoding: int) -> None:
        """Raises DataSetError."""
        self.view = view
        self.encoding = encoding
        self.parts = list(_parts(view, encoding))
        self._by_tag = {part.element.tag: part for part in self.parts}
        self.order = ">" if encoding & BIG_ENDIAN else "<"
        """The byte order, as in struct and numpy."""

    @classmethod
    def read(cls, source: Source, encoding: int) -> Head:
        """The head of a data set. Raises DataSetError, or TranscodeError if it is too long."""
        size = _HEAD_STEP_BYTES
        while True:
            view, start = memoryview(bytes(source.read(0, size))), 0
            is_all = len(view) == source.length
            try:
                for part in _parts(view, encoding):
                    if part.element.tag in PIXEL_DATA_TAGS:
                        return cls(view[: part.start], encoding)
                    start = part.end
                if is_all:
                    return cls(view, encoding)
            except DataSetError:
                if _is_pixel_data(view[start : start + 4], encoding):  # its end has not been read
                    return cls(view[:start], encoding)
                if is_all:
                    raise
            if size >= HEAD_BYTES_MAX:
                raise TranscodeError(f"there is no Pixel Data within the first {size} bytes")
            size *= 4

    def __len__(self) -> int:
        return len(self.view)

    def __contains__(self, tag: int) -> bool:
        return tag in self._by_tag

    def raw(self, tag: int) -> bytes:
        """The bytes of the value, b"" if there is none."""
        part = self._by_tag.get(tag)
        if part is None:
            return b""
        element = part.element
        return bytes(self.view[element.value_offset : element.value_offset + element.length])

    def vr(self, tag: int) -> str:
        """The value representation of an element, "" if there is none."""
        part = self._by_tag.get(tag)
        return part.element.vr if part is not None else ""

    def texts(self, tag: int) -> list[str]:
        """The values of a text in the default character repertoire."""
        raw = self.raw(tag).decode("ascii", "replace").strip(" \0")
        return [value.strip(" \0") for value in raw.split("\\")] if raw else []

    def text(self, tag: int) -> str:
        """The first value of a text, "" if there is none."""
        return next(iter(self.texts(tag)), "")

    def number(self, tag: int, otherwise: int | None = None) -> int:
        """An unsigned short, or `otherwise`. Raises TranscodeError if there is neither."""
        raw = self.raw(tag)
        if len(raw) >= 2:
            return int.from_bytes(raw[:2], "big" if self.encoding & BIG_ENDIAN else "little")
        if otherwise is None:
            raise TranscodeError(f"{tags.keyword_of(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing")
        return otherwise

    def numbers(self, tag: int) -> list[float]:
        """All values of a numeric element, text or binary, up to the first that is not finite."""
        vr, raw = self.vr(tag), self.raw(tag)
        if vr in _FLOATS:
            size = struct.calcsize(_FLOATS[vr])
            count = len(raw) // size
            return [float(value) for value in struct.unpack_from(f"{self.order}{count}{_FLOATS[vr]}", raw)]
        values: list[float] = []
        for text in self.texts(tag):
            try:
                value = float(text)
            except ValueError:
                break
            if not math.isfinite(value):
                break
            values.append(value)
        return values

    def items(self, tag: int) -> Iterator[Head]:
        """The items of a sequence, each read on demand. Raises DataSetError."""
        part = self._by_tag.get(tag)
        if part is None:
            return
        start, end = part.element.value_offset, part.element.value_offset + part.element.length
        for item in elements.walk(self.view, self.encoding, start, end):
            encoding = elements.item_encoding(self.view, item, self.encoding)
            yield Head(self.view[item.value_offset : item.value_offset + item.length], encoding)

    def item(self, tag: int, index: int = 0) -> Head | None:
        """One item of a sequence; reads only the headers of earlier items. Raises DataSetError."""
        part = self._by_tag.get(tag)
        if part is None:
            return None
        start, end = part.element.value_offset, part.element.value_offset + part.element.length
        for number, item in enumerate(elements.walk(self.view, self.encoding, start, end)):
            if number == index:
                encoding = elements.item_encoding(self.view, item, self.encoding)
                return Head(self.view[item.value_offset : item.value_offset + item.length], encoding)
        return None

    def image_pixel(self, *, is_float: bool = False) -> ImagePixel:
        """The Image Pixel Module, or that of floats, which has fewer attributes. Raises TranscodeError."""
        frames = self.text(tags.NumberOfFrames) or "1"
        try:
            number_of_frames = max(int(frames), 1)
        except ValueError:
            raise TranscodeError(f"Number of Frames (0028,0008) is {frames[:16]!r}") from None
        bits_allocated = self.number(tags.BitsAllocated)
        image = ImagePixel(
            number_of_frames=number_of_frames,
            rows=self.number(tags.Rows),
            columns=self.number(tags.Columns),
            samples_per_pixel=self.number(tags.SamplesPerPixel, 1),
            bits_allocated=bits_allocated,
            bits_stored=bits_allocated if is_float else self.number(tags.BitsStored, bits_allocated),
            pixel_representation=self.number(tags.PixelRepresentation, 0),
            photometric_interpretation=self.text(tags.PhotometricInterpretation),
            planar_configuration=self.number(tags.PlanarConfiguration, 0),
        )
        if not image.frame_samples or image.samples_per_pixel > SAMPLES_PER_PIXEL_MAX or number_of_frames > FRAMES_MAX:
            raise TranscodeError(
                f"{image.rows} rows, {image.columns} columns, {image.samples_per_pixel} samples a pixel and"
                f" {number_of_frames} frames are no valid image"
            )
        if image.pixel_representation > 1 or not 0 < image.bits_stored <= image.bits_allocated:
            raise TranscodeError("Bits Stored (0028,0101) or Pixel Representation (0028,0103) is invalid")
        return image

    def rewritten(self, changes: Mapping[int, bytes | None]) -> bytes:
        """The elements with `changes`, in the order of their tags.

        `changes`: tag → the new element, as `element` makes it; None: left out.
        """
        pieces: list[bytes | memoryview] = []
        added = sorted((tag for tag, value in changes.items() if value is not None and tag not in self), reverse=True)
        for part in self.parts:
            tag = part.element.tag
            while added and added[-1] < tag:
                pieces.append(changes[added.pop()] or b"")
            pieces.append((changes[tag] or b"") if tag in changes else self.view[part.start : part.end])
        pieces += [changes[tag] or b"" for tag in reversed(added)]
        return b"".join(pieces)

    def element(self, tag: int, vr: str, value: bytes | str) -> bytes:
        """An element in this head's encoding; pads a text to an even length."""
        if isinstance(value, str):
            value = value.encode("ascii", "replace")
            value += b" " * (len(value) % 2)
        return header(tag, vr, len(value), self.encoding) + value

    def short(self, tag: int, value: int) -> bytes:
        """An element of one unsigned short."""
        return self.element(tag, "US", struct.pack(f"{self.order}H", value))


def header(tag: int, vr: str, length: int, encoding: int) -> bytes:
    """The header of an element (PS3.5 7.1.2, 7.1.3)."""
    order = ">" if encoding & BIG_ENDIAN else "<"
    group, number = tag >> 16, tag & 0xFFFF
    if not encoding & EXPLICIT_VR:
        return struct.pack(f"{order}HHI", group, number, length)
    if vr in _LONG_VRS:
        return struct.pack(f"{order}HH2sxxI", group, number, vr.encode(), length)
    return struct.pack(f"{order}HH2sH", group, number, vr.encode(), length)


def _parts(view: memoryview, encoding: int) -> Iterator[Part]:
    start = 0
    for element in elements.walk(view, encoding):
        end = element.value_offset + element.length + (8 if element.is_undefined_length else 0)
        yield Part(start, end, element)
        start = end


def _is_pixel_data(raw: memoryview, encoding: int) -> bool:
    if len(raw) < 4:
        return False
    group, number = struct.unpack(">HH" if encoding & BIG_ENDIAN else "<HH", raw)
    return group << 16 | number in PIXEL_DATA_TAGS
