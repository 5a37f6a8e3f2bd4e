"""Messages between supervisor and worker: one JSON object a datagram on a SOCK_SEQPACKET pair, at most one descriptor.

supervisor → worker   start {number} + the descriptor of the workers' memory   config {config, version, origins}
                      accept {front, host, serial} + the connection's descriptor   drain {limit_s}
                      ask {request, topic}   answer {request, answer}
worker → supervisor   configured {version}   ready   handled {taken, closed}   full {serial}   failed {error}
                      answer {request, answer}   ask {request, topic, …}

A message may have any length: one that is longer than INLINE_BYTES_MAX lies in a memory file whose descriptor the
datagram carries. Messages arrive in order, and none is lost: when the kernel's buffer is full, they wait here until
there is room. Only the end of the other process raises ChannelClosed. The one exception is a receiver without free
descriptors: it gets "lost" for a long message, which is then sent again (`child.Child.is_behind`).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

INLINE_BYTES_MAX = 1024
"""Fits into the smallest buffer that a kernel gives to a socket, whatever net.core.wmem_max is."""

DATAGRAM_BYTES_MAX = 4 << 10
"""More than INLINE_BYTES_MAX. Python allocates so much for each message, and large pieces cost the C library time."""

_FULL = {errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE}
"""Errors of a temporary lack of buffers, memory or descriptors. The same message may fit a moment later."""


class ChannelClosed(Exception):
    """The process at the other end has ended."""


class Channel:
    """One end of a channel. It does not block unless `set_blocking` says so.

    After `on_backlog` was called, call `flush` until it returns True.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._waiting: deque[tuple[str, bytes, int | None]] = deque()
        self.on_backlog: Callable[[], None] = lambda: None
        """Called when the first message has to wait."""

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """Our end, and the socket that a child process inherits. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return Channel(ours), theirs

    @staticmethod
    def inherited(fd: int) -> Channel:
        """The child's end."""
        return Channel(socket.socket(fileno=fd))

    @property
    def backlog(self) -> int:
        """Messages that wait here."""
        return len(self._waiting)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        """Sets whether `receive` waits."""
        self._socket.setblocking(blocking)

    def send(self, kind: str, *, fd: int | None = None, **fields: object) -> None:
        """Sends one message, now or when there is room; `fd` stays the caller's and must stay open until then.

        Raises ChannelClosed.
        """
        self._waiting.append((kind, orjson.dumps({"kind": kind, **fields}), fd))
        if len(self._waiting) == 1 and not self.flush():
            self.on_backlog()

    def send_latest(self, kind: str, **fields: object) -> None:
        """Like `send`, and drops an older message of the same kind that still waits."""
        self._waiting = deque(message for message in self._waiting if message[0] != kind)
        self.send(kind, fd=None, **fields)

    def offer(self, kind: str, *, fd: int | None = None, **fields: object) -> bool:
        """Sends one message if there is room now; else returns False and forgets it. Raises ChannelClosed."""
        return not self._waiting and self._put(orjson.dumps({"kind": kind, **fields}), fd)

    def flush(self) -> bool:
        """Sends waiting messages; returns whether all are sent. Raises ChannelClosed."""
        while self._waiting:
            _, data, fd = self._waiting[0]
            if not self._put(data, fd):
                return False
            self._waiting.popleft()
        return True

    def receive(self) -> tuple[dict[str, Any], int | None] | None:
        """The next message and its descriptor; None when there is none yet. Raises ChannelClosed."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                DATAGRAM_BYTES_MAX, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
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
        fd = fds[0] if fds else None
        message = orjson.loads(data)
        if message["kind"] != "long":
            return message, fd
        if fd is None:
            # The kernel drops the descriptor if this process has none free: the sender sends the message again.
            return {"kind": "lost"}, None
        with open(fd, "rb") as file:
            file.seek(0)
            return orjson.loads(file.read()), None

    def close(self) -> None:
        """Closes this end and drops waiting messages."""
        self._waiting.clear()
        self._socket.close()

    def _put(self, data: bytes, fd: int | None) -> bool:
        """Returns whether the kernel accepted the message. Raises ChannelClosed."""
        try:
            if len(data) <= INLINE_BYTES_MAX:
                self._sendmsg(data, fd)
            else:
                assert fd is None, "a long message takes the place of the descriptor"
                with open(os.memfd_create("filmroom-message", os.MFD_CLOEXEC), "w+b") as file:
                    file.write(data)
                    file.flush()
                    self._sendmsg(b'{"kind":"long"}', file.fileno())
        except OSError as error:
            if error.errno in _FULL:
                return False
            self._waiting.clear()
            raise ChannelClosed(str(error)) from error
        return True

    def _sendmsg(self, data: bytes, fd: int | None) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self._socket.sendmsg([data], ancillary)
