"""Sources of the bytes of a data set that is not all in memory: read them at any offset, a piece at a time.

Opens no files; `archive.retrieve.StoredInstance` is a source too. Reading forward is cheap for all sources; going back
is expensive for an inflated one.
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
"""Limit for the inflated length, for any compressed length."""
INFLATED_RATIO_MAX: Final = 20
"""A longer result may have this many times the compressed length. Images reach 2 to 4, masks and text 10. Deflate
reaches 1 032, so a bomb of half a megabyte would inflate to half a gigabyte."""

_STEP_BYTES: Final = 64 << 10


class Source(Protocol):
    """Bytes by offset."""

    @property
    def length(self) -> int:
        """The number of bytes."""

    def read(self, offset: int, count: int) -> Buffer:
        """`count` bytes at `offset`; fewer only at the end. Valid until the next call."""


class Whole:
    """Bytes in memory."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")
        self.length = self._view.nbytes

    def read(self, offset: int, count: int) -> memoryview:
        """See `Source`."""
        return self._view[offset : offset + count]


class Part:
    """A range of another source."""

    def __init__(self, source: Source, start: int, end: int | None = None) -> None:
        self._source = source
        self._start = start
        self.length = (source.length if end is None else end) - start

    def read(self, offset: int, count: int) -> Buffer:
        """See `Source`."""
        return self._source.read(self._start + offset, max(min(count, self.length - offset), 0))


class Concatenation:
    """Several sources end to end."""

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
    """The content of a raw deflate stream (PS3.5 A.5). Inflates it once first, to learn its length and check it."""

    def __init__(self, source: Source, bytes_max: int | None = None) -> None:
        """Raises TranscodeError when the stream is damaged or ends early, or exceeds `bytes_max` or the ratio."""
        self._source = source
        limit = max(INFLATED_FREELY_BYTES, INFLATED_RATIO_MAX * source.length)
        self._bytes_max = limit if bytes_max is None else min(limit, bytes_max)
        self.length = sum(map(len, self._inflate()))
        self._pieces, self._start, self._window = self._inflate(), 0, b""

    def read(self, offset: int, count: int) -> memoryview:
        """See `Source`."""
        if offset < self._start:
            self._pieces, self._start, self._window = self._inflate(), 0, b""
        while offset + count > self._start + len(self._window):
            piece = next(self._pieces, None)
            if piece is None:
                break
            passed = min(max(offset - self._start, 0), len(self._window))
            self._window = self._window[passed:] + piece
            self._start += passed
        return memoryview(self._window)[max(offset - self._start, 0) :][:count]

    def _inflate(self) -> Iterator[bytes]:
        """Inflates in small steps of input and output, so that the limit holds and no byte is copied twice."""
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        at = length = 0
        try:
            while at < self._source.length and not inflater.eof:
                pending: Buffer = bytes(self._source.read(at, _STEP_BYTES))
                at += _STEP_BYTES
                is_full = False
                # After a full piece the inflater may still hold output, even with no input left.
                while (pending or is_full) and not inflater.eof:
                    piece = inflater.decompress(pending, PIECE_BYTES)
                    is_full = len(piece) == PIECE_BYTES
                    length += len(piece)
                    if length > self._bytes_max:
                        raise TranscodeError(f"the deflated data set has more than {self._bytes_max} bytes")
                    pending = inflater.unconsumed_tail
                    yield piece
        except zlib.error as error:
            raise TranscodeError(f"the deflated data set cannot be inflated: {error}") from None
        if not inflater.eof:
            raise TranscodeError("the deflated data set ends early")
