"""Connections before they ask for an association: who is handed over, who is turned away, who makes room for whom."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from engine import log
from engine.config import Config, Limits, Log
from engine.metrics import Metrics
from engine.runtime.front import Port
from engine.server.pending import PendingConnections
from engine.services import first_pdu
from engine.ul import pdu
from tests import peer
from tests.peer import IMPLICIT, VERIFICATION, Peer
from tests.system.server import wait_for

ECHO = (1, VERIFICATION, [IMPLICIT])
REQUEST = peer.associate_rq([ECHO])
LIMIT = 1 << 20


class StoppedLoop:
    """The event loop as pending connections see it. Its clock stands still until a test moves it, and what is due later
    is done soon."""

    SOON_S = 0.02

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time()
        self.add_reader, self.remove_reader = loop.add_reader, loop.remove_reader
        self.call_soon_threadsafe = loop.call_soon_threadsafe
        self._loop = loop

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        return self._loop.call_later(min(delay_s, self.SOON_S), callback, *arguments)


class Host:
    """Pending connections on a listening socket, and what it handed over. Its clock stands still (`elapse`)."""

    def __init__(self, **limits: float) -> None:
        self.limits = Limits(**limits)  # type: ignore[arg-type]
        self.metrics = Metrics()
        self.handed: list[socket.socket] = []
        self.pending: PendingConnections | None = None
        self.port = 0
        self.hosts: list[str] = []
        """Addresses to pretend, for the connections in their order."""

    @property
    def waiting(self) -> int:
        assert self.pending is not None
        return len(self.pending)

    def call(self) -> Peer:
        before = self.entered
        scripted = Peer(self.port)
        wait_for(lambda: self.entered > before, what="the connection accepted")
        return scripted

    entered = 0

    def elapse(self, seconds: float) -> None:
        """Lets that time pass."""
        self.loop.now += seconds

    def run(self, script: Callable[[], None]) -> None:
        async def serve() -> None:
            loop = asyncio.get_running_loop()
            self.loop = StoppedLoop(loop)
            config = Config(limits=self.limits)
            self.pending = PendingConnections(
                self.loop,  # type: ignore[arg-type]
                lambda: config,
                self.metrics,
                lambda front, sock, host: self.handed.append(sock),
            )
            self.listened = Port(
                front="dicom",
                protocol="DICOM",
                host="127.0.0.1",
                number=0,
                judge=lambda head: first_pdu.judge(head, config.limits.associate_pdu_length_max),
                silence_s_max=lambda: config.limits.artim_timeout_s,
            )
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.setblocking(False)
                self.port = listener.getsockname()[1]
                loop.add_reader(listener.fileno(), self._accept, listener)
                sweeping = loop.create_task(self._sweep())
                await loop.run_in_executor(None, script)
                sweeping.cancel()
                loop.remove_reader(listener.fileno())
            self.pending.close()
            for sock in self.handed:
                sock.close()

        uvloop.run(serve())

    def _accept(self, listener: socket.socket) -> None:
        assert self.pending is not None
        sock, address = listener.accept()
        sock.setblocking(False)
        self.pending.enter(self.listened, sock, self.hosts.pop(0) if self.hosts else address[0])
        self.entered += 1

    async def _sweep(self) -> None:
        assert self.pending is not None
        while True:
            self.pending.sweep()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("head", "what", "reason"),
    [
        (b"\x16\x03\x01\x00\xc8\x01", "TLS hello", 0),
        (b"GET / HTTP/1.1\r\n", "HTTP request", 0),
        (b"PRI * HTTP/2.0\r\n", "HTTP request", 0),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH banner", 0),
        (b"\r\n", "unknown bytes", 1),
        (b"\x00", "unknown bytes", 1),
        (b"\xff\xff", "unknown bytes", 1),
        (b"GO AWAY", "unknown bytes", 1),
        (b"\x16\x02", "unknown bytes", 1),
        (b"\x04\x00\x00\x00\x00\x10", "an unexpected PDU", 2),
        (b"\x05", "an unexpected PDU", 2),
        (b"\x07\x00\x00", "A-ABORT", 0),
        (b"\x01\x00\xff\xff\xff\xff", "an A-ASSOCIATE-RQ that is too long", 6),
        (b"\x01\x00\x00\x10\x00\x01", "an A-ASSOCIATE-RQ that is too long", 6),
    ],
)
def test_non_dicom_bytes_are_recognised_early(head: bytes, what: str, reason: int) -> None:
    verdict = first_pdu.judge(head, LIMIT)
    assert (verdict.problem, verdict.farewell) == (what, pdu.encode(pdu.Abort(2, reason)) if reason else b"")


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (b"G", 2),
        (b"POS", 4),
        (b"\x16", 2),
        (b"\x01", 6),
        (b"\x01\x00\x00\x00\x00", 6),
        (b"\x01\x00\x00\x00\x00\x00", 6),
        (b"\x01\x00\x00\x00\x01\x00", 262),
        (b"\x01\x00\x00\x10\x00\x00", first_pdu.ENOUGH_BYTES),
    ],
)
def test_the_start_of_a_request_is_waited_for(head: bytes, wanted: int) -> None:
    verdict = first_pdu.judge(head, LIMIT)
    assert (verdict.problem, verdict.needed_bytes) == ("", wanted)
    assert bool(verdict.rationed_bytes) == (wanted == first_pdu.ENOUGH_BYTES), "only long ones are rationed"


@pytest.mark.parametrize("pieces", [0, 1, 7, 100])
def test_a_complete_request_is_handed_over_unread(pieces: int) -> None:
    host = Host()

    def script() -> None:
        with host.call() as scripted:
            scripted.send(REQUEST[:-1], pieces=pieces)
            assert host.handed == []
            scripted.send(REQUEST[-1:])
            wait_for(lambda: host.handed, what="handed over")
            assert host.waiting == 0
            (sock,) = host.handed
            sock.setblocking(True)
            assert sock.recv(len(REQUEST) + 1) == REQUEST
            scripted.send(b"\x05")
            assert sock.recv(10) == b"\x05", "a low-water mark was left behind"

    host.run(script)


def test_a_long_request_is_handed_over_before_it_is_complete() -> None:
    host = Host()
    contexts = [(number * 2 + 1, VERIFICATION, [IMPLICIT] * 20) for number in range(128)]
    request = peer.associate_rq(contexts)
    assert len(request) > first_pdu.ENOUGH_BYTES + 1000

    def script() -> None:
        with host.call() as scripted:
            scripted.send(request[: first_pdu.ENOUGH_BYTES - 1])
            assert not scripted.socket_has_more(0.1)
            assert host.handed == []
            scripted.send(request[first_pdu.ENOUGH_BYTES - 1 : first_pdu.ENOUGH_BYTES + 1])
            wait_for(lambda: host.handed, what="handed over")

    host.run(script)


@pytest.mark.parametrize(
    ("hello", "last_word"),
    [
        (b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", None),
        (b"\x16\x03\x01\x00\xc8" + bytes(200), None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None),
        (b"\xff" * 100_000, (2, 1)),
        (peer.message(1, peer.c_echo_rq()), (2, 2)),
        (peer.pdu(peer.ASSOCIATE_RQ, length=0xFFFFFFFF), (2, 6)),
        (peer.pdu(peer.ABORT, bytes(4)), None),
    ],
    ids=["http", "tls", "ssh", "ones", "p-data", "length", "abort"],
)
def test_a_rejected_connection_is_closed_at_once_and_counted(hello: bytes, last_word: tuple[int, int] | None) -> None:
    host = Host()

    def script() -> None:
        with host.call() as scripted:
            scripted.send_until_closed(hello)
            if last_word is not None:
                assert scripted.expect_abort() == last_word
            scripted.expect_closed()
        assert (host.waiting, host.handed) == (0, [])

    host.run(script)
    assert sum(host.metrics.counters.values()) == 1
    assert next(iter(host.metrics.counters)).startswith("not_dicom_")


@pytest.mark.parametrize("sent", [b"", b"\x01\x00", REQUEST[:-1]], ids=["nothing", "two-bytes", "all-but-one"])
@pytest.mark.parametrize("ending", [Peer.close, Peer.cut], ids=["close", "cut"])
def test_a_port_scan_leaves_nothing_behind(sent: bytes, ending: Callable[[Peer], None]) -> None:
    host = Host()

    def script() -> None:
        scripted = host.call()
        scripted.send(sent)
        ending(scripted)
        wait_for(lambda: host.waiting == 0, what="let go")

    host.run(script)
    assert dict(host.metrics.counters) == {"connections_closed_without_a_request": 1}


@pytest.mark.parametrize("sent", [b"", b"\x01", REQUEST[:-1]], ids=["nothing", "a-byte", "all-but-one"])
def test_a_connection_without_a_request_in_time_is_closed(sent: bytes) -> None:
    host = Host()

    def script() -> None:
        with host.call() as scripted:
            scripted.send(sent)
            host.elapse(host.limits.artim_timeout_s)
            scripted.expect_closed()

    host.run(script)
    assert dict(host.metrics.counters) == {"connections_silent": 1}


def test_at_the_limit_the_oldest_connection_of_the_same_address_is_closed() -> None:
    host = Host(connections_waiting_per_address_max=3)

    def script() -> None:
        called = [host.call() for _ in range(5)]
        for scripted in called[:2]:
            scripted.expect_closed()
        for scripted in called[2:]:
            scripted.send(REQUEST)
        wait_for(lambda: len(host.handed) == 3, what="the last three handed over")
        for scripted in called:
            scripted.close()

    host.run(script)
    assert dict(host.metrics.counters) == {"connections_evicted": 2}


def test_at_the_total_limit_the_address_with_most_connections_loses_one() -> None:
    host = Host(connections_waiting_max=6, connections_waiting_per_address_max=100)
    host.hosts = ["modality", *["crowd"] * 5, "workstation", *["crowd"] * 3]

    def script() -> None:
        called = [host.call() for _ in range(10)]
        for number in (1, 2, 3, 4):
            called[number].expect_closed()
        for number in (0, 6):
            called[number].send(REQUEST)
        wait_for(lambda: len(host.handed) == 2, what="those who asked handed over")
        assert host.waiting == 4
        for scripted in called:
            scripted.close()

    host.run(script)


def test_connections_can_be_closed_until_none_is_left() -> None:
    host = Host()
    made: list[bool] = []

    def script() -> None:
        called = [host.call() for _ in range(2)]
        assert host.pending is not None
        loop = host.pending._loop
        for _ in range(3):
            loop.call_soon_threadsafe(lambda: made.append(host.pending.make_room()))  # type: ignore[union-attr]
        for scripted in called:
            scripted.expect_closed()
            scripted.close()
        wait_for(lambda: len(made) == 3)

    host.run(script)
    assert made == [True, True, False]


def test_a_peer_that_resets_at_any_moment_is_removed() -> None:
    host = Host()

    def script() -> None:
        for count in range(12):
            scripted = host.call()
            scripted.send(REQUEST[:count])
            scripted.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            scripted.socket.close()
        wait_for(lambda: host.waiting == 0, what="let go")

    host.run(script)


def long_request() -> bytes:
    """Longer than what passes without a look at its address's budget."""
    contexts = [(number * 2 + 1, VERIFICATION, [IMPLICIT] * 30) for number in range(128)]
    return peer.associate_rq(contexts)


