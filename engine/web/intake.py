"""The asyncio protocol of an HTTP connection: passes received bytes to aiohttp's parser, or directly to a body.

aiohttp's own protocol gets a new bytes object for each read. This one reads into memory that all connections of a front
share, or into the memory of the body (`direct_body`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.web.connection import HttpConnection

HEAD_BYTES: Final = 16 << 10
"""The maximum of one read while a head is expected: a longer read would include body bytes, which cost another copy."""
READ_BYTES: Final = 256 << 10


class Scratch:
    """The memory into which connections read; empty between two calls."""

    def __init__(self) -> None:
        self.whole = memoryview(bytearray(READ_BYTES))
        self.short = self.whole[:HEAD_BYTES]


class Intake(asyncio.BufferedProtocol):
    """The protocol of a transport."""

    def __init__(self, connection: HttpConnection, scratch: Scratch) -> None:
        self._connection = connection
        self._scratch = scratch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the connection is established, with TLS after the handshake."""
        self._connection.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called when the connection was closed by either side."""
        self._connection.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> Buffer:
        """The memory for the next bytes."""
        body = self._connection.direct_body
        if body is not None:
            return body.get_buffer(self._scratch.whole)
        return self._scratch.short if self._connection.is_idle else self._scratch.whole

    def buffer_updated(self, nbytes: int) -> None:
        """Called when so many bytes were received."""
        connection = self._connection
        body = connection.direct_body
        connection.received(nbytes)
        if body is not None:
            body.buffer_updated(nbytes)
        else:
            connection.data_received(bytes(self._scratch.whole[:nbytes]))

    def eof_received(self) -> bool:
        """Called when the client has ended its side; returns whether the transport stays open for an answer."""
        return self._connection.half_closed()

    def pause_writing(self) -> None:
        """Called when the kernel accepts no more bytes."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Called when the kernel accepts bytes again."""
        self._connection.resume_writing()
