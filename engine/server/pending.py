"""Connections that have not sent their first request. A connection that does not speak a port's protocol never reaches
a worker.

This module only peeks at the first bytes (MSG_PEEK), so that a worker receives them too; the port's judge
(`runtime.front`) decides what they are. A thousand silent connections cost a descriptor each and no time; the kernel
wakes us when as many bytes have arrived as we wait for (SO_RCVLOWAT), so that single bytes now and then cost nothing
either.

    a request                            handed over; a long one when its address is within its rate limit
    anything else                        closed, with the farewell of the judge's verdict
    closed by the peer, silent too long  closed
    too many connections                 the oldest connection of the address that has most is closed

A long request costs a worker milliseconds before the peer has proven anything, so an address gets only so many bytes
of them a second (`limits.associate_bytes_per_address_per_s_max`). Further long ones wait here, short ones never. A
health check, which connects and sends nothing or one byte, is counted but not logged.
"""

from __future__ import annotations

import array
import fcntl
import resource
import select
import socket
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import log
from engine.rate_limiter import TokenBuckets
from engine.runtime.front import HEAD_BYTES

if TYPE_CHECKING:
    import asyncio

    from engine.config import Config
    from engine.metrics import Metrics
    from engine.runtime.front import Port, Verdict

logger = log.get("server.pending")

DRAINED_BYTES_MAX = 256 << 10
"""Bytes to read and drop before we close, so that no reset overtakes the farewell."""

READABLE_COUNT_MAX = 256
"""Connections to look at in one turn of the loop."""

_ESTABLISHED = 1
"""tcpi_state of struct tcp_info while the peer has not closed its side."""

DESCRIPTORS_RESERVED = 64
"""Descriptors for the archive, whose checkpoints open segments, and for channels and commands."""


class _Pending:
    """One pending connection."""

    __slots__ = ("arrived_at", "host", "needed_bytes", "port", "sock")

    def __init__(self, port: Port, sock: socket.socket, host: str, arrived_at: float) -> None:
        self.port = port
        self.sock = sock
        self.host = host
        self.arrived_at = arrived_at
        self.needed_bytes = 1


