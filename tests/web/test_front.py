"""The HTTP front: what happens to a request before and after its handler, and who is ended for being slow."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from engine.access import Action
from engine.errors import NotStored, StorageFailed
from engine.web.errors import Gone
from engine.web.request import Request
from engine.web.route import Route
from engine.web.settings import Http
from tests.system.server import wait_for
from tests.web.hosting import Hosting, host, read_all

BLOCK = b"x" * (64 << 10)


async def hello(request: Request) -> web.Response:
    said = [request.method, request.root, request.origin.client, dict(request.path_values), request.query.get("q")]
    return web.Response(body=orjson.dumps(said), content_type="application/json")


async def echo(request: Request) -> web.Response:
    return web.Response(body=await request.body())


async def count(request: Request) -> web.Response:
    length = 0
    async for part in request.content.iter_any():
        length += len(part)
    return web.Response(body=str(length).encode())


async def stream(request: Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(int(request.path_values["count"])):
        await response.write(BLOCK)
    return response


async def breaks(request: Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(BLOCK)
    raise StorageFailed("the disk is gone")


async def fails(request: Request) -> web.Response:
    raise {"gone": Gone("was deleted"), "unknown": NotStored("no study 1.2.3"), "disk": StorageFailed("/dev/sda1")}[
        request.path_values["how"]
    ]


async def crashes(request: Request) -> web.Response:
    raise ZeroDivisionError("JANE DOE")


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self) -> None:
        self.event: asyncio.Event | None = None
        self.entered = 0
        self.cancelled = 0

    async def handler(self, request: Request) -> web.Response:
        self.event = self.event or asyncio.Event()
        self.entered += 1
        try:
            await self.event.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return web.Response(body=b"open")


GATE_PATH = "/gate"


def routes(gate: Gate | None = None) -> list[Route]:
    return [
        Route("GET", "/hello/{name}/now", hello, "Says who asks", Action.QUERY),
        Route("POST", "/echo", echo, "Says it again", Action.STORE),
        Route("POST", "/count", count, "Counts", Action.STORE),
        Route("GET", "/stream/{count}", stream, "Streams", Action.RETRIEVE),
        Route("GET", "/breaks", breaks, "Breaks", Action.RETRIEVE),
        Route("GET", "/fails/{how}", fails, "Fails", Action.RETRIEVE),
        Route("GET", "/crashes", crashes, "Crashes", Action.RETRIEVE),
        Route("GET", GATE_PATH, (gate or Gate()).handler, "Waits", Action.RETRIEVE),
    ]


def get(hosting: Hosting, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple:  # type: ignore[type-arg]
    with closing(http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as answer:
            return answer.status, answer.headers, answer.read()


def test_a_path_is_found_with_any_slashes_and_head_is_get_without_a_body(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        for path in ("/hello/A%2FB/now", "/hello/A%2FB/now/", "//hello///A%2FB//now//"):
            status, headers, content = get(hosting, f"{path}?q=%5C,x", X_Request_ID="abc-1")
            assert (status, headers["X-Request-ID"], headers["Server"].split("/")[0]) == (200, "abc-1", "filmroom")
            expected = ["GET", hosting.url, "127.0.0.1", {"name": "A/B"}, "\\,x"]
            assert orjson.loads(content) == expected
            head = get(hosting, f"{path}?q=%5C,x", "HEAD")
            assert (head[0], head[2], head[1]["Content-Length"]) == (200, b"", str(len(content) + 1))
        assert get(hosting, "/stream/9", "HEAD")[2] == b""
        status, headers, content = get(hosting, "/nothing")
        assert (status, headers["Content-Type"]) == (404, "application/problem+json")
        assert orjson.loads(content)["request_id"] == headers["X-Request-ID"]
        status, headers, _ = get(hosting, "/echo")
        assert (status, headers["Allow"]) == (405, "POST")

    host(tmp_path, script, routes=routes())


def test_errors_have_a_status_and_internal_ones_reveal_nothing(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        assert (get(hosting, "/fails/gone")[0], get(hosting, "/fails/unknown")[0]) == (410, 404)
        assert b"1.2.3" in get(hosting, "/fails/unknown")[2]
        for path in ("/fails/disk", "/crashes"):
            status, _, content = get(hosting, path)
            assert status == 500 and b"sda1" not in content and b"JANE" not in content
        # An answer may come before it is counted.
        wait_for(lambda: hosting.counters["http_answers_500"] == 2, what="both are counted")

    host(tmp_path, script, routes=routes())


def test_a_truncated_answer_is_never_taken_for_a_complete_one(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            get(hosting, "/breaks")

    host(tmp_path, script, routes=routes())


def test_only_allowed_addresses_get_data_of_the_archive(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        assert get(hosting, "/hello/x/now")[0] == 403
        assert get(hosting, "/metrics")[0] == 403
        assert get(hosting, "/health/live")[0] == get(hosting, "/health/ready")[0] == 200
        # Behind a proxy that is trusted, the client's address counts; the client cannot write one itself.
        assert get(hosting, "/hello/x/now", X_Forwarded_For="10.1.2.3")[0] == 200
        assert get(hosting, "/hello/x/now", X_Forwarded_For="10.1.2.3, 172.16.0.9")[0] == 403

    host(tmp_path, script, routes=routes(), http=Http(allow=("10.0.0.0/8",), trusted_proxies=("127.0.0.1",)))


def test_a_foreign_host_name_is_refused(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        for name, status in (("evil.example", 421), ("pacs.example:99", 200), ("[::1]:8080", 200), ("localhost", 200)):
            assert get(hosting, "/hello/x/now", Host=name)[0] == status, name
        twice = b"GET /hello/x/now HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"
        assert b" 400 " in hosting.ask(twice)

    host(tmp_path, script, routes=routes(), http=Http(host_names=("pacs.example",)))


def test_pages_of_unlisted_origins_may_read_and_change_nothing(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        viewer, other = "https://viewer.example", "https://evil.example"
        _, headers, _ = get(hosting, "/hello/x/now", Origin=viewer)
        assert headers["Access-Control-Allow-Origin"] == viewer
        assert "Content-Range" in headers["Access-Control-Expose-Headers"] and "Origin" in headers["Vary"]
        assert "Access-Control-Allow-Origin" not in get(hosting, "/hello/x/now", Origin=other)[1]
        assert get(hosting, "/echo", "POST", b"x", Origin=other)[0] == 403
        assert get(hosting, "/echo", "POST", b"x", Origin=viewer)[0] == 200
        assert get(hosting, "/echo", "POST", b"x", Origin=hosting.url)[0] == 200, "a page from here"
        wanted = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "accept, x-a"}
        status, headers, _ = get(hosting, "/echo", "OPTIONS", Origin=viewer, **wanted)
        assert (status, headers["Access-Control-Allow-Methods"]) == (204, "POST")
        assert headers["Access-Control-Allow-Headers"] == "accept, x-a" and headers["Access-Control-Max-Age"]
        assert "Access-Control-Allow-Methods" not in get(hosting, "/echo", "OPTIONS", Origin=other, **wanted)[1]

    host(tmp_path, script, routes=routes(), http=Http(cors_origins=("https://viewer.example",)))


def test_options_describes_the_routes_as_wadl_and_json(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        for path in ("/", "/dicom-web/", "*"):
            status, headers, content = get(hosting, path, "OPTIONS")
            assert (status, headers["Content-Type"]) == (200, "application/vnd.sun.wadl+xml"), path
            assert b'path="health/live"' in content and hosting.url.encode() in content
        document = orjson.loads(get(hosting, "/", "OPTIONS", Accept="application/json")[2])
        assert "metrics" in {each["@path"] for each in document["application"]["resources"]["resource"]}

    host(tmp_path, script)


def test_large_encoded_and_unexpected_bodies_are_refused_unread(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        assert get(hosting, "/echo", "POST", b"y" * 1024)[2] == b"y" * 1024
        assert get(hosting, "/echo", "POST", b"y" * 1025)[0] == 413
        assert get(hosting, "/echo", "POST", b"y", Content_Encoding="gzip")[0] == 415
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\nExpect: 100-continue\r\n\r\n"
        assert hosting.ask(head % b"/nothing").startswith(b"HTTP/1.1 404 "), "refused instead of invited"
        with hosting.connect() as sock:
            sock.sendall(head % b"/count")
            assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
            sock.sendall(b"z" * 999_999)
            assert b"999999" in sock.recv(1000)
        unmeasured = (
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert b" 413 " in hosting.ask(unmeasured + b"800\r\n" + b"y" * 2048 + b"\r\n0\r\n\r\n")

    host(tmp_path, script, routes=routes(), http=Http(body_bytes_max=1024))


def test_too_many_requests_get_retry_after(tmp_path: Path) -> None:
    gate = Gate()

    def script(hosting: Hosting) -> None:
        waiting = [hosting.connect() for _ in range(2)]
        for sock in waiting:
            sock.sendall(b"GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: gate.entered == 2, what="two requests in their handlers")
        status, headers, _ = get(hosting, "/hello/x/now")
        assert (status, headers["Retry-After"]) == (429, "1")
        assert get(hosting, "/health/x")[0] == 404, "the state is told to a busy client too"
        hosting.engine.config = hosting.engine.config.__class__(http=Http(requests_max=2))
        status, headers, _ = get(hosting, "/hello/x/now")
        assert (status, headers["Retry-After"]) == (503, "1")
        hosting.on_loop(lambda: gate.event.set())  # type: ignore[union-attr]
        for sock in waiting:
            assert b"open" in sock.recv(1000)
            sock.close()
        hosting.engine.config = hosting.engine.config.__class__(http=Http(requests_per_client_per_s_max=1))
        assert [get(hosting, "/hello/x/now")[0] for _ in range(2)] == [200, 429]

    host(tmp_path, script, routes=routes(gate), http=Http(requests_per_client_max=2))


def test_a_client_that_goes_away_ends_its_handler(tmp_path: Path) -> None:
    gate = Gate()

    def script(hosting: Hosting) -> None:
        with hosting.connect() as sock:
            sock.sendall(b"GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(lambda: gate.event, what="the request in its handler")
        wait_for(lambda: gate.cancelled == 1 and not hosting.front.is_busy, what="its end")

    host(tmp_path, script, routes=routes(gate))


def pause(seconds: float) -> None:
    """What a slow client does: here time itself is what is tested."""
    threading.Event().wait(seconds)


def drip(sock: socket.socket, pause_s: float) -> None:
    """Sends a byte now and then until the other side ends the connection."""

    def is_ended() -> bool:
        try:
            sock.send(b"a")
        except ConnectionError:
            return True
        pause(pause_s)
        return False

    wait_for(is_ended, what="the end of the connection")


# Slow clients ------------------------------------------------------------------------------------

QUICK = Http(
    header_timeout_s=0.3,
    idle_timeout_s=0.6,
    transfer_timeout_s=0.4,
    upload_rate_bytes_per_s_min=1 << 20,
    delivery_rate_bytes_per_s_min=8 << 20,
)


def test_a_client_that_sends_its_head_too_slowly_gets_a_timeout(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        with hosting.connect() as sock:
            sock.sendall(b"GET /hello/x/now HTTP/1.1\r\nX-A: ")
            drip(sock, 0.03)
            assert b" 408 " in read_all(sock) or hosting.counters["http_heads_too_slow"] == 1
        assert hosting.counters["http_heads_too_slow"] == 1

    host(tmp_path, script, routes=routes(), http=QUICK)


def test_an_idle_connection_is_closed_and_one_that_is_used_is_kept(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        def is_kept() -> bool:
            with hosting.connect() as sock:
                for _ in range(4):
                    try:
                        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        if b"live" not in sock.recv(1000):
                            return False
                    except ConnectionError:
                        return False
                    pause(0.2)
                assert sock.recv(10) == b"", "closed after a while"
            return True

        # A pause may be longer on a busy machine.
        wait_for(is_kept, what="a connection that is used for longer than idle_timeout_s")

    host(tmp_path, script, http=QUICK)


def test_a_client_that_sends_or_reads_too_slowly_is_disconnected(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        with hosting.connect() as sock:
            sock.sendall(b"POST /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n")
            drip(sock, 0.05)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", hosting.port))
            sock.sendall(b"GET /stream/100000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(lambda: hosting.counters["http_clients_too_slow"] == 2, what="given up")
        wait_for(lambda: not hosting.front.is_busy, what="its handler ended")

    host(tmp_path, script, routes=routes(), http=QUICK)


def test_a_client_that_is_fast_enough_gets_everything(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        def gets_everything() -> bool:
            try:
                assert len(get(hosting, "/stream/1000")[2]) == 1000 * len(BLOCK)
                assert get(hosting, "/count", "POST", b"x" * (8 << 20))[2] == str(8 << 20).encode()
            except (http.client.HTTPException, OSError):
                return False  # on a busy machine a client may be too slow
            return True

        wait_for(gets_everything, what="all bytes")

    host(tmp_path, script, routes=routes(), http=QUICK)


# What is no proper HTTP --------------------------------------------------------------------------

POST = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: -1\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5x\r\nhello\r\n0\r\n\r\n",
        POST + b" folded: yes\r\n\r\n",
        b"POST /echo HTTP/1.1\nHost: localhost\n\n\x00",
        b"GET /hello/x/now\r\n\r\n",
        b"GET /hello/x/now HTTP/3.0\r\n\r\n",
        b"GET  /hello/x/now HTTP/1.1\r\n\r\n",
        b"GET /hello/\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(300)) + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x01\x00\x00\x00\x00\xd0" + bytes(100),
    ],
)
def test_ambiguous_and_invalid_requests_are_refused_and_the_connection_closed(tmp_path: Path, request_: bytes) -> None:
    def script(hosting: Hosting) -> None:
        answer = hosting.ask(request_ + b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.") and answer[9:12] in (b"400", b"431"), answer[:200]
        assert answer.count(b"HTTP/1.") == 1, "nothing behind it is answered"
        assert hosting.counters["http_requests_not_understood"] == 1

    host(tmp_path, script, routes=routes())


def test_requests_in_one_piece_are_answered_in_their_order(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        names = [f"n{number}" for number in range(50)]
        requests = [f"GET /hello/{name}/now HTTP/1.1\r\nHost: localhost\r\n\r\n" for name in names]
        answer = hosting.ask("".join([*requests, "GET /x HTTP/1.0\r\n\r\n"]).encode())
        assert [answer.index(f'"{name}"'.encode()) for name in names] == sorted(
            answer.index(f'"{name}"'.encode()) for name in names
        )
        assert answer.count(b"HTTP/1.1 200") == 50

    host(tmp_path, script, routes=routes())


# The end -----------------------------------------------------------------------------------------


def test_draining_finishes_requests_and_accepts_no_new_ones(tmp_path: Path) -> None:
    gate = Gate()

    def script(hosting: Hosting) -> None:
        idle, busy = hosting.connect(), hosting.connect()
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"live" in idle.recv(1000)
        busy.sendall(b"GET /gate HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: gate.event, what="the request in its handler")
        hosting.wait_idle(idle)
        hosting.on_loop(hosting.front.start_draining)
        assert idle.recv(1000) == b"", "an idle one is closed"
        assert b" 503 " in hosting.ask(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        hosting.on_loop(lambda: gate.event.set())  # type: ignore[union-attr]
        answer = read_all(busy)
        assert b"open" in answer and b"Connection: close" in answer
        idle.close()
        busy.close()

    host(tmp_path, script, routes=routes(gate))


def test_a_burst_of_connections_closes_as_many_idle_ones_as_are_too_many(tmp_path: Path) -> None:
    def script(hosting: Hosting) -> None:
        pairs = [socket.socketpair() for _ in range(30)]
        ended: list[int] = []

        def connect(some: list[tuple[socket.socket, socket.socket]]) -> None:
            for ours, _ in some:
                ours.setblocking(False)
                hosting.front.connected(ours, "127.0.0.1", lambda: ended.append(1))

        def are_open(count: int) -> bool:
            return len(hosting.front._connections) == count and not len(hosting.front._handshakes)

        hosting.on_loop(lambda: connect(pairs[:10]))
        wait_for(lambda: are_open(10), what="the first are open")
        hosting.on_loop(lambda: connect(pairs[10:20]))
        wait_for(lambda: len(ended) == 10 and are_open(10), what="the first are closed, the second open")
        assert [theirs.recv(1) for _, theirs in pairs[:10]] == [b""] * 10
        hosting.on_loop(lambda: connect(pairs[20:]))
        wait_for(lambda: len(ended) == 20, what="the second are closed")
        _, last = pairs[-1]
        last.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert last.recv(100).startswith(b"HTTP/1.1 200 ")
        for _, theirs in pairs:
            theirs.close()
        wait_for(lambda: len(ended) == len(pairs), what="all are closed")

    host(tmp_path, script, http=Http(connections_max=10))
