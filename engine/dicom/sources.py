"""Where the bytes of a data set come from, when they are not all in memory: read at any offset, a piece at a time.

Knows no files: a stored instance is `archive.retrieve.StoredInstance`. Reading on from where the last read ended is
cheap for all of them; reading back is not, for what is inflated.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

PIECE_BYTES: Final = 1 << 20

INFLATED_FREELY_BYTES: Final = 32 << 20
"""So much may come out of however little."""
INFLATED_RATIO_MAX: Final = 20
"""What comes out beyond that may be so many times what went in. Images give 2 to 4, masks and text 10; deflate reaches
1 032, so half a megabyte could stand for half a gigabyte, which is what bombs are made of."""

_STEP_BYTES: Final = 64 << 10


class Source(Protocol):
    """Bytes by offset."""

    @property
    def length(self) -> int:
        """All of them."""

    def read(self, offset: int, count: int) -> Buffer:
        """`count` bytes at `offset`, fewer only at the end. Good until the next call."""


class Whole:
    """Bytes that are in memory."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")
        self.length = self._view.nbytes

    def read(self, offset: int, count: int) -> memoryview:
        """See `Source`."""
        return self._view[offset : offset + count]


class Part:
    """Bytes of a source from an offset on."""

    def __init__(self, source: Source, start: int, end: int | None = None) -> None:
        self._source = source
        self._start = start
        self.length = (source.length if end is None else end) - start

    def read(self, offset: int, count: int) -> Buffer:
        """See `Source`."""
        return self._source.read(self._start + offset, max(min(count, self.length - offset), 0))


class Joined:
    """Sources end to end."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._ends: list[int] = []
        self.length = 0
        for source in sources:
            self.length += source.length
            self._ends.append(self.length)

    def read(self, offset: int, count: int) -> Buffer:
        """See `Source`."""
        number = bisect_right(self._ends, offset)
        if number == len(self._sources):
            return b""
        start = self._ends[number] - self._sources[number].length
        if min(offset + count, self.length) <= self._ends[number]:
            return self._sources[number].read(offset - start, count)
        data = bytearray(self._sources[number].read(offset - start, self._ends[number] - offset))
        return data + bytes(self.read(self._ends[number], count - len(data)))


class Inflated:
    """What comes out of a raw deflate stream (PS3.5 A.5). Inflates it once to know its length, and that it is whole."""

    def __init__(self, source: Source, bytes_max: int | None = None) -> None:
        """Raises TranscodeError when it is damaged, ends early, or more than `bytes_max`, or the ratio, comes out."""
        self._source = source
        limit = max(INFLATED_FREELY_BYTES, INFLATED_RATIO_MAX * source.length)
        self._bytes_max = limit if bytes_max is None else min(limit, bytes_max)
        self.length = sum(map(len, self._inflate()))
        self._pieces, self._start, self._held = self._inflate(), 0, b""

    def read(self, offset: int, count: int) -> memoryview:
        """See `Source`."""
        if offset < self._start:
            self._pieces, self._start, self._held = self._inflate(), 0, b""
        while offset + count > self._start + len(self._held):
            piece = next(self._pieces, None)
            if piece is None:
                break
            gone = min(max(offset - self._start, 0), len(self._held))
            self._held = self._held[gone:] + piece
            self._start += gone
        return memoryview(self._held)[max(offset - self._start, 0) :][:count]

    def _inflate(self) -> Iterator[bytes]:
        """In small steps on both sides, so that no more comes out than is allowed and nothing is copied again."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        at = length = 0
        try:
            while at < self._source.length and not inflater.eof:
                rest: Buffer = bytes(self._source.read(at, _STEP_BYTES))
                at += _STEP_BYTES
                is_full = False
                # A full piece may leave output behind though it took all input.
                while (rest or is_full) and not inflater.eof:
                    piece = inflater.decompress(rest, PIECE_BYTES)
                    is_full = len(piece) == PIECE_BYTES
                    length += len(piece)
                    if length > self._bytes_max:
                        raise TranscodeError(f"the deflated data set has more than {self._bytes_max} bytes")
                    rest = inflater.unconsumed_tail
                    yield piece
        except zlib.error as error:
            raise TranscodeError(f"the deflated data set cannot be inflated: {error}") from None
        if not inflater.eof:
            raise TranscodeError("the deflated data set ends early")
