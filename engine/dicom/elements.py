"""Walks a data set's elements and takes out what the index keeps; the door to _ext.elements.

Does not decode text, does not know the levels' meaning, never touches pixels. Everything works on borrowed bytes and
gives back bytes; nothing is allocated from a length that was read.

A level blob, as kept in records and in the index (a change is a new version of both):

    0      4        8              8+L
    +------+--------+--------------+------
    | tag  | L      | value (L)    | next …     u32 little endian, tags ascending, each at most once
    +------+--------+--------------+------

Text values stand in their own character set without trailing spaces and NULs, numbers in little endian, sequences as
items in Explicit VR Little Endian. A value is cut at VALUE_BYTES_MAX, a sequence to its leading items within
SEQUENCE_BYTES_MAX; one whose first item is longer, or that is malformed, is left out. The same data set gives the same
bytes always, which is why they can be compared instead of their meaning.

What real writers get wrong is read as pydicom reads it: elements without a VR in an explicit data set, a data set in
implicit VR that says explicit and the reverse, tags out of order (the last of a double one counts), up to 7 stray bytes
at the end, anything at all once a tag beyond the last wanted one has been passed. Standard: PS3.5 section 7.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from engine._ext import elements as _ext
from engine._ext.elements import Head as Head
from engine.errors import DataSetError

from . import attributes, tags
from .transfer_syntax import TransferSyntax

if TYPE_CHECKING:
    from typing_extensions import Buffer

INFLATED_HEAD_BYTES_MAX: Final = 16 << 20
"""Of a deflated data set this much is inflated in search of the wanted attributes (a zip bomb inflates 1000-fold)."""
_INFLATED_STEP_BYTES: Final = 64 << 10


def take_out(extras: Sequence[tuple[int, int, str, bytes]]) -> None:
    """Has `extract` take these out beside the tables of `attributes`: tag, level, VR, private creator or b"".

    For `extra`, which knows what they mean; no other thread may extract meanwhile.
    """
    _ext.configure(
        attributes.LEVELS,
        tags.SpecificCharacterSet,
        (tags.SOPClassUID, tags.SOPInstanceUID, tags.StudyInstanceUID, tags.SeriesInstanceUID),
        attributes.PIXEL_DATA,
        tags.packed(),
        (attributes.VALUE_BYTES_MAX, attributes.SEQUENCE_BYTES_MAX),
        extras,
    )


take_out(())


OWNERS: Final = (tags.StudyInstanceUID, tags.SeriesInstanceUID)
"""Whose values say where an instance belongs."""


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What the head of a data set may cost, and do to its later readers; counted up to Pixel Data, at all depths."""

    nesting_depth_max: int = 128
    """Sequences within sequences. Structured reports and radiotherapy plans reach some 20; pydicom gives up at 300."""
    element_count_max: int = 1 << 20
    """Elements and items. As many as 8 MiB of them hold at all; a multi-frame instance of 10 000 frames has some
    500 000, and a million are passed over in less than 10 ms."""
    header_bytes_max: int = 8 << 20
    """How far into a data set the kept attributes may lie: so much of it is joined in memory to look for them. For
    callers that hold a data set in pieces; `extract` sees what it is given."""


SCAN_LIMITS: Final = ScanLimits()


