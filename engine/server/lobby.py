"""Connections that have not asked for an association yet: who is no DICOM peer never reaches a worker.

Does not read what it looks at (MSG_PEEK): a connection whose A-ASSOCIATE-RQ is whole, or longer than ENOUGH_BYTES, is
handed over as it came. A thousand that say nothing cost a descriptor each and no time; the kernel wakes us when as much
is there as we wait for (SO_RCVLOWAT), so that one byte now and then costs nothing either.

    A-ASSOCIATE-RQ                       handed over; a long one when its address has asked for little lately
    TLS, HTTP, SSH                       closed without a word: what we could say they do not understand
    another PDU (PS3.8 9.3.1), or none   A-ABORT, source 2, reason 2 unexpected, 1 unrecognized PDU or 6 (length)
    A-ABORT, closed, silent for ARTIM    closed
    too many                             the one that waited longest, of the address that has most, is closed

A long request costs a worker milliseconds before anybody has proven anything, so an address gets only so many bytes
of them a second (`limits.associate_bytes_per_address_per_s_max`); others wait here, short ones never. A health check,
which connects and says nothing or one byte, is counted and no line of the log.

PS3.8 waits in Sta13 for the peer to close after an A-ABORT; here it is closed at once.
"""

from __future__ import annotations

import array
import fcntl
import resource
import socket
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import log
from engine.ul import pdu
from engine.ul.fields import INVALID_PARAMETER, UNEXPECTED_PDU, UNRECOGNIZED_PDU

if TYPE_CHECKING:
    import asyncio

    from engine.config import Config
    from engine.metrics import Metrics

logger = log.get("server.lobby")

ENOUGH_BYTES = 16 << 10
"""What we wait for of a longer A-ASSOCIATE-RQ; most have 1 to 8 KiB."""

DRAINED_BYTES_MAX = 256 << 10
"""What is read and dropped before we close, so that our A-ABORT is not overtaken by a reset."""

