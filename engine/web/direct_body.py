"""A request's body that bypasses aiohttp: the kernel writes it to the memory where it is parsed.

    head ─► aiohttp's parser; bytes received after it are held here, and reading pauses
    handler calls `begin`     the held bytes are copied, the rest is received in place
    handler ends              the rest of the body is read and dropped

The body of a short store begins without a handler (`quick_stores`); one that comes later goes on with its reader.

A handler that is slower than its client makes the client wait: at most READ_AHEAD_BYTES are read before the handler
asks for events. Bodies of unknown length (chunked) are read by aiohttp.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.web.multipart import Event, Reader

READ_AHEAD_BYTES: Final = 2 << 20


class BodyConnection(Protocol):
    """What a body needs of the connection."""

    def pause_body(self) -> None:
        """Pauses reading from the socket."""

    def resume_body(self) -> None:
        """Resumes reading from the socket."""

    def body_ended(self, length: int) -> None:
        """Called when all `length` bytes of the body have been read from the socket."""

    def part_ended(self) -> None:
        """Called when a part of the body has been read, and more of it comes."""


class DirectBody:
    """One body."""

    def __init__(self, connection: BodyConnection, length: int, beginning: bytes) -> None:
        """`beginning`: the bytes received with the head; `length`: of the whole body."""
        self.length = length
        self.is_paused = False
        """Whether reading is paused because the handler is slow."""
        self._connection = connection
        self._beginning = beginning
        self._remaining = length - len(beginning)
        """Bytes to read from the socket."""
        self.reader: Reader | None = None
        """None before `begin` and after `drop`."""
        self._is_dropped = False
        self._since_asked = 0
        self._waiter: asyncio.Future[None] | None = None

    # -- the handler's side -----------------------------------------------------------------------

    def begin(self, reader: Reader) -> None:
        """Writes the body to this reader from now on."""
        self.reader = reader
        reader.expect(self.length)
        if self._beginning:
            reader.write(self._beginning)
            self._beginning = b""
            if self._remaining and reader.has_part:
                self._connection.part_ended()

    async def events(self) -> list[Event]:
        """The events since the last call; waits for one. Empty: the body has ended. Raises MultipartError."""
        assert self.reader is not None
        self._since_asked = 0
        while not (events := self.reader.events()) and self._remaining:
            self._resume()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return events

    # -- the connection's side ----------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether the whole body has been read from the socket."""
        return not self._remaining

    def pause(self) -> None:
        """Pauses reading until the handler asks for events."""
        if not self.is_paused:
            self.is_paused = True
            self._connection.pause_body()

    def get_buffer(self, scratch: memoryview) -> Buffer:
        """The memory for the next bytes: the reader's, or `scratch` if the body is dropped."""
        if self.reader is None:
            assert self._is_dropped, "the body was read before `begin`"
            return scratch[: self._remaining]
        buffer: Buffer = self.reader.get_buffer(0)
        return buffer

    def buffer_updated(self, count: int) -> None:
        """Called when so many bytes were received."""
        self._remaining -= count
        waiting = self.reader.buffer_updated(count) if self.reader is not None else 0
        if not self._remaining:
            self._connection.body_ended(self.length)
        else:
            self._since_asked += count
            if waiting and self._since_asked > READ_AHEAD_BYTES:
                self.pause()  # without events the handler waits for us
            if waiting > 1:
                self._connection.part_ended()
        if (waiting or not self._remaining) and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drop(self) -> None:
        """Drops the rest of the body."""
        self.reader, self._beginning, self._is_dropped = None, b"", True
        if self._remaining:
            self._resume()

    def _resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._connection.resume_body()
