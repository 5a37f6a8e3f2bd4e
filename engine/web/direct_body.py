"""A request's body that goes past aiohttp: the kernel writes it to where it is taken apart.

    head ─► aiohttp's parser; what came behind it is held here, and reading pauses
    handler asks for the body (`begin`)         what is held is copied, the rest is received in place, as far as it goes
    handler is done, with the body or without   what is left is read and dropped

A handler that is slower than its client makes it wait: no more than READ_AHEAD_BYTES come before it asks for events.
Bodies whose length is not known (chunked) stay with aiohttp.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.web.multipart import Event, Reader

READ_AHEAD_BYTES: Final = 2 << 20


class Receiving(Protocol):
    """The connection, as far as bodies go."""

    def pause_body(self) -> None:
        """Nothing more is read from the socket."""

    def resume_body(self) -> None:
        """Reading goes on."""

    def body_ended(self, length: int) -> None:
        """All `length` bytes of the body have been read from the socket."""


class DirectBody:
    """One body."""

    def __init__(self, connection: Receiving, length: int, beginning: bytes) -> None:
        """`beginning`: what came with the head; `length`: of all, bytes."""
        self.length = length
        self.is_paused = False
        """Whether it is we who wait."""
        self._connection = connection
        self._beginning = beginning
        self._left = length - len(beginning)
        """To be read from the socket."""
        self._reader: Reader | None = None
        self._is_dropped = False
        self._since_asked = 0
        self._waiter: asyncio.Future[None] | None = None

    # -- the handler's side -----------------------------------------------------------------------

    def begin(self, reader: Reader) -> None:
        """From now on the body goes into the reader."""
        self._reader = reader
        reader.expect(self.length)
        if self._beginning:
            reader.write(self._beginning)
            self._beginning = b""

    async def events(self) -> list[Event]:
        """What has come since the last call; waits for something. Empty: the body has ended. Raises MultipartError."""
        assert self._reader is not None
        self._since_asked = 0
        while not (events := self._reader.events()) and self._left:
            self._resume()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return events

    # -- the connection's side ----------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether all of it has been read from the socket."""
        return not self._left

    def pause(self) -> None:
        """Waits for the handler."""
        if not self.is_paused:
            self.is_paused = True
            self._connection.pause_body()

    def get_buffer(self, scratch: memoryview) -> Buffer:
        """Where the next bytes go: the reader's memory, or the scratch of what is dropped."""
        if self._reader is None:
            assert self._is_dropped, "it was read before anybody asked for it"
            return scratch[: self._left]
        buffer: Buffer = self._reader.get_buffer(0)
        return buffer

    def buffer_updated(self, count: int) -> None:
        """So many bytes have come."""
        self._left -= count
        waiting = self._reader.buffer_updated(count) if self._reader is not None else 0
        if not self._left:
            self._connection.body_ended(self.length)
        else:
            self._since_asked += count
            if self._since_asked > READ_AHEAD_BYTES and self._reader is not None:
                self.pause()
        if (waiting or not self._left) and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drop(self) -> None:
        """Nobody wants what is left."""
        self._reader, self._beginning, self._is_dropped = None, b"", True
        if self._left:
            self._resume()

    def _resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._connection.resume_body()
