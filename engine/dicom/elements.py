"""Walks a data set's elements and extracts the attributes for the index. Only this module imports _ext.elements and
_ext.scan.

Does not decode text, does not know the meaning of levels, never touches pixels. Works on borrowed bytes and returns
bytes. Never allocate memory by a length from the data set.

A level blob, as stored in records and in the index (a change is a new version of both):

    0      4        8              8+L
    +------+--------+--------------+------
    | tag  | L      | value (L)    | next …     u32 little endian, tags ascending, each at most once
    +------+--------+--------------+------

Text values are in their own character set without trailing spaces and NULs, numbers in little endian, sequences are
items in Explicit VR Little Endian. A value is cut at VALUE_BYTES_MAX. The items of a sequence longer than
SEQUENCE_BYTES_MAX lose their own sequences, private elements and long values, so that queries still find each item by
its IDs and codes; if it is still too long, only the first items stay. A malformed sequence is dropped. If the four
blobs together would exceed BLOBS_BYTES_MAX, these limits are an eighth, or less. The same data set always gives the
same bytes, whole or in pieces, so callers may compare blobs by their bytes.

Errors of real writers are read as pydicom reads them: elements without a VR in an explicit data set, a data set in
implicit VR that claims to be explicit and the reverse, tags out of order (of two with one tag the last counts), any
misplaced element after a tag above the last needed one. Standard: PS3.5 section 7.

Do not confuse a data set that ends early (`Head.cut`) with one that has bytes after its end. Cut: a value, a fragment
or an item that is longer than the remaining bytes; a sequence, an item or encapsulated Pixel Data without its
delimiter; a deflate stream without its last block; up to 7 bytes that may begin an element. Tolerated: zeros; after
Pixel Data anything except an element with a higher tag and a VR of PS3.5, and up to 7 bytes of anything except Data Set
Trailing Padding; before Pixel Data up to 7 blanks and line ends, or bytes whose tag is not above the last one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from engine._ext import elements as _ext
from engine._ext import scan as _scan
from engine._ext.scan import Extractor as Extractor
from engine._ext.scan import Head as Head
from engine.errors import DataSetError

from . import attributes, tags
from .transfer_syntax import TransferSyntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

INFLATED_BYTES_MAX: Final = 256 << 20
INFLATED_RATIO_MAX: Final = 32
"""A deflated data set is inflated up to INFLATED_BYTES_MAX plus INFLATED_RATIO_MAX times its own length: zip bombs
inflate 1000-fold. If Pixel Data has begun by then, the data set counts as whole."""
_INFLATED_STEP_BYTES: Final = 256 << 10

_HEAD_READ_BYTES: Final = 16 << 10
_FRAGMENT_READ_BYTES: Final = 512
"""Bytes read at a time before Pixel Data, and within it: the header of a fragment, or of several small ones."""


def extractor_of(extras: Sequence[tuple[int, int, str, bytes]] = ()) -> Extractor:
    """An extractor of the attributes of `attributes` and of `extras`: tag, level, VR, private creator or b""."""
    return Extractor(
        attributes.LEVELS,
        tags.SpecificCharacterSet,
        (tags.SOPClassUID, tags.SOPInstanceUID, tags.StudyInstanceUID, tags.SeriesInstanceUID),
        attributes.PIXEL_DATA,
        (tags.SamplesPerPixel, tags.NumberOfFrames, tags.Rows, tags.Columns, tags.BitsAllocated),
        tags.packed(),
        (attributes.VALUE_BYTES_MAX, attributes.SEQUENCE_BYTES_MAX, attributes.BLOBS_BYTES_MAX),
        extras,
    )


STANDARD: Final = extractor_of()
"""Extracts the attributes that every archive keeps. An archive uses its own extractor (`schema.Schema.extractor`)."""

_reader = _ext.ElementReader(tags.packed())


OWNERS: Final = (tags.StudyInstanceUID, tags.SeriesInstanceUID)
"""The attributes that name the study and the series of an instance."""


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """Limits for the head of a data set up to Pixel Data, at all depths. They also protect its later readers."""

    nesting_depth_max: int = 128
    """Sequences within sequences. Structured reports and radiotherapy plans reach some 20; pydicom gives up at 300."""
    element_count_max: int = 1 << 20
    """Elements and items. 8 MiB hold no more than this; a multi-frame instance of 10 000 frames has some 500 000, and a
    million are read in less than 10 ms."""


SCAN_LIMITS: Final = ScanLimits()


class Element(NamedTuple):
    """One element, or one item of a sequence (tag `tags.Item`), with its place in the bytes."""

    tag: int
    vr: str
    """From the data set, else from the dictionary (`tags.vr_of`); "" for an item."""
    value_offset: int
    length: int
    """Of the value without its delimiter."""
    is_undefined_length: bool


def extract(
    data: Buffer,
    transfer_syntax: TransferSyntax,
    *,
    limits: ScanLimits = SCAN_LIMITS,
    extractor: Extractor = STANDARD,
) -> Head:
    """The attributes of an instance for the index, from its whole data set.

    `Head.pixel_data_offset` is the offset of the tag of (Float, Double Float) Pixel Data at the top level, counted in
    the inflated data set if it is deflated; -1 if there is none. `Head.pixel_data_length` is the length of native Pixel
    Data, -1 if there is none; `Head.image_bytes` the expected length by Rows, Columns and the like, -1 if unknown.
    `Head.cut` says where the data set ends early, "" if it does not. A missing UID is b"".
    Raises DataSetError if the bytes are not a data set or exceed the limits.
    """
    if transfer_syntax.deflated:
        scanner = Scanner(transfer_syntax, limits, extractor)
        scanner.feed(data)
        return scanner.finish()
    try:
        return extractor.extract(data, transfer_syntax.encoding, limits.nesting_depth_max, limits.element_count_max)
    except _ext.Malformed as error:
        raise DataSetError(str(error)) from None


class Scanner:
    """`extract` for a data set of any length that arrives in pieces, in bounded memory.

    Feed it all pieces in order, then call `finish`. A piece is borrowed for the call only.
    """

    def __init__(
        self, transfer_syntax: TransferSyntax, limits: ScanLimits = SCAN_LIMITS, extractor: Extractor = STANDARD
    ) -> None:
        self._scan = _scan.Scanner(
            extractor, transfer_syntax.encoding, limits.nesting_depth_max, limits.element_count_max
        )
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if transfer_syntax.deflated else None
        self._fed_bytes = 0
        self._has_given_up = False

    def feed(self, piece: Buffer) -> None:
        """Takes the next piece. Raises DataSetError if these bytes are not a data set or exceed the limits."""
        try:
            if self._inflater is None:
                self._scan.feed(piece)
            elif not (self._inflater.eof or self._has_given_up):
                self._inflate(self._inflater, piece)
        except _ext.Malformed as error:
            raise DataSetError(str(error)) from None

    def skip(self, count: int) -> None:
        """Skips `count` bytes as if they had been fed. Raises ValueError if they go beyond `needed_from`."""
        if self._inflater is None:
            self._scan.skip(count)
        elif count:
            raise ValueError("these bytes are needed")

    @property
    def needed_from(self) -> int:
        """The offset of the next bytes that must be fed; the bytes before it may be skipped."""
        return self._scan.needed_from if self._inflater is None else self._fed_bytes

    @property
    def is_settled(self) -> bool:
        """Whether later bytes can only change `cut`."""
        return self._scan.is_settled

    def so_far(self) -> Head:
        """The head as far as it has been read. Its `cut` is not valid yet."""
        return self._scan.so_far()

    def finish(self) -> Head:
        """The head. Raises DataSetError as `feed` does."""
        try:
            head = self._scan.finish()
        except _ext.Malformed as error:
            raise DataSetError(str(error)) from None
        if self._inflater is not None and not (self._inflater.eof or self._has_given_up):
            head.cut = "has a deflate stream that ends early"
        return head

    def _inflate(self, inflater: zlib._Decompress, piece: Buffer) -> None:
        self._fed_bytes += len(memoryview(piece))
        inflated_max = INFLATED_BYTES_MAX + INFLATED_RATIO_MAX * self._fed_bytes
        pending = piece
        while True:
            try:
                inflated = inflater.decompress(pending, _INFLATED_STEP_BYTES)
            except zlib.error as error:
                raise DataSetError(f"the deflated data set cannot be inflated: {error}") from None
            self._scan.feed(inflated)
            pending = inflater.unconsumed_tail
            if inflater.eof or not (pending or len(inflated) == _INFLATED_STEP_BYTES):
                return
            if self._scan.position > inflated_max:
                self._has_given_up = True
                if not self._scan.is_settled:
                    raise DataSetError(f"no Pixel Data within the first {self._scan.position} inflated bytes")
                return


def scan_at(
    read: Callable[[int, int], Buffer],
    length: int,
    transfer_syntax: TransferSyntax,
    *,
    limits: ScanLimits = SCAN_LIMITS,
    extractor: Extractor = STANDARD,
    to_the_end: bool = True,
) -> Head:
    """`extract` for a data set of `length` bytes that `read(offset, count)` reads, exactly `count` bytes at a time.

    Reads headers and the values to extract, and skips other values. Without `to_the_end` it stops at Pixel Data, and
    `cut` is not valid. Raises DataSetError, and the errors of `read`.
    """
    scanner = Scanner(transfer_syntax, limits, extractor)
    at = 0
    while at < length and (to_the_end or not scanner.is_settled):
        count = min(_FRAGMENT_READ_BYTES if scanner.is_settled else _HEAD_READ_BYTES, length - at)
        scanner.feed(read(at, count))
        at += count
        ahead = min(scanner.needed_from, length) - at
        if ahead > 0:
            scanner.skip(ahead)
            at += ahead
    return scanner.so_far() if at < length else scanner.finish()


def blob_items(blob: Buffer) -> dict[int, bytes]:
    """A level blob as tag → value."""
    try:
        return _ext.blob_items(blob)
    except _ext.Malformed as error:
        raise DataSetError(f"damaged blob: {error}") from None


def encoding_of(data: Buffer, transfer_syntax: TransferSyntax) -> int:
    """The actual encoding of a data set: the transfer syntax's, unless its first bytes show another one."""
    return _ext.root_encoding_of(data, transfer_syntax.encoding)


def walk(data: Buffer, encoding: int, start: int = 0, end: int | None = None) -> Iterator[Element]:
    """The elements of the data set in data[start:end], or the items of the sequence value there. Not deflated.

    Pass the value range of a sequence to get its items, and that of an item to get its elements. Skips up to 7 bytes at
    the end, which cannot be an element.
    """
    offset = start
    stop = len(memoryview(data)) if end is None else end
    while stop - offset >= 8:
        try:
            tag, vr, value_offset, length, is_undefined, after = _reader.read(data, offset, stop, encoding)
        except _ext.Malformed as error:
            raise DataSetError(str(error)) from None
        yield Element(tag, vr, value_offset, length, is_undefined)
        offset = after


def item_encoding(data: Buffer, item: Element, encoding: int) -> int:
    """The encoding within an item: implicit VR may begin there (PS3.5 6.2.2), explicit VR may not."""
    if item.length < 8:
        return encoding
    with memoryview(data) as view, view[item.value_offset : item.value_offset + item.length] as value:
        return _ext.item_encoding_of(value, encoding)
