"""Sends from the page cache into a client's socket, past asyncio's transport.

This is possible while the transport has nothing to write, and without TLS. Nothing here blocks: bytes that the kernel
does not accept at once are written to the transport.

    fill     one read, one send: for what is checked, encrypted or short
    refer    sendfile: nobody reads the bytes, and their pages go from the page cache to the network

All connections of a process share one buffer: the bytes of a message are still in the processor's cache when the kernel
copies them, and the next message is read to the same place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from engine import log
from engine._ext.send_buffer import SendBuffer
from engine.errors import CorruptRecord, StorageError, for_log

if TYPE_CHECKING:
    import asyncio

    from engine.archive.retrieve import StoredInstance

logger = log.get("web.outlet")

UNSENT_BYTES_MAX: Final = 1 << 20
"""Bytes of answers that the kernel has not accepted, above which a handler waits."""
MESSAGE_BYTES_MAX: Final = UNSENT_BYTES_MAX
"""The maximum of one message, since the kernel may accept none of its bytes."""


REFERRED_BYTES_MIN: Final = 32 << 10
"""Of a file: a shorter copy costs less than the system calls for what is around it."""


class Connection(Protocol):
    """What an `Outlet` needs of a client's connection."""

    transport: asyncio.Transport | None
    socket_fd: int

    @property
    def is_direct(self) -> bool:
        """Whether bytes may be written to `socket_fd`: the transport has no pending bytes."""

    def hold_unsent(self, bytes_max: int) -> None:
        """Sets the number of bytes not yet accepted by the kernel above which `drain` waits."""


class Outlet:
    """One for each process. Not thread-safe: `fill` and `send` belong together."""

    def __init__(self) -> None:
        self._buffer = SendBuffer(MESSAGE_BYTES_MAX)

    @staticmethod
    def fits(length: int) -> bool:
        """Whether the buffer can hold a message of this length."""
        return length <= MESSAGE_BYTES_MAX

    def fill(self, before: bytes, stored: StoredInstance, offset: int, count: int, after: bytes) -> bool:
        """Prepares a message: `count` bytes at `offset` of a data set, between `before` and `after`.

        Returns False if the bytes are not in the page cache or cannot be read: the message must be sent another way.
        """
        try:
            segment = stored.segment()
        except (CorruptRecord, StorageError):
            return False
        position = stored.instance.position
        if position.is_encrypted:
            return stored.fill_cached([self._buffer.lay_out(before, count, after)], offset)
        return self._buffer.fill(before, segment.fd, position.payload_offset + offset, count, after)

    def refer(self, before: bytes, stored: StoredInstance, offset: int, count: int, after: bytes) -> bool:
        """As `fill`, for a message whose checksum is not asked for: the bytes are not read if they are many."""
        position = stored.instance.position
        if count >= REFERRED_BYTES_MIN and not position.is_encrypted:
            try:
                segment = stored.segment()
            except (CorruptRecord, StorageError):
                return False
            if self._buffer.refer(before, segment.fd, position.payload_offset + offset, count, after):
                return True
        return self.fill(before, stored, offset, count, after)

    def crc(self) -> int:
        """The checksum of the data set's bytes in the message, after `fill`."""
        return self._buffer.crc()

    def send(self, connection: Connection) -> int:
        """Sends the message; returns its length. Only while `connection.is_direct`."""
        buffer = self._buffer
        sent = buffer.send(connection.socket_fd)
        if sent < buffer.length:
            transport = connection.transport
            assert transport is not None
            try:
                transport.write(buffer.rest(sent))
            except OSError as error:
                logger.error("answer aborted", error=for_log(error))
                transport.abort()
                return sent
        return buffer.length
