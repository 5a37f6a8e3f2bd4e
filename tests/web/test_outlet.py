"""What goes past the transport: frames answered where their request arrives, and studies. The same answers as on the
usual way, and the same limits."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from pathlib import Path

import pytest

from engine.accounts.proof import Proof
from engine.archive.ingest.request import ReceivedInstance
from engine.index.format.types import Level, Outcome
from engine.storage.record import Position, crc32c
from engine.web.connection import HttpConnection
from engine.web.outlet import Outlet
from engine.web.request import Request
from engine.web.settings import Http
from tests import samples
from tests.actors import actor
from tests.archive import kept
from tests.archive.test_retrieve import JPEG, framed
from tests.system.server import wait_for
from tests.web.hosting import Hosting, hosted, read_all
from tests.web.wado import AS_STORED, FRAMES_AS_STORED, Get, requesting

STUDY = f"{samples.ROOT}.1"
NATIVE = [f"/studies/{STUDY}/series/{STUDY}.1/instances/{kept.uid_of(number)}/frames/1" for number in range(3)]
PIXELS = 500_000
FORMS = {"one part": FRAMES_AS_STORED, "alone": "application/octet-stream; transfer-syntax=*", "explicit": ""}


def jpeg_url(number: int, frame: int) -> str:
    study = f"{samples.ROOT}.9"
    return f"/studies/{study}/series/{study}.1/instances/{study}.1.{number}/frames/{frame}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("quick") / "data"
    with kept.opened(data, segment_bytes=64 << 20) as archive:
        kept.store(archive, [kept.data_set(number, pixels=PIXELS) for number in range(len(NATIVE))])
        for number, count, tables in ((1, 1, ""), (2, 5, "right"), (3, 5, "wrong")):
            payload, _ = framed(number, count=count, tables=tables)
            item = ReceivedInstance([payload], len(payload), crc32c(payload), JPEG, "MODALITY")
            assert archive.ingest_batch([item]) == [Outcome.STORED]
        doomed = samples.encoded(samples.instance(20, 1, 1, pixels=bytes(4096)))
        kept.store(archive, [doomed])
    return data


@pytest.fixture(scope="module")
def hosting(data: Path) -> Iterator[Hosting]:
    with hosted(data) as hosting:
        yield hosting


@pytest.fixture
def get(hosting: Hosting) -> Iterator[Get]:
    with requesting(hosting) as get:
        yield get


@contextmanager
def counting(hosting: Hosting) -> Iterator[Callable[[], int]]:
    """How many requests have been answered the short way."""
    quick, answered = hosting.front.quick.answer, [0]

    def answer(*arguments: object) -> bool:
        is_answered = quick(*arguments)  # type: ignore[arg-type]
        answered[0] += is_answered
        return is_answered

    hosting.front.quick.answer = answer  # type: ignore[method-assign, assignment]

    def count() -> int:
        hosting.on_loop(lambda: None)  # an answer is on its way before it is counted
        return answered[0]

    try:
        yield count
    finally:
        hosting.front.quick.answer = quick  # type: ignore[method-assign]


@pytest.mark.parametrize("accept", FORMS.values(), ids=list(FORMS))
def test_the_fast_path_gives_the_same_answer(hosting: Hosting, get: Get, accept: str) -> None:
    paths = [*NATIVE, jpeg_url(1, 1), jpeg_url(2, 1), jpeg_url(2, 5), jpeg_url(3, 1)]
    headers = {"Accept": accept} if accept else {}
    quick_paths = []
    for path in paths:
        get(path, X_Request_ID="ours")  # tables of many frames are then in memory
    with counting(hosting) as count:
        for path in paths:
            before = count()
            quick = get(path, **headers)
            if count() > before:
                quick_paths.append(path)
            usual = get(path, X_Request_ID="ours", **headers)
            assert count() <= before + 1
            assert (quick.status, quick.body) == (usual.status, usual.body)
            ours, theirs = dict(quick.headers), dict(usual.headers)
            assert ours.pop("X-Request-ID") != theirs.pop("X-Request-ID")
            ours.pop("Date"), theirs.pop("Date")
            assert ours == theirs
    # Without a transfer syntax JPEG is decoded.
    assert quick_paths == (paths if accept else NATIVE)


def test_frames_are_as_stored(hosting: Hosting, get: Get) -> None:
    get(jpeg_url(2, 1), X_Request_ID="ours")
    with counting(hosting) as count:
        for number, path in enumerate(NATIVE):
            ((_, frame),) = get(path, Accept=FRAMES_AS_STORED).parts
            assert frame == random.Random(number).randbytes(PIXELS)
        for number, frames in ((1, 1), (2, 5)):
            _, codestreams = framed(number, count=frames, tables="right")
            for frame_number, codestream in enumerate(codestreams, 1):
                ((_, frame),) = get(jpeg_url(number, frame_number), Accept=FRAMES_AS_STORED).parts
                assert frame == codestream
        assert count() == len(NATIVE) + 6


def test_requests_for_more_than_a_frame_take_the_usual_path(hosting: Hosting, get: Get) -> None:
    whole = get(NATIVE[0], Accept=FRAMES_AS_STORED)
    with counting(hosting) as count:
        head = get(NATIVE[0], "HEAD", Accept=FRAMES_AS_STORED)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(len(whole.body))
        part = get(NATIVE[0], Accept=FRAMES_AS_STORED, Range="bytes=100-199")
        assert (part.status, part.body) == (206, whole.body[100:200])
        assert get(NATIVE[0], Accept=FRAMES_AS_STORED, If_None_Match=whole.headers["ETag"]).status == 304
        assert get(NATIVE[0], Accept="image/png").status == 406
        assert get(f"{NATIVE[0]}?accept=application/octet-stream").headers["Content-Type"].startswith("application/")
        assert get(NATIVE[0], Host="elsewhere.example").status == 421
        assert get(NATIVE[0].replace("/frames/1", "/frames/2")).status == 404
        assert get(jpeg_url(2, 6)).status == 404
        assert get(NATIVE[0].replace(f"{STUDY}.1/", "1.2.3/")).status == 404
        assert count() == 0
        assert get(NATIVE[0], Accept=FRAMES_AS_STORED).body == whole.body
        assert count() == 1


def test_a_deleted_frame_is_gone_at_once(hosting: Hosting, get: Get) -> None:
    study = f"{samples.ROOT}.20"
    path = f"/studies/{study}/series/{study}.1/instances/{study}.1.1/frames/1"
    get(path, X_Request_ID="ours")
    with counting(hosting) as count:
        assert get(path).status == 200
        assert count() == 1
        doomed = kept.current(hosting.engine.archive, f"{study}.1.1")
        hosting.engine.archive.delete_instances([doomed], level=Level.IMAGE, actor=actor(), reason="")
        assert get(path).status == 410


def test_requests_are_counted_with_what_was_sent(hosting: Hosting, get: Get) -> None:
    get(NATIVE[0], X_Request_ID="ours")
    route = next(route for route in hosting.front.routes if route.path.endswith("/frames/{frames}"))
    counters = hosting.engine.metrics.operation("http", route.name)
    with counting(hosting) as count:
        before = counters.latency_s.count, counters.sent_bytes
        body = get(NATIVE[0]).body
        assert count() == 1
        assert counters.latency_s.count == before[0] + 1
        assert len(body) < counters.sent_bytes - before[1] < len(body) + 2000


def test_a_token_that_ends_is_looked_at_with_each_frame(
    hosting: Hosting, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    authentication, asked = hosting.front.authentication, [0]
    identify = authentication.identify_at_once

    def identified(request: Request) -> Proof | None:
        asked[0] += 1
        proof = identify(request)
        request.principal = dataclasses.replace(request.principal, until_s=time.time() + 3600)
        return proof

    get(NATIVE[0], X_Request_ID="ours")
    monkeypatch.setattr(authentication, "identify_at_once", identified)
    with counting(hosting) as count:
        for number in range(1, 4):
            assert get(NATIVE[0], User_Agent="with a token").status == 200
            assert (count(), asked[0]) == (number, number)


def request_of(path: str) -> bytes:
    return f"GET /dicom-web{path} HTTP/1.1\r\nHost: localhost\r\nAccept: {FRAMES_AS_STORED}\r\n\r\n".encode()


def test_requests_in_one_piece_and_in_pieces_are_answered_in_their_order(hosting: Hosting) -> None:
    requests = [request_of(path) for path in (*NATIVE, jpeg_url(2, 1), NATIVE[0])]
    closing = request_of(NATIVE[1]).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    once = b"".join([hosting.ask(each.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) for each in requests])
    together = hosting.ask(b"".join([*requests, closing]))
    bodies = together.split(b"HTTP/1.1 200 OK\r\n")[1:]
    contents = [part.partition(b"\r\n\r\n")[2] for part in once.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert [body.partition(b"\r\n\r\n")[2] for body in bodies[:-1]] == contents
    with hosting.connect() as sock, sock.makefile("rb") as stream:
        for cut in (1, 40, len(requests[0]) - 2):
            sock.sendall(requests[0][:cut])
            wait_for(lambda: not hosting.front.is_busy, what="a look")
            sock.sendall(requests[0][cut:])
            assert read_answer(stream) == contents[0]


@pytest.mark.parametrize("turns", range(4))
def test_a_request_that_arrives_before_the_task_of_the_previous_one_starts_waits_for_its_answer(
    hosting: Hosting, turns: int
) -> None:
    """`turns`: how many turns of the loop lie between the arrival of the two."""
    health = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    body = b"--b--"
    store = (
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: ours\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/related; boundary=b\r\n\r\n%s" % (len(body), body)
    )
    loop = hosting.engine.loop

    def arrive(connection: HttpConnection, requests: list[bytes], turns_left: int) -> None:
        if turns_left == 0:
            connection.data_received(requests.pop(0))
        if requests:
            loop.call_soon(arrive, connection, requests, turns if turns_left == 0 else turns_left - 1)

    known = set(hosting.front._connections)
    with hosting.connect() as sock, sock.makefile("rb") as stream:
        sock.sendall(health)
        assert b"live" in read_answer(stream)
        (connection,) = set(hosting.front._connections) - known
        hosting.on_loop(lambda: arrive(connection, [store, request_of(NATIVE[0]), store, health], 0))
        lengths = [len(read_answer(stream)) for _ in range(4)]
    assert lengths[0] == lengths[2] < PIXELS < lengths[1] and lengths[3] < lengths[0], lengths


def read_answer(stream: BufferedIOBase) -> bytes:
    """The body of one answer of known length."""
    length = 0
    while (line := stream.readline()) != b"\r\n":
        if line.startswith(b"Content-Length:"):
            length = int(line[15:])
    return stream.read(length)


def test_a_slow_client_gets_everything(hosting: Hosting) -> None:
    expected = hosting.ask(request_of(NATIVE[0]).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", hosting.port))
        for _ in range(20):  # more than the kernel takes
            sock.sendall(request_of(NATIVE[0]))
        with sock.makefile("rb") as stream:
            for _ in range(20):
                assert read_answer(stream) == expected.partition(b"\r\n\r\n")[2]


@contextmanager
def configured(hosting: Hosting, **options: object) -> Iterator[None]:
    """As after a reload with these settings of HTTP."""
    before = hosting.engine.config
    hosting.engine.config = before.__class__(data=before.data, limits=before.limits, http=Http(**options))  # type: ignore[arg-type]
    try:
        yield
    finally:
        hosting.engine.config = before


def test_a_client_that_does_not_read_is_disconnected(hosting: Hosting) -> None:
    with (
        configured(hosting, transfer_timeout_s=0.4, delivery_rate_bytes_per_s_min=8 << 20),
        socket.socket() as sock,
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", hosting.port))
        sock.sendall(request_of(NATIVE[0]) * 20)
        wait_for(lambda: hosting.counters["http_clients_too_slow"] == 1, what="given up")
        read_all(sock)


def test_a_reload_counts_from_the_next_request_on(hosting: Hosting, get: Get) -> None:
    get(NATIVE[0], X_Request_ID="ours")
    with counting(hosting) as count:
        assert get(NATIVE[0]).status == 200
        assert count() == 1
        with configured(hosting, allow=()):
            assert get(NATIVE[0]).status == 403
        with configured(hosting, requests_per_client_per_s_max=1):
            statuses = [get(NATIVE[0]).status]
            while statuses[-1] == 200 and len(statuses) < 1000:
                statuses.append(get(NATIVE[0]).status)
            assert statuses[0] == 200
            assert statuses[-1] == 429
        with configured(hosting, request_log="all"):
            assert get(NATIVE[0]).status == 200
        quick = 1 + statuses.count(200)
        assert count() == quick, "what is refused or logged goes the usual way"
        with configured(hosting, cors_origins=("https://viewer.example.org",)):
            answer = get(NATIVE[0], Origin="https://viewer.example.org")
        assert answer.headers["Access-Control-Allow-Origin"] == "https://viewer.example.org"
        assert "Origin" in answer.headers["Vary"]
        with configured(hosting, public_root="https://pacs.example.org/x"):
            ((part, _),) = get(NATIVE[0], Accept=FRAMES_AS_STORED).parts
        assert part.content_location == f"https://pacs.example.org/x/dicom-web{NATIVE[0]}"
        assert count() == quick + 2
        hosting.front.is_draining = True
        try:
            assert get(NATIVE[0]).status == 503
        finally:
            hosting.front.is_draining = False
        assert count() == quick + 2


# Studies -----------------------------------------------------------------------------------------


@contextmanager
def sending(hosting: Hosting) -> Iterator[list[int]]:
    """The turn of the loop in which each message went past the transport."""
    turns, messages, done = [0], [], [False]
    send = Outlet.send

    async def turn() -> None:
        while not done[0]:
            turns[0] += 1
            await asyncio.sleep(0)

    def counted(*arguments: object) -> int:
        messages.append(turns[0])
        return send(*arguments)  # type: ignore[arg-type]

    turning = asyncio.run_coroutine_threadsafe(turn(), hosting.engine.loop)
    hosting.front.outlet.send = partial(counted, hosting.front.outlet)  # type: ignore[method-assign]
    try:
        yield messages
    finally:
        del hosting.front.outlet.send
        done[0] = True
        turning.result(60)


def test_a_study_is_the_same_on_the_fast_path_and_others_are_served_between_its_instances(
    hosting: Hosting, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sending(hosting) as messages:
        quick = get(f"/studies/{STUDY}", Accept=AS_STORED)
    assert len(messages) == len(NATIVE)
    assert sorted(set(messages)) == messages, "one message in a turn of the loop"
    monkeypatch.setattr(Outlet, "fits", lambda *_: False)
    with sending(hosting) as messages:
        usual = get(f"/studies/{STUDY}", Accept=AS_STORED)
    assert not messages
    assert quick.body == usual.body
    assert [len(content) > PIXELS for _, content in quick.parts] == [True] * len(NATIVE)


def test_a_slow_client_gets_a_whole_study(hosting: Hosting, get: Get) -> None:
    expected = get(f"/studies/{STUDY}", Accept=AS_STORED).body
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", hosting.port))
        connection = http.client.HTTPConnection("127.0.0.1", hosting.port)
        connection.sock = sock
        for _ in range(4):  # more than the kernel takes
            connection.request("GET", f"/dicom-web/studies/{STUDY}", headers={"Accept": AS_STORED})
            assert connection.getresponse().read() == expected


def test_damage_breaks_off_a_study_on_the_fast_path(hosting: Hosting, data: Path) -> None:
    study = f"{samples.ROOT}.30"
    payloads = [samples.encoded(samples.instance(30, 1, number, pixels=bytes(PIXELS))) for number in (1, 2)]
    archive = hosting.engine.archive
    kept.store(archive, payloads)
    position: Position = kept.current(archive, f"{study}.1.2").position
    kept.turn_byte(data, position.segment_id, position.payload_offset + PIXELS // 2)
    with requesting(hosting) as get, sending(hosting) as messages:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            get(f"/studies/{study}", Accept=AS_STORED)
        assert len(messages) == 1, "the damaged one goes the usual way, which says so"
    assert archive.retrieval.damaged_places() == {position[:2]}
    with requesting(hosting) as get:
        answer = get(f"/studies/{study}", Accept=AS_STORED)
    assert len(answer.parts) == 1
    assert "1 instances cannot be read" in answer.headers["Warning"]


def test_a_request_of_http_1_0_with_the_same_headers_ends_the_connection(hosting: Hosting) -> None:
    """Its version is in no header: the client would wait for the end until `idle_timeout_s`."""
    asked = request_of(NATIVE[0])
    with counting(hosting) as count, hosting.connect() as sock, sock.makefile("rb") as stream:
        sock.settimeout(20)
        for _ in range(2):
            hosting.wait_idle(sock)
            sock.sendall(asked)
            frame = read_answer(stream)
        assert count() > 0
        hosting.wait_idle(sock)
        sock.sendall(asked.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert stream.read().endswith(frame)
