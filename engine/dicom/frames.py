"""Frames: finds and reads each frame of an instance's pixel data.

    frame_table(source, syntax, offset of Pixel Data) ──► NativeFrames        arithmetic
                                                      └─► EncapsulatedFrames  a list of offsets (`fragments`)

Reads the elements before Pixel Data, and only headers of Pixel Data. A frame of encapsulated Pixel Data is the bare
codestream. A native frame is its samples in little endian, without the byte that pads an odd total. If Bits Allocated
is not a multiple of 8, native frames are not byte aligned: each is shifted to begin at bit 0 (PS3.5 8.1.1, PS3.18
8.7.3.5.2). Float and Double Float Pixel Data count as pixel data; an Icon Image does not. Video is one stream without
frames: use `pixel_stream`. Opens no files, and decodes nothing.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from engine.errors import DataSetError, FramesUnreadable, NoSuchFrame

from . import elements, fragments, tags
from .content import UNDEFINED, Contents
from .identifier import LONG_VRS, NUMBER_BYTES
from .sources import Part, Source
from .transfer_syntax import BIG_ENDIAN, EXPLICIT_VR, TransferSyntax

if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import Buffer

FRAMES_MAX: Final = fragments.FRAGMENTS_MAX
HEAD_BYTES_MAX: Final = 16 << 20
"""A longer head is read element by element, which takes seconds for one in Explicit VR with 100 000 frames."""

_VIDEO: Final = re.compile(r"1\.2\.840\.10008\.1\.2\.(4\.10[0-8](\.1)?|7\.[123])")
_SUBSAMPLED: Final = {"YBR_FULL_422": (2, 3), "YBR_PARTIAL_422": (2, 3), "YBR_PARTIAL_420": (1, 2)}
"""The share of three samples per pixel that native Pixel Data stores."""
_SAMPLES_OF: Final = {
    **dict.fromkeys((b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR"), b"\1\0"),
    **dict.fromkeys((b"RGB", b"YBR_FULL", b"YBR_FULL_422", b"YBR_ICT", b"YBR_RCT"), b"\3\0"),
}
"""Samples per Pixel (0028,0002) by Photometric Interpretation (PS3.3 C.7.6.3.1.2)."""
_SAMPLE_BITS: Final = {tags.FloatPixelData: 32, tags.DoubleFloatPixelData: 64}
_PIXEL_DATA_TAGS: Final = frozenset((tags.PixelData, *_SAMPLE_BITS))
_US: Final = (tags.Rows, tags.Columns, tags.SamplesPerPixel, tags.BitsAllocated)
_DESCRIBING_TAGS: Final = frozenset(
    {
        *_US,
        tags.NumberOfFrames,
        tags.PhotometricInterpretation,
        tags.ExtendedOffsetTable,
        tags.ExtendedOffsetTableLengths,
    }
)


class DescriptionDoubtful(FramesUnreadable):
    """The inferred description does not fit the pixels: read it from the data set."""


def is_video(transfer_syntax_uid: str) -> bool:
    """Whether Pixel Data is one video stream."""
    return _VIDEO.fullmatch(transfer_syntax_uid) is not None


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The header of the element that holds the pixels."""

    tag: int
    value_offset: int
    length: int
    """Bytes; -1 if the value is a sequence of fragments."""
    word_bytes: int
    """Width of the words whose bytes must be swapped from big endian; 1: none."""


class FrameTable(Protocol):
    """The interface of both kinds of table. Frame numbers begin with 1."""

    count: int
    """Frames that exist."""
    is_encapsulated: bool
    missing: str
    """Why there are fewer frames than Number of Frames; "" if there are not."""

    @property
    def memory_bytes(self) -> int:
        """The memory that the table takes."""

    def span(self, number: int) -> tuple[int, int] | None:
        """Offset and length of the region to pass to `cut` for this frame; None: use `read`."""

    def place(self, source: Source, number: int) -> tuple[int, int] | None:
        """Offset and length of the frame, if the source has its final bytes in one piece; else None.

        Raises FramesUnreadable.
        """

    def cut(self, number: int, region: memoryview) -> memoryview:
        """The frame, from the region that `span` names; rarely copied. Raises FramesUnreadable."""

    def read(self, source: Source, number: int) -> memoryview:
        """The frame, read from the source that the table was made from. Raises FramesUnreadable."""


