"""Encapsulated Pixel Data (PS3.5 A.4): finds its items, and the items of each frame.

    … (7FE0,0010) OB FFFFFFFF │ item: Basic Offset Table │ item: fragment │ item: fragment │ … │ sequence delimiter
                              ▲                          ▲
                              start                      first: offsets in a table count from here

A frame is one fragment or several in a row, so a table of frames is one ascending list of offsets: the start of each
frame's first item, and the end of the last frame. It comes from the first of these sources that fits:

    Extended Offset Table (7FE0,0001), Basic Offset Table    if it has Number of Frames entries that ascend
    one frame of all fragments, or one fragment per frame    if the numbers agree
    the marks in the codestreams                             SOI, SOC, a JP2 or JPEG XL signature, an RLE header
    native lengths                                           Encapsulated Uncompressed

Reading a frame (`cut`) shows whether an offset leads to an item; if it does not, a scan replaces the table. A scan
reads headers only, and keeps 8 bytes for each fragment.
"""

from __future__ import annotations

import operator
import struct
from array import array
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING, Final

from engine.errors import FramesUnreadable

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .sources import Source

FRAGMENTS_MAX: Final = 1 << 22
"""Limit for one instance: whole slide images have a million tiles. A table of this size takes 32 MiB, a scan some
seconds."""

RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"
ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"

_ITEM: Final = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER: Final = b"\xfe\xff\xdd\xe0"
HEADER_BYTES: Final = 8
"""The header of an item: its tag and its length."""
_FAR_BYTES: Final = 512
_NEAR_BYTES: Final = 64 << 10
"""Bytes read at a time: among long fragments, and among short ones."""

_STARTS: Final = (
    b"\xff\xd8\xff",  # SOI of JPEG and JPEG-LS, and the start of the next marker
    b"\xff\x4f\xff\x51",  # SOC and SIZ of JPEG 2000 and HTJ2K
    b"\x00\x00\x00\x0cjP  ",  # JP2 signature box
    b"\xff\x0a",  # JPEG XL codestream
    b"\x00\x00\x00\x0cJXL ",  # JPEG XL container
)
_END: Final = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000."""
_END_BYTES: Final = 16
"""Zeros may follow an end."""
_RLE_HEADER: Final = struct.Struct("<16I")


class Fragments:
    """The items of one encapsulated value."""

    def __init__(self, starts: array[int], cut: str) -> None:
        self.starts = starts
        """Offset of each item's tag in the data set, and the end of the last item."""
        self.cut = cut
        """Why the value ends early; "" if it is whole."""

    def __len__(self) -> int:
        return len(self.starts) - 1


class FragmentStream:
    """The content of all fragments end to end, without their headers: a `Source` that can be read at any offset."""

    def __init__(self, source: Source, fragments: Fragments) -> None:
        self._source = source
        self._starts = fragments.starts
        self._first = fragments.starts[0]
        self._count = len(fragments)
        self.length = self._starts[-1] - self._first - HEADER_BYTES * self._count

    def read(self, offset: int, count: int) -> Buffer:
        """See `Source`."""
        count = max(min(count, self.length - offset), 0)
        number = bisect_right(range(self._count), offset, key=self._offset_of) - 1
        data = bytearray()
        while len(data) < count:
            within = offset + len(data) - self._offset_of(number)
            at = self._starts[number] + HEADER_BYTES + within
            piece = self._source.read(at, min(count - len(data), self._starts[number + 1] - at))
            if len(memoryview(piece)) == count:
                return piece
            data += piece
            number += 1
        return data

    def _offset_of(self, number: int) -> int:
        return self._starts[number] - self._first - HEADER_BYTES * number


