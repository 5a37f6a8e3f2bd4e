"""Bodies that a route takes past aiohttp, and what comes before, behind or instead of them. One server for all."""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from engine import log
from engine.log_settings import Log
from engine.web import direct_body
from tests import samples
from tests.samples import part10
from tests.system.server import wait_for
from tests.web.hosting import Hosting, read_all
from tests.web.stowing import PARTS, serving

_numbers = iter(range(800_000, 1_000_000))


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("direct") / "data") as hosting:
        yield hosting


def request(body: bytes, *headers: str, path: str = "/dicom-web/studies", length: int = -1) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {PARTS}b", *headers,
             f"Content-Length: {len(body) if length < 0 else length}"]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


def body_of(pixels: int = 512, count: int = 1) -> bytes:
    files = [part10(samples.instance(next(_numbers), pixels=bytes(pixels))) for _ in range(count)]
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files]
    return b"".join(parts) + b"--b--\r\n"


def statuses(answer: bytes) -> list[str]:
    return re.findall(r"HTTP/1\.[01] (\d+)", answer.decode("latin-1"))


HEALTH = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("pixels", [512, 100_000])
def test_requests_behind_a_body_are_answered_in_their_order(hosting: Hosting, pixels: int) -> None:
    """Whether it came with the head or took many reads; also when the next ones have bodies themselves."""
    asked = [request(body_of(pixels)), HEALTH + b"\r\n", request(body_of(pixels)), request(body_of(64)),
             HEALTH + b"Connection: close\r\n\r\n"]  # fmt: skip
    assert statuses(hosting.ask(b"".join(asked))) == ["200"] * 5


@pytest.mark.parametrize("cut", [1, 30, -1, -2, -3, -4])
def test_a_head_that_comes_in_two_pieces_is_read_the_usual_way(hosting: Hosting, cut: int) -> None:
    whole = request(body_of(50_000), "Connection: close")
    at = cut if cut > 0 else whole.index(b"\r\n\r\n") + 4 + cut
    with hosting.connect() as sock:
        sock.sendall(whole[:at])
        wait_for(lambda: hosting.front.connections_count > 0, what="it has come")
        sock.sendall(whole[at:])
        assert statuses(read_all(sock)) == ["200"]


def test_what_is_refused_is_read_and_dropped_so_that_the_client_sees_why(hosting: Hosting) -> None:
    body = body_of(3 << 20)
    for wrong in (
        request(body).replace(PARTS.encode() + b"b", b"application/zip"),
        request(body, "Accept: text/plain"),
        request(body, "Content-Encoding: gzip"),
        request(body).replace(b"Host: localhost", b"Host: elsewhere.example"),
    ):
        with hosting.connect() as sock:
            sock.sendall(wrong)
            answer = read_all(sock)
        assert statuses(answer) in (["415"], ["406"], ["421"]), answer[:200]


def test_a_refused_body_that_never_comes_is_not_waited_for(hosting: Hosting) -> None:
    with hosting.connect() as sock:
        sock.sendall(request(b"--b\r\n", "Accept: text/plain", length=1 << 30))
        assert statuses(read_all(sock)) == ["406"]


def test_a_route_that_takes_no_body_itself_gets_it_the_usual_way(hosting: Hosting) -> None:
    wrong = request(b'{"a": 1}', "Connection: close", path="/api/jobs")
    assert statuses(hosting.ask(wrong))[0] in ("400", "404", "405", "415")


def test_a_length_that_can_be_read_in_two_ways_is_refused(hosting: Hosting) -> None:
    body = body_of()
    for header in ("Transfer-Encoding: chunked", "Content-Length: 5", "content-length: +5"):
        assert statuses(hosting.ask(request(body, header))) == ["400"]