class NeedMore(DataSetError):
    """The wanted part of a data set runs over the end of the bytes given."""

    def __init__(self, message: str, needed_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        """At least this many bytes from the start of the data set are needed to get on."""


class Element(NamedTuple):
    """One element, or one item of a sequence (tag `tags.Item`), by its place in the bytes walked."""

    tag: int
    vr: str
    """On the wire, else the dictionary's (`tags.vr_of`); "" of an item."""
    value_offset: int
    length: int
    """Of the value without its delimiter."""
    is_undefined_length: bool


def extract(head: Buffer, transfer_syntax: TransferSyntax, *, complete: bool, limits: ScanLimits = SCAN_LIMITS) -> Head:
    """What the index keeps of an instance, from the first bytes of its data set or from the whole of it.

    `Head.pixel_data_offset` is the offset of the tag of (Float, Double Float) Pixel Data at the top level, counted in
    the inflated data set if it is deflated; -1 if there is none in the bytes given. UIDs are b"" where absent.
    Raises NeedMore if not complete and a wanted attribute may follow, DataSetError if the bytes are no data set or go
    beyond the limits.
    """
    try:
        if transfer_syntax.deflated:
            return _extract_deflated(head, transfer_syntax, complete, limits)
        return _ext.extract(
            head, transfer_syntax.encoding, complete, limits.nesting_depth_max, limits.element_count_max
        )
    except _ext.Malformed as error:
        raise _translated(error, complete) from None


def _translated(error: _ext.Malformed, complete: bool) -> DataSetError:
    if error.ends_early and not complete:
        return NeedMore(f"{error}; more of it is needed", error.needed_bytes)
    return DataSetError(str(error))


def _extract_deflated(head: Buffer, transfer_syntax: TransferSyntax, complete: bool, limits: ScanLimits) -> Head:
    """Inflates a little and tries, then twice as much, up to the limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    rest: Buffer = head
    step = _INFLATED_STEP_BYTES
    while True:
        try:
            piece = inflater.decompress(rest, step)
        except zlib.error as error:
            raise DataSetError(f"the deflated data set cannot be inflated: {error}") from None
        inflated += piece
        rest = inflater.unconsumed_tail
        is_used_up = not rest and len(piece) < step  # a full piece may leave output behind though it took all input
        is_whole = inflater.eof or (complete and is_used_up)
        try:
            return _ext.extract(
                inflated, transfer_syntax.encoding, is_whole, limits.nesting_depth_max, limits.element_count_max
            )
        except _ext.Malformed as error:
            if is_whole or not error.ends_early:
                raise DataSetError(f"{error} of the inflated bytes") from None
        if is_used_up:
            raise NeedMore("the deflated data set ends early; more of it is needed", len(memoryview(head)) + 1)
        if len(inflated) >= INFLATED_HEAD_BYTES_MAX:
            raise DataSetError(f"no Pixel Data within the first {len(inflated)} inflated bytes")
        step = len(inflated)


def blob_items(blob: Buffer) -> dict[int, bytes]:
    """A level blob as tag → value."""
    try:
        return _ext.blob_items(blob)
    except _ext.Malformed as error:
        raise DataSetError(f"damaged blob: {error}") from None


def encoding_of(data: Buffer, transfer_syntax: TransferSyntax) -> int:
    """The encoding in which a data set really is: the transfer syntax's unless its first element says otherwise."""
    return _ext.root_encoding_of(data, transfer_syntax.encoding)


def walk(data: Buffer, encoding: int, start: int = 0, end: int | None = None) -> Iterator[Element]:
    """The elements of the data set in data[start:end], or the items of the sequence value there. Not deflated.

    Give a sequence's value range to get its items, and an item's value range to get its elements. Up to 7 bytes at
    the end that cannot be an element are passed over.
    """
    offset = start
    stop = len(memoryview(data)) if end is None else end
    while stop - offset >= 8:
        try:
            tag, vr, value_offset, length, is_undefined, after = _ext.read_element(data, offset, stop, encoding)
        except _ext.Malformed as error:
            raise DataSetError(str(error)) from None
        yield Element(tag, vr, value_offset, length, is_undefined)
        offset = after


def item_encoding(data: Buffer, item: Element, encoding: int) -> int:
    """The encoding within an item: implicit VR may begin there (PS3.5 6.2.2), explicit VR may not."""
    if item.length < 8:
        return encoding
    with memoryview(data) as view, view[item.value_offset : item.value_offset + item.length] as value:
        return encoding & _ext.root_encoding_of(value, encoding)