class _FrameNumbers:
    """The range of frame numbers."""

    __slots__ = ("count", "missing")

    def __init__(self, count: int, missing: str) -> None:
        self.count = count
        self.missing = missing

    def check(self, number: int) -> None:
        """Raises NoSuchFrame unless there is such a frame."""
        if not 1 <= number <= self.count:
            reason = f": {self.missing}" if self.missing else ""
            raise NoSuchFrame(f"there is no frame {number}; the last one is {self.count}{reason}")


class NativeFrames(_FrameNumbers):
    """A `FrameTable` of frames of one length, end to end."""

    __slots__ = ("frame_bits", "value_offset", "word_bytes")
    is_encapsulated = False

    def __init__(self, element: PixelElement, frame_bits: int, count: int, missing: str) -> None:
        super().__init__(count, missing)
        self.value_offset = element.value_offset
        self.word_bytes = element.word_bytes
        self.frame_bits = frame_bits

    @property
    def memory_bytes(self) -> int:
        """The memory that the table takes."""
        return 128

    def span(self, number: int) -> tuple[int, int] | None:
        """See `FrameTable`."""
        self.check(number)
        if self.frame_bits % 8 or self.word_bytes > 1:
            return None
        length = self.frame_bits // 8
        return self.value_offset + (number - 1) * length, length

    def place(self, source: Source, number: int) -> tuple[int, int] | None:
        """See `FrameTable`."""
        return self.span(number)

    def cut(self, number: int, region: memoryview) -> memoryview:
        """See `FrameTable`."""
        return region

    def read(self, source: Source, number: int) -> memoryview:
        """See `FrameTable`."""
        self.check(number)
        start = (number - 1) * self.frame_bits
        first, end = start // 8, (start + self.frame_bits + 7) // 8
        # Whole words, counted from the start of the value.
        word_start = first - first % self.word_bytes
        word_end = end + -end % self.word_bytes
        value = source.read(self.value_offset + word_start, word_end - word_start)
        frame = memoryview(swap_bytes(value, self.word_bytes))[first - word_start : end - word_start]
        if len(frame) < end - first:
            raise FramesUnreadable(f"frame {number} is cut")
        return frame if not self.frame_bits % 8 else _shift(frame, start % 8, self.frame_bits)


class EncapsulatedFrames(_FrameNumbers):
    """A `FrameTable` of codestreams in fragments."""

    __slots__ = ("is_trusted", "lengths", "starts")
    is_encapsulated = True

    def __init__(self, starts: array[int], lengths: array[int] | None, missing: str, *, is_trusted: bool) -> None:
        super().__init__(len(starts) - 1, missing)
        self.starts = starts
        """The start of each frame's first item, and the end of the last frame."""
        self.lengths = lengths
        """Of the codestreams, from an Extended Offset Table."""
        self.is_trusted = is_trusted
        """Whether the offsets come from the data set's own table, unchecked."""

    @property
    def memory_bytes(self) -> int:
        """The memory that the table takes."""
        return 256 + 8 * (len(self.starts) + len(self.lengths or ()))

    def span(self, number: int) -> tuple[int, int] | None:
        """See `FrameTable`."""
        self.check(number)
        start = self.starts[number - 1]
        return start, self.starts[number] - start

    def place(self, source: Source, number: int) -> tuple[int, int] | None:
        """See `FrameTable`."""
        self.check(number)
        start = self.starts[number - 1]
        content = fragments.single_item_length(source, start, self.starts[number])
        length = content if self.lengths is None else self.lengths[number - 1]
        return (start + fragments.HEADER_BYTES, length) if 0 <= content - 1 <= length <= content else None

    def cut(self, number: int, region: memoryview) -> memoryview:
        """See `FrameTable`."""
        return fragments.cut(region, self.lengths[number - 1] if self.lengths is not None else None)

    def read(self, source: Source, number: int) -> memoryview:
        """See `FrameTable`."""
        self.check(number)
        start = self.starts[number - 1]
        return self.cut(number, memoryview(source.read(start, self.starts[number] - start)))


