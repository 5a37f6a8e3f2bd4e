"""Whether a peer takes what it is sent fast enough, by what its system has acknowledged.

`Delivery` is pure: it is told the time and looks at nothing itself. What the kernel takes from us says little about the
peer, since it holds megabytes for a slow line; `acknowledged_bytes` and `undelivered_bytes` ask the kernel.

    pending     something that was sent is not acknowledged. Only such time counts: a peer may think about what it has
    too slow    in the last `window_s` of pending time less came through than the rate asks for: a burst before it,
                which the peer's kernel took into its own buffer, does not help
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import deque

_BYTES_ACKED = struct.Struct("=120xQ")
"""Where struct tcp_info of Linux has tcpi_bytes_acked (RFC 4898 tcpEStatsAppHCThruOctetsAcked)."""

_INET = frozenset({socket.AF_INET, socket.AF_INET6})

WINDOW_SHARE = 0.9
"""The part of a timeout over which the rate is measured, so that a peer that stops is given up within the timeout."""


class Delivery:
    """One direction of one association."""

    def __init__(self, rate_bytes_per_s_min: int, window_s: float) -> None:
        """`rate_bytes_per_s_min` 0: nothing is too slow."""
        self._rate = rate_bytes_per_s_min
        self._window_s = window_s
        self._looked_at = 0.0
        self._was_pending = False
        self._pending_s = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        """Pending time so far and bytes delivered by then, once a look, over the window."""

    def is_too_slow(self, now: float, delivered: int, *, pending: bool) -> bool:
        """Told now and then, at least whenever a second of pending time has passed; `delivered`: bytes so far."""
        if self._was_pending:
            self._pending_s += now - self._looked_at
        self._looked_at, self._was_pending = now, pending
        seen = self._seen
        if not seen or seen[-1][0] < self._pending_s:
            seen.append((self._pending_s, delivered))
        while len(seen) > 1 and seen[1][0] <= self._pending_s - self._window_s:
            seen.popleft()
        measured_s = self._pending_s - seen[0][0]
        return pending and measured_s >= self._window_s and delivered - seen[0][1] < self._rate * measured_s


def acknowledged_bytes(sock: socket.socket) -> int | None:
    """What the peer's system has acknowledged since the connection was made; None: no TCP, which alone tells."""
    if sock.family not in _INET:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
    except OSError:
        return 0  # it is being closed
    acknowledged: int = _BYTES_ACKED.unpack(info)[0]
    return acknowledged


def undelivered_bytes(sock: socket.socket) -> int:
    """What the kernel holds that the peer's system has not acknowledged."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0  # it is being closed
    return int.from_bytes(answer, "little")
