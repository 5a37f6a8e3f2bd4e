"""Where the bytes of one HTTP connection go: to aiohttp's parser, or straight into the body that a handler takes.

aiohttp's own protocol gets each read as an object of bytes of its own. This one stands before it and reads into memory
that all connections of a front share, or into that of the body (`direct_body`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.web.connection import HttpConnection

HEAD_BYTES: Final = 16 << 10
"""Read at once where a head is due: longer reads would bring a body with it, which would be copied once more."""
READ_BYTES: Final = 256 << 10


class Scratch:
    """What connections read into; empty between two calls."""

    def __init__(self) -> None:
        self.whole = memoryview(bytearray(READ_BYTES))
        self.short = self.whole[:HEAD_BYTES]


class Intake(asyncio.BufferedProtocol):
    """The transport's protocol."""

    def __init__(self, connection: HttpConnection, scratch: Scratch) -> None:
        self._connection = connection
        self._scratch = scratch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, after the handshake where there is one."""
        self._connection.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone, by whichever side."""
        self._connection.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> Buffer:
        """Where the next bytes go."""
        body = self._connection.direct_body
        if body is not None:
            return body.get_buffer(self._scratch.whole)
        return self._scratch.short if self._connection.is_idle else self._scratch.whole

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have come."""
        connection = self._connection
        body = connection.direct_body
        connection.received(nbytes)
        if body is not None:
            body.buffer_updated(nbytes)
        else:
            connection.data_received(bytes(self._scratch.whole[:nbytes]))

    def eof_received(self) -> None:
        """The client sends nothing more: the transport closes."""
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """More is to be sent than the kernel takes."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self._connection.resume_writing()