class PendingConnections:
    """The pending connections of all ports; `hand_over` gets the sockets with a request, and owns them from then on."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Callable[[], Config],
        metrics: Metrics,
        hand_over: Callable[[str, socket.socket, str], None],
    ) -> None:
        self._loop = loop
        self._config = config
        self._counters = metrics.counters
        self._hand_over = hand_over
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._descriptor_count = max(soft - DESCRIPTORS_RESERVED, 1)
        self._waiting: dict[_Pending, None] = {}
        """In the order of arrival."""
        self._by_host: dict[str, dict[_Pending, None]] = {}
        self._by_fd: dict[int, _Pending] = {}
        """Those that we look at when bytes arrive."""
        self._epoll = select.epoll()
        """One set of our own in the loop's: entering and leaving costs one system call each, not four."""
        loop.add_reader(self._epoll.fileno(), self._look_at_readable)
        self._long_requests = TokenBuckets()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, port: Port, sock: socket.socket, host: str) -> None:
        """Adds a connection that was accepted on a port."""
        connection = _Pending(port, sock, host, self._loop.time())
        self._waiting[connection] = None
        same_host = self._by_host.setdefault(host, {})
        same_host[connection] = None
        self._watch(connection)
        limits = self._config().limits
        if len(same_host) > limits.connections_waiting_per_address_max:
            self._evict(next(iter(same_host)))
        elif len(self._waiting) > min(limits.connections_waiting_max, self._descriptor_count):
            self.make_room()

    def make_room(self) -> bool:
        """Closes the oldest connection of the address that has most; False when there is none."""
        if not self._waiting:
            return False
        busiest = max(self._by_host, key=lambda host: len(self._by_host[host]))
        self._evict(next(iter(self._by_host[busiest])))
        return True

    def sweep(self) -> None:
        """Closes connections that have been silent for too long. Call this several times a second."""
        now = self._loop.time()
        limits: dict[Port, float] = {}
        for connection in list(self._waiting):
            port = connection.port
            limit_s = limits[port] if port in limits else limits.setdefault(port, port.silence_s_max())
            if now - connection.arrived_at >= limit_s:
                self._close(connection, "silent for too long", "silent")

    def close(self) -> None:
        """Closes all connections."""
        for connection in list(self._waiting):
            self._leave(connection)
            connection.sock.close()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    # -- inside ---------------------------------------------------------------------------------

    def _look_at_readable(self) -> None:
        for fd, _ in self._epoll.poll(0, READABLE_COUNT_MAX):
            connection = self._by_fd.get(fd)
            if connection is not None:  # else one before it in this list made it leave
                self._look(connection)

    def _watch(self, connection: _Pending) -> None:
        fd = connection.sock.fileno()
        self._by_fd[fd] = connection
        self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, connection: _Pending) -> None:
        fd = connection.sock.fileno()
        if self._by_fd.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _look(self, connection: _Pending) -> None:
        try:
            head = connection.sock.recv(HEAD_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            head = b""  # reset by the peer
        if not head:
            self._close(connection, "closed without a request", "closed_without_a_request")
            return
        verdict = connection.port.judge(head)
        if verdict.problem:
            self._turn_away(connection, verdict, is_health_check=len(head) == 1)
        elif _readable_bytes(connection.sock) >= verdict.needed_bytes and verdict.is_complete:
            self._admit(connection, verdict)
        elif not _is_open(connection.sock):
            self._close(connection, "closed inside its first request", "closed_without_a_request")
        elif connection.needed_bytes != verdict.needed_bytes:
            self._wait_for(connection, verdict.needed_bytes)
        else:
            # The kernel woke us before all bytes arrived: its buffer has no room for them.
            self._close(connection, "no memory for its first request", "evicted")

    def _admit(self, connection: _Pending, verdict: Verdict) -> None:
        rate = self._config().limits.associate_bytes_per_address_per_s_max
        wait_s = self._long_requests.wait_s(connection.host, verdict.rationed_bytes, rate, self._loop.time())
        if wait_s:
            self._counters["associations_put_off"] += 1
            self._unwatch(connection)
            self._loop.call_later(wait_s, self._look_again, connection)
            return
        self._leave(connection)
        if connection.needed_bytes > 1:
            self._wait_for(connection, 1)
        self._hand_over(connection.port.front, connection.sock, connection.host)

    def _look_again(self, connection: _Pending) -> None:
        if connection in self._waiting:
            self._watch(connection)
            self._look(connection)

    def _wait_for(self, connection: _Pending, count: int) -> None:
        connection.needed_bytes = count
        try:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
        except OSError:
            return  # the peer is gone; the next look finds that out

    def _turn_away(self, connection: _Pending, verdict: Verdict, *, is_health_check: bool) -> None:
        problem = verdict.problem.replace(" ", "_").replace("-", "_").lower()
        self._counters[f"not_{connection.port.front}_{problem}"] += 1
        self._leave(connection)
        if verdict.farewell:
            try:
                remaining = DRAINED_BYTES_MAX
                while remaining > 0 and (data := connection.sock.recv(min(remaining, 64 << 10))):
                    remaining -= len(data)
            except OSError:
                pass  # no more bytes are there, or the peer is gone
            try:
                connection.sock.send(verdict.farewell)
                connection.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer is gone
        connection.sock.close()
        peer_logger = logger.about(connection.host)
        write = peer_logger.debug if is_health_check else peer_logger.warning
        write(f"closed, not a {connection.port.protocol} peer", peer=connection.host, reason=verdict.problem)

    def _evict(self, connection: _Pending) -> None:
        self._look(connection)  # in a burst its request may have arrived meanwhile
        if connection in self._waiting:
            self._close(connection, "made room for others", "evicted")

    def _close(self, connection: _Pending, why: str, counter: str) -> None:
        self._counters[f"connections_{counter}"] += 1
        self._leave(connection)
        connection.sock.close()
        peer_logger = logger.about(connection.host)
        write = peer_logger.debug if counter == "closed_without_a_request" else peer_logger.info
        write("connection without a request closed", peer=connection.host, reason=why)

    def _leave(self, connection: _Pending) -> None:
        self._unwatch(connection)
        del self._waiting[connection]
        same_host = self._by_host[connection.host]
        del same_host[connection]
        if not same_host:
            del self._by_host[connection.host]


def _readable_bytes(sock: socket.socket) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]


def _is_open(sock: socket.socket) -> bool:
    """Whether the peer may still send."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
    except OSError:
        return False