_HEADER_BYTES = 6
_ESTABLISHED = 1
"""tcpi_state of struct tcp_info while the peer has not closed its side."""

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"\x16\x03", "TLS hello"),
    (b"SSH-", "SSH banner"),
    *((method + b" ", "HTTP request") for method in (b"GET", b"PUT", b"HEAD", b"POST", b"OPTIONS", b"CONNECT")),
    *((method + b" ", "HTTP request") for method in (b"DELETE", b"PATCH", b"TRACE", b"PRI")),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the first bytes of a connection say."""

    what: str = ""
    """For the log, where it is no A-ASSOCIATE-RQ."""
    is_request: bool = False
    wanted_bytes: int = 0
    """How many bytes must be there before more can be said or done; 0: no more are needed."""
    request_bytes: int = 0
    """Of an A-ASSOCIATE-RQ, as its header says."""
    abort_reason: int = 0
    """Of the A-ABORT (PS3.8 Table 9-26) that it gets; 0: it is closed without one."""


def judge(head: bytes, request_bytes_max: int) -> Verdict:
    """What a connection is that begins with these bytes, at least one."""
    for prefix, what in _FOREIGN:
        if head.startswith(prefix):
            return Verdict(what)
        if prefix.startswith(head):
            return Verdict(wanted_bytes=len(head) + 1)
    kind = head[0]
    if kind == pdu.PduType.ABORT:
        return Verdict("A-ABORT")
    if kind == 0 or kind > pdu.PduType.ABORT:
        return Verdict("unknown bytes", abort_reason=UNRECOGNIZED_PDU)
    if kind != pdu.PduType.ASSOCIATE_RQ:
        return Verdict("a PDU out of turn", abort_reason=UNEXPECTED_PDU)
    if len(head) < _HEADER_BYTES:
        return Verdict(wanted_bytes=_HEADER_BYTES)
    length = int.from_bytes(head[2:_HEADER_BYTES], "big")
    if length > request_bytes_max:
        return Verdict("an A-ASSOCIATE-RQ of an absurd length", abort_reason=INVALID_PARAMETER)
    wanted_bytes = min(_HEADER_BYTES + length, ENOUGH_BYTES)
    return Verdict(is_request=True, wanted_bytes=wanted_bytes, request_bytes=_HEADER_BYTES + length)


class LongRequests:
    """How many bytes of long A-ASSOCIATE-RQs each address may still have handed over: a second's worth at most."""

    ADDRESSES_MAX = 1024
    """Remembered ones; the one that has not asked for longest is forgotten first."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        """Address → (bytes left, when that was)."""

    def wait_s(self, host: str, length: int, rate: int, now: float) -> float:
        """0, and the bytes are taken, or how long it will be until there are enough. `rate`: bytes a second; 0: any."""
        if not rate or length <= ENOUGH_BYTES:
            return 0.0
        left, at = self._left.pop(host, (float(rate), now))
        left = min(left + (now - at) * rate, float(rate))
        wanted = min(length, rate)
        if enough := left >= wanted:
            left -= wanted
        self._left[host] = left, now
        if len(self._left) > self.ADDRESSES_MAX:
            del self._left[next(iter(self._left))]
        return 0.0 if enough else (wanted - left) / rate


DESCRIPTORS_KEPT = 64
"""Of this process: for the archive, whose checkpoints open segments, for channels and commands."""


class _Visitor:
    """One connection that waits."""

    __slots__ = ("arrived_at", "host", "sock", "wanted_bytes")

    def __init__(self, sock: socket.socket, host: str, arrived_at: float) -> None:
        self.sock = sock
        self.host = host
        self.arrived_at = arrived_at
        self.wanted_bytes = 1


class Lobby:
    """See the module's head; `hand_over` gets the sockets that ask for an association, and owns them then."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Callable[[], Config],
        metrics: Metrics,
        hand_over: Callable[[socket.socket, str], None],
    ) -> None:
        self._loop = loop
        self._config = config
        self._counters = metrics.counters
        self._hand_over = hand_over
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._descriptor_count = max(soft - DESCRIPTORS_KEPT, 1)
        self._waiting: dict[_Visitor, None] = {}
        """In the order of arrival."""
        self._by_host: dict[str, dict[_Visitor, None]] = {}
        self._long_requests = LongRequests()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, sock: socket.socket, host: str) -> None:
        """A connection was accepted."""
        visitor = _Visitor(sock, host, self._loop.time())
        self._waiting[visitor] = None
        mine = self._by_host.setdefault(host, {})
        mine[visitor] = None
        self._loop.add_reader(sock.fileno(), self._look, visitor)
        limits = self._config().limits
        if len(mine) > limits.connections_waiting_per_address_max:
            self._evict(next(iter(mine)))
        elif len(self._waiting) > min(limits.connections_waiting_max, self._descriptor_count):
            self.make_room()

    def make_room(self) -> bool:
        """Closes the oldest connection of the address that has most; False when there is none."""
        if not self._waiting:
            return False
        crowd = max(self._by_host, key=lambda host: len(self._by_host[host]))
        self._evict(next(iter(self._by_host[crowd])))
        return True

    def sweep(self) -> None:
        """Closes those on which the ARTIM timer has expired; to be called several times a second."""
        latest = self._loop.time() - self._config().limits.artim_timeout_s
        while self._waiting:
            oldest = next(iter(self._waiting))
            if oldest.arrived_at > latest:
                return
            self._close(oldest, "silent for too long", "silent")

    def close(self) -> None:
        """Closes all."""
        for visitor in list(self._waiting):
            self._leave(visitor)
            visitor.sock.close()

    # -- inside ---------------------------------------------------------------------------------

    def _look(self, visitor: _Visitor) -> None:
        try:
            head = visitor.sock.recv(16, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            head = b""  # reset by the peer
        if not head:
            self._close(visitor, "closed without a word", "closed_without_a_word")
            return
        limit = self._config().limits.associate_pdu_length_max
        verdict = judge(head, limit)
        if verdict.what:
            self._turn_away(visitor, verdict, is_health_check=len(head) == 1)
        elif _readable_bytes(visitor.sock) >= verdict.wanted_bytes and verdict.is_request:
            self._let_in(visitor, verdict)
        elif not _is_open(visitor.sock):
            self._close(visitor, "closed inside its first PDU", "closed_without_a_word")
        elif visitor.wanted_bytes != verdict.wanted_bytes:
            self._wait_for(visitor, verdict.wanted_bytes)
        else:
            # Woken though less is there than we wait for: the kernel has no room to keep it.
            self._close(visitor, "no memory for its first PDU", "evicted")

    def _let_in(self, visitor: _Visitor, verdict: Verdict) -> None:
        rate = self._config().limits.associate_bytes_per_address_per_s_max
        wait_s = self._long_requests.wait_s(visitor.host, verdict.request_bytes, rate, self._loop.time())
        if wait_s:
            self._counters["associations_put_off"] += 1
            self._loop.remove_reader(visitor.sock.fileno())
            self._loop.call_later(wait_s, self._look_again, visitor)
            return
        self._leave(visitor)
        self._wait_for(visitor, 1)
        self._hand_over(visitor.sock, visitor.host)

    def _look_again(self, visitor: _Visitor) -> None:
        if visitor in self._waiting:
            self._loop.add_reader(visitor.sock.fileno(), self._look, visitor)
            self._look(visitor)

    def _wait_for(self, visitor: _Visitor, count: int) -> None:
        visitor.wanted_bytes = count
        try:
            visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
        except OSError:
            return  # the peer is gone; the next look finds that out

    def _turn_away(self, visitor: _Visitor, verdict: Verdict, *, is_health_check: bool) -> None:
        self._counters[f"not_dicom_{verdict.what.replace(' ', '_').replace('-', '_').lower()}"] += 1
        self._leave(visitor)
        if verdict.abort_reason:
            try:
                left = DRAINED_BYTES_MAX
                while left > 0 and (data := visitor.sock.recv(min(left, 64 << 10))):
                    left -= len(data)
            except OSError:
                pass  # nothing more is there, or the peer is gone
            try:
                visitor.sock.send(pdu.encode(pdu.Abort(2, verdict.abort_reason)))
                visitor.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer is gone
        visitor.sock.close()
        line = logger.about(visitor.host)
        tell = line.debug if is_health_check else line.warning
        tell("no DICOM peer, closed", peer=visitor.host, what=verdict.what)

    def _evict(self, visitor: _Visitor) -> None:
        self._look(visitor)  # in a burst its request may have come meanwhile
        if visitor in self._waiting:
            self._close(visitor, "made room for others", "evicted")

    def _close(self, visitor: _Visitor, why: str, counter: str) -> None:
        self._counters[f"connections_{counter}"] += 1
        self._leave(visitor)
        visitor.sock.close()
        line = logger.about(visitor.host)
        tell = line.debug if counter == "closed_without_a_word" else line.info
        tell("connection without association closed", peer=visitor.host, reason=why)

    def _leave(self, visitor: _Visitor) -> None:
        self._loop.remove_reader(visitor.sock.fileno())
        del self._waiting[visitor]
        mine = self._by_host[visitor.host]
        del mine[visitor]
        if not mine:
            del self._by_host[visitor.host]


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
