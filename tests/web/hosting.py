"""The HTTP front on a real socket in the test's process, with routes of the test beside its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from engine.archive.archive import Archive
from engine.archive.settings import Jobs
from engine.config import Config, Limits, Peer, Role
from engine.errors import EngineError
from engine.exchange import settings as exchange_settings
from engine.exchange.runner import Runner
from engine.hl7.settings import Hl7Destination, Hl7Source
from engine.identity.settings import Oidc
from engine.orders.settings import WorkitemTemplate
from engine.runtime.engine import Engine
from engine.runtime.front import ServerLink
from engine.web.connection import HttpConnection
from engine.web.front import WebFront
from engine.web.route import Route
from engine.web.routes import ROUTES
from engine.web.settings import Fhir, Http, Webhook

LIMITS = Limits(disk_reserve_bytes=0)


class Hosting:
    """What a script may look at. The script runs in a thread of its own."""

    def __init__(self, engine: Engine, front: WebFront, port: int) -> None:
        self.engine = engine
        self.front = front
        self.port = port
        self.ended = 0
        """Connections that the front has said to be over."""
        self.unhandled: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def counters(self) -> dict[str, int]:
        return self.engine.metrics.counters

    def connect(self, timeout_s: float = 60.0) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def ask(self, request: bytes, timeout_s: float = 60.0) -> bytes:
        """All that comes back on a connection of its own until it is closed."""
        with self.connect(timeout_s) as sock:
            sock.sendall(request)
            return read_all(sock)

    def on_loop(self, work: Callable[[], None]) -> None:
        """Runs something on the front's loop, and waits for it."""

        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self.engine.loop).result(60)

    def wait_idle(self, sock: socket.socket) -> None:
        """Waits until the front's side of a client's connection waits for a request.

        Only then a request is answered the short way. An answer leaves some turns of the loop before its handler ends.
        """
        address = sock.getsockname()[:2]

        def is_at_work(connection: HttpConnection) -> bool:
            transport = connection.transport
            return (
                transport is not None
                and transport.get_extra_info("peername")[:2] == address
                and connection._waiter is None
            )

        async def wait() -> None:
            while any(map(is_at_work, self.front._connections)):
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(wait(), self.engine.loop).result(60)


def read_all(sock: socket.socket) -> bytes:
    """Until the other side closes or resets."""
    parts: list[bytes] = []
    try:
        while part := sock.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def host(
    data: Path,
    script: Callable[[Hosting], None],
    *,
    http: Http | None = None,
    routes: Iterable[Route] = (),
    limits: Limits = LIMITS,
    crashes: bool = False,
    webhooks: tuple[Webhook, ...] = (),
    peers: tuple[Peer, ...] = (),
    jobs: Jobs | None = None,
    sends_on: tuple[exchange_settings.Route, ...] = (),
    rules: tuple[exchange_settings.Rule, ...] = (),
    hl7_destinations: tuple[Hl7Destination, ...] = (),
    hl7_sources: tuple[Hl7Source, ...] = (),
    workitems: tuple[WorkitemTemplate, ...] = (),
    roles: tuple[Role, ...] = (),
    fhir: Fhir | None = None,
    link: Callable[[Engine], ServerLink] | None = None,
    oidc: tuple[Oidc, ...] = (),
) -> Hosting:
    """Runs `script` while the front serves; checks that nothing is left behind.

    `routes`: of HTTP; `sends_on`: of what arrives. `link` makes the front's way to the other processes of its server.
    """

    async def run() -> Hosting:
        loop = asyncio.get_running_loop()
        archive = Archive.open(data, role="keeper", create=True)
        config = Config(
            data=data,
            limits=limits,
            http=http or Http(),
            webhooks=webhooks,
            peers=peers,
            jobs=jobs or Jobs(),
            routes=sends_on,
            rules=rules,
            hl7_destinations=hl7_destinations,
            hl7_sources=hl7_sources,
            workitems=workitems,
            oidc=oidc,
            roles=roles,
            fhir=fhir or Fhir(),
        )
        failures: list[EngineError] = []
        engine = Engine.open(archive, config, writer="test", on_failure=failures.append, prewrite_bytes=0)
        front = WebFront(
            engine,
            routes=(*ROUTES, *routes),
            outbound=Runner(engine) if peers or rules else None,
            server=link and link(engine),
        )
        unhandled: list[str] = []
        loop.set_exception_handler(lambda _, context: unhandled.append(repr(context)))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            hosting = Hosting(engine, front, listener.getsockname()[1])
            accepted = 0

            def end() -> None:
                hosting.ended += 1

            def accept() -> None:
                nonlocal accepted
                sock, address = listener.accept()
                sock.setblocking(False)
                accepted += 1
                front.connected(sock, address[0], end)

            loop.add_reader(listener.fileno(), accept)
            try:
                await loop.run_in_executor(None, script, hosting)
            finally:
                loop.remove_reader(listener.fileno())
                front.start_draining()
                async with asyncio.timeout(60):
                    while front.connections_count or front.is_busy:
                        await asyncio.sleep(0.005)
                await engine.audit_trail.finish()
                front.close()
                engine.close()
                archive.close()
        assert hosting.ended == accepted, "each connection is over once"
        assert not front.is_busy
        assert not hosting.counters["http_quick_answers_failed"], "the short way has no faults of its own"
        hosting.unhandled = unhandled
        assert bool(unhandled) == crashes, unhandled
        return hosting

    return uvloop.run(run())


@contextmanager
def hosted(
    data: Path, limits: Limits = LIMITS, http: Http | None = None, fhir: Fhir | None = None
) -> Iterator[Hosting]:
    """The front in a thread of its own, for tests that share it; nothing is left behind when it ends."""
    started, done = threading.Event(), threading.Event()
    hostings: list[Hosting] = []
    failures: list[BaseException] = []

    def script(hosting: Hosting) -> None:
        hostings.append(hosting)
        started.set()
        done.wait()

    def serve() -> None:
        try:
            host(data, script, limits=limits, http=http, fhir=fhir)
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=serve)
    thread.start()
    started.wait(60)
    try:
        yield hostings[0]
    finally:
        done.set()
        thread.join(60)
    assert not failures
    assert not thread.is_alive()
