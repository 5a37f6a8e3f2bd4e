"""Content: bytes of an answer that need not be in memory, produced piece by piece for a client that may be slow.

    Content   length (None: not known before the end), chunks from one offset to another
    Part      one content with its media type and URL

Bytes in the page cache are read on the loop, without a thread; others in the pool `reads`. A stored instance that is
sent as a whole is verified: its last piece is held back until the checksum was correct, so that no client gets a
complete answer with damaged bytes. A read error ends the answer early, which every client treats as a failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from engine.archive.retrieve import StoredInstance

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.dicom.sources import Source
    from engine.runtime.pools import ThreadPool

PIECE_BYTES: Final = 512 << 10
"""Bytes that a request reads at a time; for a slow client two such pieces are in memory."""
WHOLE_BYTES_MAX: Final = 2 * PIECE_BYTES
"""Up to two pieces are read as one, so that an instance of 512 KiB and a header has no second, small piece."""


class Content(Protocol):
    """Bytes that are produced on demand."""

    has_ranges: bool
    """Whether `chunks` may begin and end anywhere."""

    @property
    def length(self) -> int | None:
        """The number of bytes."""

    def chunks(self, start: int, stop: int | None) -> AsyncIterator[Buffer]:
        """The bytes from `start` to `stop` (exclusive); None: to the end. Raises EngineError."""


@dataclass(frozen=True, slots=True)
class Part:
    """One body, or one part of a multipart body."""

    content: Content
    content_type: str
    location: str = ""
    """Its URL."""


class Memory:
    """Bytes in memory."""

    has_ranges = True

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data)
        self.length = self._view.nbytes

    async def chunks(self, start: int, stop: int | None) -> AsyncIterator[Buffer]:
        """See `Content`."""
        yield self._view[start:stop]


class Ranges:
    """Some bytes in memory, followed by those of a source."""

    has_ranges = True

    def __init__(
        self, reads: ThreadPool, source: Source, before: bytes = b"", finish: Callable[[], None] | None = None
    ) -> None:
        """`finish`: called before the last bytes are yielded when all were read; it verifies them and raises."""
        self._reads = reads
        self._source = source
        self._before = before
        self._finish = finish
        self.length = len(before) + source.length

    async def chunks(self, start: int, stop: int | None) -> AsyncIterator[Buffer]:
        """See `Content`."""
        stop = self.length if stop is None else stop
        head, finish = len(self._before), self._finish if (start, stop) == (0, self.length) else None
        if start < head:
            yield self._before[start:stop]
        at, end = max(start - head, 0), stop - head
        while at < end:
            count = end - at if end - at <= WHOLE_BYTES_MAX else PIECE_BYTES
            piece = await self._read(at, count)
            at += count
            if at >= end and finish is not None:
                if isinstance(self._source, StoredInstance) and self._source.is_read:
                    finish()  # only compares two numbers
                else:
                    await self._reads.run(finish)
            yield piece

    async def _read(self, offset: int, count: int) -> Buffer:
        source = self._source
        if isinstance(source, StoredInstance):
            piece = source.read_cached(offset, count)
            if piece is not None:
                return piece
        return await self._reads.run(lambda: bytes(source.read(offset, count)))

    @property
    def whole_instance(self) -> tuple[bytes, StoredInstance] | None:
        """The bytes before a stored instance, and the instance; None unless it is sent as a whole and verified."""
        source = self._source
        return (self._before, source) if self._finish is not None and isinstance(source, StoredInstance) else None


class PieceStream:
    """Bytes that are generated while they are sent; a client cannot request a range of them."""

    has_ranges = False

    def __init__(
        self,
        reads: ThreadPool,
        pieces: Iterator[Buffer],
        length: int | None = None,
        before: bytes = b"",
        finish: Callable[[], None] | None = None,
    ) -> None:
        self._reads = reads
        self.length = length
        self._pieces = pieces
        self._before = before
        self._finish = finish

    async def chunks(self, start: int, stop: int | None) -> AsyncIterator[Buffer]:
        """See `Content`; always all bytes."""
        if self._before:
            yield self._before
        piece = await self._next()
        while piece is not None:
            following = await self._next()
            if following is None and self._finish is not None:
                await self._reads.run(self._finish)
            yield piece
            piece = following

    async def _next(self) -> bytes | None:
        def read() -> bytes | None:
            piece = next(self._pieces, None)
            return None if piece is None else bytes(piece)

        return await self._reads.run(read)