def frame_table(
    source: Source,
    syntax: TransferSyntax,
    pixel_data_offset: int,
    description: Description | None = None,
    *,
    trust_offsets: bool = True,
) -> NativeFrames | EncapsulatedFrames:
    """The frames of an instance. `source` must not be deflated. Raises FramesUnreadable.

    `pixel_data_offset`: of the tag of Pixel Data, -1 if there is none. `description`: if the caller has it. Without
    `trust_offsets` the tables in the data set are ignored: for another try after one was wrong.
    """
    if is_video(syntax.uid):
        raise FramesUnreadable(f"{syntax.name} is one video stream, without separate frames")
    encoding = encoding_of(source, syntax)
    element = pixel_element(source, encoding, pixel_data_offset)
    if (element.length < 0) != syntax.encapsulated:
        raise FramesUnreadable(f"Pixel Data is {'not ' * syntax.encapsulated}encapsulated, contrary to {syntax.name}")
    head = description or Description.read(source, syntax, encoding, pixel_data_offset)
    if element.length < 0:
        return _encapsulated(source, syntax, element, head, trust_offsets)
    return _native(source, element, head)


def pixel_stream(source: Source, syntax: TransferSyntax, pixel_data_offset: int) -> Source:
    """The value of Pixel Data as one stream: native in little endian, or all fragments joined (video).

    Raises FramesUnreadable.
    """
    element = pixel_element(source, encoding_of(source, syntax), pixel_data_offset)
    if element.length >= 0:
        value = Part(source, element.value_offset, min(element.value_offset + element.length, source.length))
        return ByteSwapped(value, element.word_bytes) if element.word_bytes > 1 else value
    _, first = fragments.offset_table(source, element.value_offset)
    return fragments.FragmentStream(source, fragments.scan(source, first))


def end_of_pixels(source: Source, syntax: TransferSyntax, pixel_data_offset: int) -> int:
    """The offset after the element of Pixel Data and its delimiter. Raises FramesUnreadable."""
    element = pixel_element(source, encoding_of(source, syntax), pixel_data_offset)
    if element.length >= 0:
        return min(element.value_offset + element.length, source.length)
    table, first = fragments.offset_table(source, element.value_offset)
    scanned = fragments.scan(source, first + max(table, default=0))
    if not len(scanned) or scanned.cut:
        scanned = fragments.scan(source, first)
    return min(scanned.starts[-1] + 8, source.length)


def encoding_of(source: Source, syntax: TransferSyntax) -> int:
    """The actual encoding of a data set."""
    return elements.encoding_of(source.read(0, 8), syntax)


def pixel_element(source: Source, encoding: int, offset: int) -> PixelElement:
    """The header of Pixel Data at `offset`. Raises FramesUnreadable when there is none."""
    if offset < 0:
        raise FramesUnreadable("the instance has no Pixel Data")
    order: Literal["big", "little"] = "big" if encoding & BIG_ENDIAN else "little"
    header = bytes(source.read(offset, 12))
    tag = int.from_bytes(header[:2], order) << 16 | int.from_bytes(header[2:4], order)
    vr = header[4:6].decode("latin-1")
    at, end = 4, 8
    if encoding & EXPLICIT_VR:
        at, end = (8, 12) if vr in LONG_VRS else (6, 8)
    if tag not in _PIXEL_DATA_TAGS or len(header) < end:
        raise FramesUnreadable(f"there is no Pixel Data at offset {offset}")
    length = int.from_bytes(header[at:end], order)
    if length == UNDEFINED and tag == tags.PixelData:
        length = -1
    word_bytes = NUMBER_BYTES.get(vr, 1) if encoding & BIG_ENDIAN else 1
    return PixelElement(tag, offset + end, length, word_bytes)