def test_a_client_that_is_faster_than_the_disk_waits(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops while the handler has not asked again, and nothing is lost by it."""
    monkeypatch.setattr(direct_body, "READ_AHEAD_BYTES", 100_000)
    pauses: list[int] = []
    pause = direct_body.DirectBody.pause

    def counted(body: direct_body.DirectBody) -> None:
        pauses.append(1)
        pause(body)

    monkeypatch.setattr(direct_body.DirectBody, "pause", counted)
    answer = hosting.ask(request(body_of(300_000, count=10), "Connection: close"))
    assert statuses(answer) == ["200"] and len(pauses) > 1


def test_a_long_epilogue_is_read_to_its_end(hosting: Hosting) -> None:
    epilogue = bytes(2 * direct_body.READ_AHEAD_BYTES)
    assert statuses(hosting.ask(request(body_of() + epilogue, "Connection: close"))) == ["200"]


def test_a_client_that_stops_sending_is_ended_and_its_memory_comes_back(hosting: Hosting) -> None:
    body = body_of(400_000)
    with hosting.connect() as sock:
        sock.sendall(request(body)[:-1000])
        wait_for(lambda: hosting.engine.ingest_budget.taken_bytes > 0, what="a part of it has come")
    wait_for(lambda: hosting.engine.ingest_budget.taken_bytes == 0, what="its memory came back")


def stored_count(hosting: Hosting) -> int:
    return sum(peer.instances for peer in hosting.engine.metrics.peers.values())


def has_stored(hosting: Hosting, count: int) -> bool:
    return stored_count(hosting) == count


@pytest.mark.parametrize("ending", ["", "Transfer-Encoding: chunked"])
def test_a_client_that_ends_its_side_behind_a_store_gets_the_answer(hosting: Hosting, ending: str) -> None:
    body = body_of(1000)
    whole = request(body)
    if ending:
        whole = request(b"", ending).replace(b"Content-Length: 0\r\n", b"") + chunks(body) + b"0\r\n\r\n"
    for cut in (len(whole), len(whole) - 10):
        with hosting.connect() as sock:
            sock.sendall(whole[:cut])
            sock.shutdown(socket.SHUT_WR)
            assert statuses(read_all(sock)) == (["200"] if cut == len(whole) else [])


def chunks(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(content), content) for content in contents)


@pytest.mark.parametrize("broken", [b"zz\r\n", b"-5\r\n\r\n", b"f" * 20 + b"\r\n", b"5\nabcde\n0\n\n"])
def test_a_body_whose_chunks_are_broken_later_is_answered_at_once(hosting: Hosting, broken: bytes) -> None:
    """What was whole before is stored; the handler does not wait for the transfer's timeout."""

    whole = body_of(64, count=2)
    for path, begun, stored, expected in (
        ("/dicom-web/studies", whole[:-20], 1, "202"),
        ("/dicom-web/studies", whole[:100], 0, "400"),
        ("/api/jobs", b'{"kind":', 0, "400"),
    ):
        head = request(b"", "Transfer-Encoding: chunked", path=path).replace(b"Content-Length: 0\r\n", b"")
        if path == "/api/jobs":
            head = head.replace(PARTS.encode() + b"b", b"application/json")
        misunderstood, all_stored = hosting.counters["http_requests_not_understood"], stored_count(hosting)
        with hosting.connect() as sock:
            sock.sendall(head + chunks(begun))
            wait_for(lambda: hosting.front.is_busy, what="its handler reads")
            wait_for(partial(has_stored, hosting, all_stored + stored), what="the whole instance is stored")
            sock.sendall(broken)
            assert statuses(read_all(sock)) == [expected]
        assert hosting.counters["http_requests_not_understood"] == misunderstood + 1


def test_a_request_behind_one_to_upgrade_is_answered_or_the_connection_closed(hosting: Hosting) -> None:
    """curl --http2 sends such a request first; aiohttp drops what comes with it."""
    upgrade = HEALTH + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    answer = hosting.ask(upgrade + HEALTH + b"\r\n")
    assert statuses(answer) == ["200"] and b"Connection: close" in answer


def test_a_request_that_cannot_be_read_is_logged_without_its_url(hosting: Hosting) -> None:
    target = "/dicom-web/studies?PatientName=DOE^JANE"
    lines = io.StringIO()
    log.configure(Log(format="json"), stream=lines)
    try:
        for wrong, expected in (
            (target + "a" * 40_000, "431"),
            ("http://[::1" + target, "400"),
            (target + "\xff", "400"),
        ):
            head = f"GET {wrong} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1")
            assert statuses(hosting.ask(head)) == [expected]
        assert statuses(hosting.ask(HEALTH + b"Cookie: JANE" + b"e" * 20_000 + b"\r\n\r\n")) == ["431"]
    finally:
        log.configure(Log())
    assert "invalid HTTP request" in lines.getvalue() and "JANE" not in lines.getvalue()