class _Headers:
    """Reads the headers of items one after the other, in blocks of a size that fits their distance."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._block: Buffer = b""
        self._start = self._end = 0
        self._used = 0

    def at(self, offset: int) -> bytes:
        """The 8 bytes at an offset; fewer only at the end."""
        if not self._start <= offset <= self._end - HEADER_BYTES:
            self._block = self._source.read(offset, _NEAR_BYTES if self._used > 1 else _FAR_BYTES)
            self._start, self._end, self._used = offset, offset + len(memoryview(self._block)), 0
        self._used += 1
        return bytes(memoryview(self._block)[offset - self._start : offset - self._start + HEADER_BYTES])


def offset_table(source: Source, start: int) -> tuple[array[int], int]:
    """The Basic Offset Table at `start`, and the offset of the first fragment's item. Raises FramesUnreadable."""
    header = bytes(source.read(start, HEADER_BYTES))
    length = int.from_bytes(header[4:], "little")
    first = start + HEADER_BYTES + length
    if header[:4] != _ITEM or len(header) < HEADER_BYTES or first > source.length:
        raise FramesUnreadable("Pixel Data (7FE0,0010) does not begin with a Basic Offset Table")
    if length > 4 * FRAGMENTS_MAX:
        return array("Q"), first
    value = bytes(source.read(start + HEADER_BYTES, length))
    return array("Q", struct.unpack(f"<{length // 4}I", value[: length // 4 * 4])), first


def scan(source: Source, first: int) -> Fragments:
    """All fragments from `first` on. Raises FramesUnreadable when there are too many."""
    starts, headers, at = array("Q"), _Headers(source), first
    while True:
        header = headers.at(at)
        length = int.from_bytes(header[4:], "little")
        after = at + HEADER_BYTES + length
        if header[:4] != _ITEM or len(header) < HEADER_BYTES or after > source.length:
            starts.append(at)
            is_whole = header[:4] == _SEQUENCE_DELIMITER or at == source.length
            return Fragments(starts, "" if is_whole else f"Pixel Data (7FE0,0010) is cut or malformed at offset {at}")
        if len(starts) == FRAGMENTS_MAX:
            raise FramesUnreadable(f"Pixel Data (7FE0,0010) has more than {FRAGMENTS_MAX} fragments")
        starts.append(at)
        at = after


def by_table(source: Source, offsets: array[int], count: int, first: int) -> array[int] | None:
    """The start of each frame by an offset table, and the end of the last; None if the table cannot be right."""
    if len(offsets) != count or offsets[0] or not all(map(operator.lt, offsets, islice(offsets, 1, None))):
        return None
    if first + offsets[-1] + HEADER_BYTES > source.length:
        return None
    starts = array("Q", (first + offset for offset in offsets))
    last = scan(source, starts[-1])
    if not len(last) or last.cut:
        return None
    starts.append(last.starts[-1])
    return starts


def by_fragments(
    source: Source, fragments: Fragments, count: int, syntax_uid: str, native_bytes: int
) -> tuple[array[int], str]:
    """The start of each frame by the content of the fragments, and the reason if there are fewer than `count` frames.

    `native_bytes`: of one frame, without padding. Raises FramesUnreadable.
    """
    starts = fragments.starts
    if count == 1 or not len(fragments):
        is_there = len(fragments) and not fragments.cut
        return (array("Q", (starts[0], starts[-1])) if is_there else array("Q", starts[:1])), fragments.cut
    if len(fragments) == count:
        return starts, fragments.cut
    if syntax_uid == ENCAPSULATED_UNCOMPRESSED:
        frames = _by_length(starts, native_bytes)
    else:
        frames = _by_marks(source, starts, count, syntax_uid)
    if len(frames) - 1 == count:
        return frames, fragments.cut
    numbers = f"{len(fragments)} fragments hold {len(frames) - 1} frames, but Number of Frames (0028,0008) is {count}"
    if len(frames) == len(starts) and len(fragments) < count:
        return frames, fragments.cut or numbers
    raise FramesUnreadable(f"its frames cannot be found without a correct offset table: {numbers}")


def _by_length(starts: array[int], native_bytes: int) -> array[int]:
    frames, length = array("Q", starts[:1]), 0
    for number in range(len(starts) - 1):
        length += starts[number + 1] - starts[number] - HEADER_BYTES
        if length >= native_bytes:
            frames.append(starts[number + 1])
            length = 0
    return frames


def _by_marks(source: Source, starts: array[int], count: int, syntax_uid: str) -> array[int]:
    begins = _begins_rle if syntax_uid == RLE_LOSSLESS else _begins_codestream
    numbers = array("Q")
    for number in range(len(starts) - 1):
        content = min(64, starts[number + 1] - starts[number] - HEADER_BYTES)
        if begins(bytes(source.read(starts[number] + HEADER_BYTES, content))):
            numbers.append(number)
    if len(numbers) > count:
        # A false beginning within a frame does not follow the end of a codestream.
        numbers = array("Q", [number for number in numbers if number == 0 or _is_ended(source, starts, number)])
    if not numbers or numbers[0]:
        raise FramesUnreadable("its first fragment does not begin a frame")
    frames = array("Q", [starts[number] for number in numbers])
    frames.append(starts[-1])
    return frames


def _is_ended(source: Source, starts: array[int], number: int) -> bool:
    """Whether the fragment before this one ends a codestream."""
    before = starts[number - 1] + HEADER_BYTES
    count = min(_END_BYTES, starts[number] - before)
    return bytes(source.read(starts[number] - count, count)).rstrip(b"\0").endswith(_END)


def _begins_codestream(content: bytes) -> bool:
    return content.startswith(_STARTS)


def _begins_rle(content: bytes) -> bool:
    """Whether this is the header of PS3.5 G.5: the number of segments, and that many ascending offsets from 64 on."""
    if len(content) < _RLE_HEADER.size:
        return False
    count, *offsets = _RLE_HEADER.unpack(content)
    used, unused = offsets[:count], offsets[count:]
    return 0 < count <= 15 and used[0] == 64 and sorted(set(used)) == used and not any(unused)


def single_item_length(source: Source, start: int, end: int) -> int:
    """The length of the content if exactly one item fills `start` to `end`; else -1."""
    header = bytes(source.read(start, HEADER_BYTES))
    length = int.from_bytes(header[4:], "little")
    return length if header[:4] == _ITEM and start + HEADER_BYTES + length == end else -1


def cut(region: memoryview, length: int | None) -> memoryview:
    """The joined content of the items that fill `region`. `length`: its length by an offset table.

    Raises FramesUnreadable when `region` does not hold items: the table is wrong.
    """
    pieces: list[memoryview] = []
    at = 0
    while at < len(region):
        after = at + HEADER_BYTES + int.from_bytes(region[at + 4 : at + HEADER_BYTES], "little")
        if bytes(region[at : at + 4]) != _ITEM or after > len(region):
            raise FramesUnreadable("the offset table does not lead to the items of a frame")
        pieces.append(region[at + HEADER_BYTES : after])
        at = after
    frame = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
    if length is None:
        return frame
    if not len(frame) - 1 <= length <= len(frame):
        raise FramesUnreadable("the Extended Offset Table gives another length than the item has")
    return frame[:length]