def test_long_requests_of_one_address_queue_but_short_ones_and_other_addresses_do_not() -> None:
    request = long_request()
    host = Host(associate_bytes_per_address_per_s_max=len(request))
    host.hosts = ["crowd", "crowd", "crowd", "modality", "crowd"]

    def script() -> None:
        called = [host.call() for _ in range(5)]
        for number in (0, 1, 3):
            called[number].send(request)
        called[4].send(REQUEST)
        wait_for(lambda: len(host.handed) == 3, what="the first of each address, and the short one")
        wait_for(lambda: host.metrics.counters["associations_put_off"], what="the second of an address put off")
        assert len(host.handed) == 3
        host.elapse(1.0)
        wait_for(lambda: len(host.handed) == 4, what="the second, a second later")
        for scripted in called:
            scripted.close()

    host.run(script)


def test_a_queued_connection_that_ends_is_removed() -> None:
    request = long_request()
    host = Host(associate_bytes_per_address_per_s_max=len(request))

    def script() -> None:
        called = [host.call() for _ in range(4)]
        for scripted in called:
            scripted.send(request)
        wait_for(lambda: len(host.handed) == 1, what="the first")
        for scripted in called:
            scripted.close()
        host.elapse(host.limits.artim_timeout_s)
        wait_for(lambda: host.waiting == 0, what="let go")

    host.run(script)


@pytest.mark.parametrize(
    ("sent", "is_told"), [(b"", False), (b"\n", False), (b"\x01", False), (b"\r\n", True), (b"\x04\0", True)]
)
def test_a_health_check_is_counted_but_not_logged(sent: bytes, is_told: bool) -> None:
    host = Host()

    def script() -> None:
        with host.call() as scripted:
            scripted.send(sent)
            if len(sent) == 0 or sent == b"\x01":
                scripted.close()
            else:
                scripted.wait_closed()
        wait_for(lambda: host.waiting == 0, what="let go")

    lines = io.StringIO()
    log.configure(Log(format="json"), stream=lines)
    try:
        host.run(script)
    finally:
        log.configure(Log())
    assert sum(host.metrics.counters.values()) == 1
    assert bool(lines.getvalue()) == is_told
