"""The short way out: from the page cache into a client's socket with one read and one send, past its transport.

A message goes this way while the transport of its connection has nothing to write, and TLS is not spoken. Nothing here
waits: what the kernel does not take at once the transport gets, and sends it as everything else.

One buffer serves all connections of a process: the bytes of a message are still in the processor's cache when the
kernel copies them, and the next one is read to the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from engine._ext.send_buffer import SendBuffer
from engine.errors import CorruptRecord, StorageError

if TYPE_CHECKING:
    import asyncio

    from engine.archive.retrieve import StoredInstance

UNSENT_BYTES_MAX: Final = 1 << 20
"""Bytes of answers that the kernel has not taken, above which a handler waits."""
MESSAGE_BYTES_MAX: Final = UNSENT_BYTES_MAX
"""Of one message, none of which the kernel may have taken."""


class Connection(Protocol):
    """A client's connection, as far as messages go past its transport."""

    transport: asyncio.Transport | None
    socket_fd: int

    @property
    def is_direct(self) -> bool:
        """Whether bytes may be written to `socket_fd`: nothing that was written before waits."""

    def hold_unsent(self, bytes_max: int) -> None:
        """A handler that drains waits while the kernel has not taken more than so many bytes."""


class Outlet:
    """One for each process. Not thread-safe: `fill` and `send` belong together."""

    def __init__(self) -> None:
        self._buffer = SendBuffer(MESSAGE_BYTES_MAX)

    @staticmethod
    def fits(length: int) -> bool:
        """Whether a message of this length may go this way."""
        return length <= MESSAGE_BYTES_MAX

    def fill(self, before: bytes, stored: StoredInstance, offset: int, count: int, after: bytes) -> bool:
        """Prepares a message: `count` bytes at `offset` of a data set, with what stands around them.

        False: it has to go another way, since the bytes are not in the page cache or cannot be read.
        """
        try:
            segment = stored.segment()
        except (CorruptRecord, StorageError):
            return False
        position = stored.instance.position
        return self._buffer.fill(before, segment.fd, position.payload_offset + offset, count, after)

    def crc(self) -> int:
        """The checksum of the data set's bytes in the message."""
        return self._buffer.crc()

    def send(self, connection: Connection) -> int:
        """Sends the message; returns its length. Only while `connection.is_direct`."""
        buffer = self._buffer
        sent = buffer.send(connection.socket_fd)
        if sent < buffer.length:
            assert connection.transport is not None
            connection.transport.write(buffer.rest(sent))
        return buffer.length
