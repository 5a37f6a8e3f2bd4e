"""Decides whether a peer receives fast enough, by the bytes that its system has acknowledged.

`Delivery` is pure: it gets the time as an argument and reads no clock or socket. How much our kernel takes from us says
little about the peer, since the kernel buffers megabytes for a slow line; `acknowledged_bytes` and `undelivered_bytes`
ask the kernel.

    pending     some sent bytes are not acknowledged. Only such time counts: a peer may pause when it has everything
    too slow    in the last `window_s` of pending time fewer bytes arrived than the rate requires. An earlier burst,
                which went into the buffer of the peer's kernel, does not count
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import deque

_BYTES_ACKED = struct.Struct("=120xQ")
"""Where struct tcp_info of Linux has tcpi_bytes_acked (RFC 4898 tcpEStatsAppHCThruOctetsAcked)."""

_BYTES_RECEIVED = struct.Struct("=128xQ")
"""Where it has tcpi_bytes_received."""

_INET = frozenset({socket.AF_INET, socket.AF_INET6})

WINDOW_SHARE = 0.9
"""The part of a timeout over which the rate is measured, so that a stopped peer is detected within the timeout."""


class Delivery:
    """One direction of one association."""

    def __init__(self, rate_bytes_per_s_min: int, window_s: float) -> None:
        """`rate_bytes_per_s_min` 0: nothing is too slow."""
        self._rate = rate_bytes_per_s_min
        self._window_s = window_s
        self._checked_at = 0.0
        self._was_pending = False
        self._pending_s = 0.0
        self._samples: deque[tuple[float, int]] = deque()
        """Pending time so far and bytes delivered by then, for each check within the window."""

    def is_too_slow(self, now: float, delivered: int, *, pending: bool) -> bool:
        """Call this at least once in each second of pending time; `delivered`: bytes so far."""
        if self._was_pending:
            self._pending_s += now - self._checked_at
        self._checked_at, self._was_pending = now, pending
        samples = self._samples
        if not samples or samples[-1][0] < self._pending_s:
            samples.append((self._pending_s, delivered))
        while len(samples) > 1 and samples[1][0] <= self._pending_s - self._window_s:
            samples.popleft()
        measured_s = self._pending_s - samples[0][0]
        return pending and measured_s >= self._window_s and delivered - samples[0][1] < self._rate * measured_s


def acknowledged_bytes(sock: socket.socket) -> int | None:
    """Bytes that the peer's system has acknowledged since the connection was made; None: not a TCP socket."""
    if sock.family not in _INET:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
    except OSError:
        return 0  # the socket is being closed
    acknowledged: int = _BYTES_ACKED.unpack(info)[0]
    return acknowledged


def undelivered_bytes(sock: socket.socket) -> int:
    """Bytes in the kernel's send buffer that the peer's system has not acknowledged."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0  # the socket is being closed
    return int.from_bytes(answer, "little")


def read_bytes(sock: socket.socket) -> int:
    """Bytes that we have read from the socket since the connection was made."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
        unread = fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0")
    except OSError:
        return 0  # the socket is being closed
    received: int = _BYTES_RECEIVED.unpack(info)[0]
    return received - int.from_bytes(unread, "little")
