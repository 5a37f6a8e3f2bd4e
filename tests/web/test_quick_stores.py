"""Short stores that are answered without a task: the same answers as on the usual way, and the same limits."""

from __future__ import annotations

import dataclasses
import http.client
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from engine.accounts.proof import Proof
from engine.archive.ingest.live import Ingestor
from engine.web.quick_stores import BYTES_MAX, PARTS_MAX, QuickStore
from engine.web.request import Request
from tests import samples
from tests.samples import part10
from tests.system.server import wait_for
from tests.web.hosting import Hosting, read_all
from tests.web.stowing import PARTS, Answer, serving
from tests.web.test_direct_body import HEALTH, body_of, has_stored, request, statuses, stored_count
from tests.web.test_outlet import configured, read_answer

STUDY = f"{samples.ROOT}.4711"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("quick") / "data") as hosting:
        yield hosting


@pytest.fixture
def count(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many stores have been offered to ingest the short way."""
    offer, offered = QuickStore.offer, [0]

    def counted(store: QuickStore) -> bool:
        is_offered = offer(store)
        offered[0] += is_offered
        return is_offered

    monkeypatch.setattr(QuickStore, "offer", counted)

    def count() -> int:
        hosting.on_loop(lambda: None)
        return offered[0]

    return count


@contextmanager
def open_connection(hosting: Hosting) -> Iterator[Callable[..., Answer]]:
    """Sends one request after another on one connection, each when the server waits for it."""
    connection = http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)

    def post(body: bytes, path: str = "/studies", content_type: str = PARTS + "b", **headers: str) -> Answer:
        if connection.sock is None:
            connection.request("GET", "/health/live")
            connection.getresponse().read()
        assert connection.sock is not None
        hosting.wait_idle(connection.sock)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", f"/dicom-web{path}", body, {"Content-Type": content_type, **sent})
        return Answer(connection.getresponse())

    try:
        yield post
    finally:
        connection.close()


@contextmanager
def idle_socket(hosting: Hosting) -> Iterator[socket.socket]:
    """A connection whose task waits for a request."""
    with hosting.connect() as sock:
        sock.sendall(HEALTH + b"\r\n")
        with sock.makefile("rb") as stream:
            read_answer(stream)
        hosting.wait_idle(sock)
        yield sock


def parts_of(*files: bytes, content_type: str = "Content-Type: application/dicom\r\n") -> bytes:
    parts = [f"--b\r\n{content_type}\r\n".encode() + file + b"\r\n" for file in files]
    return b"".join(parts) + b"--b--\r\n"


FILES = [part10(samples.instance(4711, 1, number, pixels=bytes(3000))) for number in range(1, 4)]
OTHER = part10(samples.instance(4712))


@pytest.mark.parametrize(
    ("body", "path", "accept", "status"),
    [
        (parts_of(FILES[0]), "/studies", "application/dicom+json", 200),
        (parts_of(*FILES), f"/studies/{STUDY}", "*/*", 200),
        (parts_of(FILES[0], OTHER), "/studies", "application/json", 200),
        (parts_of(FILES[0]), "/studies", "application/dicom+xml", 200),
        (parts_of(FILES[0], content_type=""), "/studies", "application/json", 200),
        (parts_of(FILES[0], b"no file"), "/studies", "application/dicom+json", 202),
        (parts_of(OTHER), f"/studies/{STUDY}", "application/dicom+json", 409),
        (parts_of(b"DICM" * 100), "/studies", "application/dicom+xml", 409),
    ],
)
def test_the_answers_are_those_of_the_usual_way(
    hosting: Hosting, count: Callable[[], int], body: bytes, path: str, accept: str, status: int
) -> None:
    with open_connection(hosting) as post:
        quick = post(body, path, Accept=accept)
        assert (quick.status, count()) == (status, 1)
        usual = post(body, path, Accept=accept, X_Request_ID="ours")
        assert count() == 1
    assert quick.status == usual.status
    assert sorted(quick.body) == sorted(usual.body), "in any order, as they are committed"
    assert len(quick.body) > 60
    ours, theirs = dict(quick.headers), dict(usual.headers)
    assert ours.pop("X-Request-ID") != theirs.pop("X-Request-ID")
    ours.pop("Date"), theirs.pop("Date")
    assert ours == theirs


def test_the_bytes_are_those_that_were_sent_however_they_arrive(hosting: Hosting, count: Callable[[], int]) -> None:
    for number, cuts in enumerate(([], [10], [400, 401, 402], range(300, 60_000, 7_001)), 1):
        file = part10(samples.instance(4800, 1, number, pixels=bytes(range(256)) * 200))
        whole = request(parts_of(file), "Connection: keep-alive")
        start = whole.index(b"\r\n\r\n") + 4
        with idle_socket(hosting) as sock:
            sock.sendall(whole[: start + 1])
            for begin, end in zip([start + 1, *cuts], [*cuts, len(whole)], strict=True):
                if end > begin:
                    sock.sendall(whole[max(begin, start + 1) : end])
                    hosting.on_loop(lambda: None)
            assert sock.recv(12) == b"HTTP/1.1 200"
        found = hosting.engine.archive.instance(f"{samples.ROOT}.4800.1.{number}")
        assert found is not None
        assert hosting.engine.archive.read(found) == file[144 + int.from_bytes(file[140:144], "little") :]
        assert count() == number


def test_other_bodies_are_answered_the_usual_way(hosting: Hosting, count: Callable[[], int]) -> None:
    tiny = [part10(samples.instance(4900, 1, number)) for number in range(1, PARTS_MAX + 2)]
    json = 'multipart/related; type="application/dicom+json"; boundary=b'
    with open_connection(hosting) as post:
        assert post(parts_of(*tiny)).status == 200
        assert post(FILES[0], content_type="application/dicom").status == 200
        assert post(parts_of(b"[]", content_type=""), content_type=json).status == 409
        assert post(parts_of(FILES[0], content_type="Content-Type: image/png\r\n")).status == 415
        assert post(parts_of(FILES[0], content_type="no header\r\n")).status == 400
        assert post(b"--b--\r\n").status == 400
        assert post(parts_of(FILES[0])[:-9]).status in (202, 400)
        assert post(parts_of(FILES[0]).replace(b"--b", b"--c")).status == 400
        assert post(parts_of(FILES[0], bytes(BYTES_MAX))).status == 202
        assert post(parts_of(FILES[0]), Accept="text/plain").status == 406
        assert post(parts_of(FILES[0]), "/studies/1.2*").status == 404
        assert post(parts_of(FILES[0]), Origin="https://elsewhere.example").status == 403
    assert count() == 0
    wait_for(lambda: not hosting.front.is_busy, what="all are over")


def test_a_request_counts_once_and_for_its_limits(hosting: Hosting, count: Callable[[], int]) -> None:
    route = next(route for route in hosting.front.routes if route.name.endswith("POST /dicom-web/studies"))
    counters = hosting.engine.metrics.operation("http", route.name)
    body = parts_of(FILES[0])
    with open_connection(hosting) as post:
        before = counters.latency_s.count, counters.sent_bytes, counters.received_bytes
        answer = post(body)
        assert count() == 1
        assert counters.latency_s.count == before[0] + 1
        assert len(answer.body) < counters.sent_bytes - before[1] < len(answer.body) + 2000
        assert counters.received_bytes - before[2] == len(body)
        with configured(hosting, allow=()):
            assert post(body).status == 403
        with configured(hosting, requests_per_client_max=1):
            assert post(body).status == 200
        with configured(hosting, requests_max=0):
            assert post(body).status == 503
        with configured(hosting, requests_per_client_per_s_max=1):
            found = [post(body).status]
            while found[-1] == 200 and len(found) < 1000:
                found.append(post(body).status)
            assert (found[0], found[-1]) == (200, 429)
        assert count() == 2 + found.count(200)
        with configured(hosting, public_root="https://pacs.example.org/x"):
            assert post(body).module["00081190"]["Value"][0].startswith("https://pacs.example.org/x/dicom-web/studies/")
        assert post(body).status == 200


def test_a_token_that_ends_is_looked_at_with_each_request(
    hosting: Hosting, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its provider may withdraw the key before. Headers without one are evaluated once a connection."""
    authentication, asked = hosting.front.authentication, [0]
    identify, ends = authentication.identify_at_once, [False]

    def identified(request: Request) -> Proof | None:
        asked[0] += 1
        proof = identify(request)
        if ends[0]:
            request.principal = dataclasses.replace(request.principal, until_s=time.time() + 3600)
        return proof

    monkeypatch.setattr(authentication, "identify_at_once", identified)
    for ends[0], expected in ((True, 3), (False, 1)):
        before = asked[0], count()
        with open_connection(hosting) as post:
            for _ in range(3):
                assert post(parts_of(FILES[0])).status == 200
        assert (asked[0] - before[0], count() - before[1]) == (expected, 3)


def test_requests_behind_a_store_wait_for_its_answer(
    hosting: Hosting, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that arrive while it is committed."""
    offer, waiting = Ingestor.offer, []
    monkeypatch.setattr(Ingestor, "offer", lambda *arguments: waiting.append(arguments))
    with idle_socket(hosting) as sock:
        sock.sendall(request(body_of()))
        wait_for(lambda: len(waiting) == 1, what="it was offered")
        assert hosting.front.is_busy
        sock.sendall(HEALTH + b"\r\n")
        sock.sendall(request(body_of(), "Connection: close"))
        hosting.on_loop(lambda: None)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.setblocking(True)
        monkeypatch.setattr(Ingestor, "offer", offer)
        hosting.on_loop(lambda: offer(*waiting[0]))
        assert statuses(read_all(sock)) == ["200"] * 3
    assert count() == 1


@pytest.mark.parametrize("ends", ["reset", "half", "drain"])
def test_what_was_offered_is_stored_whatever_becomes_of_the_connection(
    hosting: Hosting, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    offer, waiting = Ingestor.offer, []
    monkeypatch.setattr(Ingestor, "offer", lambda *arguments: waiting.append(arguments))
    stored = stored_count(hosting)
    with idle_socket(hosting) as sock:
        sock.sendall(request(body_of()))
        wait_for(lambda: len(waiting) == 1, what="it was offered")
        if ends == "drain":
            hosting.on_loop(list(hosting.front._connections)[-1].drain)
        elif ends == "half":
            sock.shutdown(socket.SHUT_WR)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            wait_for(lambda: not hosting.front.is_busy, what="it counts no longer")
        hosting.on_loop(lambda: offer(*waiting[0]))
        if ends != "reset":
            assert statuses(read_all(sock)) == ["200"]
    wait_for(lambda: has_stored(hosting, stored + 1), what="it is stored")
    wait_for(lambda: not hosting.front.is_busy, what="it is over")


def test_a_part_that_has_ended_does_not_wait_for_the_rest_of_its_body(
    hosting: Hosting, count: Callable[[], int]
) -> None:
    whole = request(body_of(40_000, count=2))
    for cut in (len(whole) - 40, len(whole) - 1500):
        expected = stored_count(hosting) + 1
        with idle_socket(hosting) as sock:
            sock.sendall(whole[:cut])
            wait_for(partial(has_stored, hosting, expected), what="the first part is stored")
    assert count() == 0


def test_a_store_that_is_cut_off_leaves_nothing_behind(hosting: Hosting, count: Callable[[], int]) -> None:
    lost = hosting.counters["http_answers_499"]
    with idle_socket(hosting) as sock:
        sock.sendall(request(body_of(100_000))[:-1000])
        wait_for(lambda: hosting.engine.ingest_budget.taken_bytes > 0, what="a part of it has come")
        assert hosting.front.is_busy
    wait_for(lambda: not hosting.front.is_busy, what="it is over")
    assert (hosting.engine.ingest_budget.taken_bytes, count()) == (0, 0)
    assert hosting.counters["http_answers_499"] == lost + 1


def test_a_client_that_sends_too_slowly_is_ended(hosting: Hosting, count: Callable[[], int]) -> None:
    slow = hosting.counters["http_clients_too_slow"]
    with configured(hosting, transfer_timeout_s=0.4), idle_socket(hosting) as sock:
        sock.sendall(request(body_of(100_000))[:-1000])
        wait_for(lambda: hosting.counters["http_clients_too_slow"] == slow + 1, what="it was ended")
    wait_for(lambda: not hosting.front.is_busy, what="it counts no longer")


def test_a_store_of_http_1_0_with_the_same_headers_ends_the_connection(
    hosting: Hosting, count: Callable[[], int]
) -> None:
    whole = request(parts_of(FILES[0]))
    with idle_socket(hosting) as sock, sock.makefile("rb") as stream:
        sock.settimeout(20)
        sock.sendall(whole)
        read_answer(stream)
        assert count() == 1
        hosting.wait_idle(sock)
        sock.sendall(whole.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert stream.read().startswith(b"HTTP/1.0 200")