def swap_bytes(value: Buffer, word_bytes: int) -> Buffer:
    """Reverses the bytes of each word; an incomplete word at the end stays as it is."""
    if word_bytes == 1:
        return value
    data = bytes(value)
    swapped = bytearray(data)
    whole = len(data) - len(data) % word_bytes
    for byte in range(word_bytes):
        swapped[byte:whole:word_bytes] = data[word_bytes - 1 - byte : whole : word_bytes]
    return swapped


class ByteSwapped:
    """A source with the bytes of each word reversed."""

    def __init__(self, source: Source, word_bytes: int) -> None:
        self._source = source
        self._word_bytes = word_bytes
        self.length = source.length

    def read(self, offset: int, count: int) -> Buffer:
        """See `Source`."""
        start = offset - offset % self._word_bytes
        end = offset + count + -(offset + count) % self._word_bytes
        return memoryview(swap_bytes(self._source.read(start, end - start), self._word_bytes))[offset - start :][:count]


class Description:
    """The description of Pixel Data by the elements before it."""

    def __init__(self, values: Mapping[int, bytes], *, is_inferred: bool = False) -> None:
        """`values`: in little endian. `is_inferred`: some are guesses and may be wrong. Raises FramesUnreadable."""
        self._values = values
        self.is_inferred = is_inferred
        self.frame_count = self._frame_count()

    @classmethod
    def read(cls, source: Source, syntax: TransferSyntax, encoding: int, end: int) -> Description:
        """Reads it from the data set; of two elements with one tag the last counts. Raises FramesUnreadable."""
        try:
            values = _from_memory(source, encoding, end) if end <= HEAD_BYTES_MAX else _from_far(source, syntax, end)
        except DataSetError as error:
            raise FramesUnreadable(f"the data set cannot be read: {error}") from error
        return cls(values)

    @classmethod
    def of_one_frame(cls, values: Mapping[int, bytes]) -> Description | None:
        """Makes it from attributes of the index, which lack (0028,0002) and offset tables. None: use `read`."""
        samples = _SAMPLES_OF.get(values.get(tags.PhotometricInterpretation, b"").strip(b" \0"))
        if samples is None or values.get(tags.NumberOfFrames, b"").strip(b" \0") not in (b"", b"1"):
            return None
        return cls({**values, tags.SamplesPerPixel: samples}, is_inferred=True)

    def number(self, tag: int, otherwise: int | None = None) -> int:
        """An unsigned short, or `otherwise` if it is missing. Raises FramesUnreadable if that is None."""
        raw = self._values.get(tag, b"")
        if len(raw) >= 2:
            return int.from_bytes(raw[:2], "little")
        if otherwise is None:
            raise FramesUnreadable(f"{tags.keyword_of(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing")
        return otherwise

    def text(self, tag: int) -> str:
        """The first value of a text element."""
        return self._values.get(tag, b"").decode("ascii", "replace").split("\\")[0].strip(" \0")

    def table(self, tag: int) -> array[int]:
        """A list of 64-bit numbers."""
        raw = self._values.get(tag, b"")
        numbers = array("Q")
        numbers.frombytes(raw[: len(raw) // 8 * 8])
        return numbers

    def frame_bits(self, tag: int) -> int:
        """The bits of one native frame, with all its samples. Raises FramesUnreadable."""
        bits = _SAMPLE_BITS.get(tag) or self.number(tags.BitsAllocated)
        samples = 1 if tag in _SAMPLE_BITS else self.number(tags.SamplesPerPixel, 1)
        frame_bits = self.number(tags.Rows) * self.number(tags.Columns) * samples * bits
        if not frame_bits:
            raise FramesUnreadable("Rows, Columns, Samples per Pixel or Bits Allocated is 0")
        return frame_bits

    def _frame_count(self) -> int:
        text = self.text(tags.NumberOfFrames) or "1"
        if not re.fullmatch(r"\+?[0-9]{1,10}", text):
            raise FramesUnreadable(f"Number of Frames (0028,0008) is {text[:16]!r}")
        count = max(int(text), 1)
        if count > FRAMES_MAX:
            raise FramesUnreadable(f"Number of Frames (0028,0008) is {count}; the limit is {FRAMES_MAX}")
        return count


def _from_memory(source: Source, encoding: int, end: int) -> dict[int, bytes]:
    view = memoryview(source.read(0, end))
    values: dict[int, bytes] = {}
    for element in elements.walk(view, encoding):
        if element.tag in _DESCRIBING_TAGS:
            value = view[element.value_offset : element.value_offset + element.length]
            width = 2 if element.tag in _US and encoding & BIG_ENDIAN else 1
            values[element.tag] = bytes(swap_bytes(value, width))
    return values


def _from_far(source: Source, syntax: TransferSyntax, end: int) -> dict[int, bytes]:
    contents = Contents(Part(source, 0, end), syntax)
    return {element.tag: contents.value(element) for element in contents.root()[0] if element.tag in _DESCRIBING_TAGS}


def _native(source: Source, element: PixelElement, head: Description) -> NativeFrames:
    length = max(min(element.length, source.length - element.value_offset), 0)
    count, frame_bits = head.frame_count, head.frame_bits(element.tag)
    share = _SUBSAMPLED.get(head.text(tags.PhotometricInterpretation))
    if share is not None and head.number(tags.SamplesPerPixel, 1) == 3:
        subsampled = frame_bits * share[0] // share[1]
        # Some writers declare this and store all samples.
        if length * 8 < count * frame_bits:
            frame_bits = subsampled
    complete = min(length * 8 // frame_bits, count)
    expected = (count * frame_bits + 7) // 8
    if head.is_inferred and not expected <= length <= expected + 1:
        raise DescriptionDoubtful(f"Pixel Data has {length} bytes; by the index it should have {expected}")
    missing = "" if complete == count else f"Pixel Data has {length} bytes; {count} frames take {expected}"
    return NativeFrames(element, frame_bits, complete, missing)


def _encapsulated(
    source: Source, syntax: TransferSyntax, element: PixelElement, head: Description, trust_offsets: bool
) -> EncapsulatedFrames:
    table, first = fragments.offset_table(source, element.value_offset)
    count = head.frame_count
    if trust_offsets:
        offsets, lengths = head.table(tags.ExtendedOffsetTable), head.table(tags.ExtendedOffsetTableLengths)
        if len(offsets) == len(lengths) == count:
            starts = fragments.by_table(source, offsets, count, first)
            if starts is not None:
                return EncapsulatedFrames(starts, lengths, "", is_trusted=True)
        starts = fragments.by_table(source, table, count, first) if table else None
        if starts is not None:
            return EncapsulatedFrames(starts, None, "", is_trusted=True)
    native_bytes = (head.frame_bits(element.tag) + 7) // 8 if syntax.uid == fragments.ENCAPSULATED_UNCOMPRESSED else 0
    scanned = fragments.scan(source, first)
    starts, missing = fragments.by_fragments(source, scanned, count, syntax.uid, native_bytes)
    return EncapsulatedFrames(starts, None, missing, is_trusted=False)


def _shift(value: memoryview, shift: int, count: int) -> memoryview:
    """`count` bits from bit `shift` on, moved to begin at bit 0; the unused bits of the last byte are 0."""
    bits = (int.from_bytes(value, "little") >> shift) & ((1 << count) - 1)
    return memoryview(bits.to_bytes((count + 7) // 8, "little"))
