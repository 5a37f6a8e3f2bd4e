"""Messages between supervisor and worker: one JSON object a datagram on a SOCK_SEQPACKET pair, at most one descriptor.

supervisor → worker   config {config, number} + the roster's descriptor   accept {host, serial} + descriptor
                      reload {config}   stats {request}   drain {limit_s}
worker → supervisor   ready   taken {serial}   full {serial}   closed   stats {request, stats}   failed {error}
                      drained
"""

from __future__ import annotations

import array
import os
import socket
from typing import Any

import orjson

MESSAGE_BYTES_MAX = 4 << 20
"""The statistics of a thousand peers and a configuration of as many take some hundred KiB."""


class ChannelClosed(Exception):
    """The process at the other end is gone."""


class Channel:
    """One end. The receiving side does not block; a message is sent whole or the other end is taken for gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, MESSAGE_BYTES_MAX)

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """Our end, and the socket that a child process inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return Channel(ours), theirs

    @staticmethod
    def inherited(fd: int) -> Channel:
        """A child's end."""
        return Channel(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        """Whether `receive` waits."""
        self._socket.setblocking(blocking)

    def send(self, kind: str, *, fd: int | None = None, **fields: object) -> None:
        """Sends one message. Raises ChannelClosed."""
        data = orjson.dumps({"kind": kind, **fields})
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        try:
            self._socket.sendmsg([data], ancillary)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> tuple[dict[str, Any], int | None] | None:
        """The next message and its descriptor; None when there is none yet. Raises ChannelClosed."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                MESSAGE_BYTES_MAX, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("end of file")
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        for extra in fds[1:]:
            os.close(extra)
        return orjson.loads(data), fds[0] if fds else None

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()
