"""The HTTP front: connections, and the processing of a request before and after its handler.

    connected   an HttpConnection (`connection`) on the socket, with TLS if a certificate is set
    a request   id, client and URL (`urls`) ─► limits ─► host name, origin (`cors`) ─► route ─► who it is
                (`authentication`) ─► access ─► handler
                an error at any step becomes an answer (`errors`); the request is logged and counted under its route
    draining    closes idle connections; requests continue; new ones on open connections are answered with 503

A handler is `async (Request) -> StreamResponse` and raises errors: every `EngineError` has a status. After the answer
has begun, an error ends the connection, so that the client sees that the answer is incomplete.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket as sockets
from functools import partial
from heapq import nsmallest
from http import HTTPStatus
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_server import Server

from engine import __version__, guards, log
from engine.access import SERVICE, Action, Kind, Principal
from engine.access.networks import networks
from engine.access.smart import is_narrowed
from engine.archive.rendering.thumbnails import ThumbnailsAhead
from engine.errors import ConfigError, EngineError, NotAllowed, RequestError, for_log
from engine.runtime.handshakes import Handshakes
from engine.runtime.sightings import merged
from engine.tls import SHUTDOWN_TIMEOUT_S
from engine.web import cors, health, https, security_headers, urls
from engine.web.audited import AuditedRequests
from engine.web.authentication import Authentication
from engine.web.change_stream import ChangeStream
from engine.web.commitments import Commitments
from engine.web.connection import HttpConnection
from engine.web.errors import HttpError, NotFound, Unavailable, problem
from engine.web.fhir.answers import as_outcome, is_fhir
from engine.web.fhir.notifying import Notifications
from engine.web.history_sampler import HistorySampler
from engine.web.intake import Intake, Scratch
from engine.web.limits import RequestLimits
from engine.web.live_status import LiveStatus
from engine.web.multipart import BlockPool
from engine.web.outlet import Outlet
from engine.web.quick_frames import QuickFrames
from engine.web.quick_stores import QuickStores
from engine.web.request import Request, Writer
from engine.web.route import Router
from engine.web.routes import ROUTES
from engine.web.sending import MUTABLE
from engine.web.webhooks import Webhooks

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, MutableMapping

    from aiohttp.http_parser import RawRequestMessage

    from engine.config import Config
    from engine.runtime.engine import Engine
    from engine.runtime.front import ServerLink
    from engine.runtime.outbound import Outbound
    from engine.web.route import Match, Route
    from engine.web.settings import Http

logger = log.get("web.front")

CHECKS_PER_TIMEOUT = 10
CHECK_S_MIN, CHECK_S_MAX = 0.05, 1.0

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:/+=-]{1,128}$")
_UNROUTED = "(no route)"
SERVER = f"filmroom/{__version__}"


class WebFront:
    """All HTTP connections of one process (`runtime.front.Front`)."""

    name = "http"

    def __init__(
        self,
        engine: Engine,
        server: ServerLink | None = None,
        routes: Iterable[Route] = ROUTES,
        outbound: Outbound | None = None,
        examine_security: Callable[[Config], list[dict[str, str]]] = lambda _: [],
    ) -> None:
        """`server` reaches the other processes of the server, if there are any; `outbound` reaches other archives.

        `examine_security` says how safe a configuration is, for `api.security`.

        Raises ConfigError.
        """
        self.engine = engine
        self._server_link = server
        self.outbound = outbound
        self._examine_security = examine_security
        self.routes = tuple(routes)
        self.is_draining = False
        self._router = Router(self.routes)
        self._server = Server(self._handle, request_factory=self._begin_request, handler_cancellation=True)
        self._limits = RequestLimits(lambda: self._settings, engine.metrics, engine.loop.time)
        self.outlet = Outlet()
        self.audited = AuditedRequests(engine, self.routes)
        self.blocks = BlockPool(engine.ingest_budget)
        self.quick = QuickFrames(self, self._limits, self.routes)
        self.quick_stores = QuickStores(self, self._limits, self.routes)
        self._connections: dict[HttpConnection, None] = {}
        self._scratch = Scratch()
        self._request_number = 0
        self._request_prefix = f"{os.getpid():x}-"
        self.authentication = Authentication(engine)
        self._changes = ChangeStream(engine)
        self._webhooks = Webhooks(engine)
        self._notifications = Notifications(engine)
        self._commitments = Commitments(engine)
        self._history = HistorySampler(engine, self.server_stats)
        self.live_status = LiveStatus(engine, self.server_stats)
        https_settings = https.settings_of(engine.config)
        self._tls = https_settings and https.server_context(https_settings)
        self._handshakes = Handshakes()
        self._looking = engine.loop.call_later(self._look_s, self._look)
        ahead = ThumbnailsAhead(engine.archive, engine.thumbnails, engine.pools.slow.run)
        self._ahead = guards.watch(engine.loop.create_task(ahead.run()), "thumbnails")

    @property
    def _settings(self) -> Http:
        return self.engine.config.http

    # -- as the worker sees it --------------------------------------------------------------------

    @property
    def connections_count(self) -> int:
        """The number of connections that are open or being opened."""
        return len(self._connections) + len(self._handshakes)

    @property
    def is_busy(self) -> bool:
        """Whether a request is in progress."""
        return self._limits.count > 0

    def connected(self, sock: socket.socket, host: str, on_end: Callable[[], None]) -> None:
        """Takes a connection over."""
        self._make_room()
        if self._handshakes.make_room(self._settings.handshakes_max):
            self.engine.metrics.counters["tls_handshakes_evicted"] += 1
        task = guards.watch(self.engine.loop.create_task(self._connect(sock, host, on_end)), "connect")
        self._handshakes.add(task, host)

        def done(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # before its first step, so `_connect` has done nothing
                sock.close()
                on_end()

        task.add_done_callback(done)

    def configure(self, config: Config) -> None:
        """Reads the certificates again, for new connections; requests read the configuration from the engine."""
        if self._tls is None:
            return
        try:
            settings = https.settings_of(config)
            if settings is None:
                raise ConfigError("http.certificate is missing: TLS ends with a restart")
            self._tls = https.server_context(settings)
        except ConfigError as error:
            logger.error("the TLS settings of HTTP cannot be used; the old ones remain", error=for_log(error))

    def start_draining(self) -> None:
        """Closes idle connections, and others after their request."""
        self.is_draining = True
        self._changes.end()
        self.live_status.end()
        self._webhooks.close()
        self._notifications.close()
        self._commitments.close()
        self._history.close()
        if self.outbound is not None:
            self.outbound.close()
        for connection in list(self._connections):
            connection.drain()

    def abort(self, why: str) -> None:
        """Ends all connections at once."""
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()

    def stats(self) -> dict[str, object]:
        """Its statistics, as plain data."""
        outbound = {} if self.outbound is None else self.outbound.stats()
        return {"http": {"connections": len(self._connections), "requests": self._limits.count}, **outbound}

    def close(self) -> None:
        """Ends the timer and the tasks."""
        self._looking.cancel()
        self._ahead.cancel()

    # -- connections ------------------------------------------------------------------------------

    async def _connect(self, sock: socket.socket, host: str, on_end: Callable[[], None]) -> None:
        made: list[HttpConnection] = []

        def protocol() -> Intake:
            connection = HttpConnection(self, self._server, self._settings, on_end)
            self._connections[connection] = None
            made.append(connection)
            return Intake(connection, self._scratch)

        tls: dict[str, Any] = {}
        if self._tls is not None:
            handshake_s = self._settings.header_timeout_s
            tls = {"ssl": self._tls, "ssl_handshake_timeout": handshake_s, "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT_S}
        try:
            await self.engine.loop.connect_accepted_socket(protocol, sock, **tls)
        except (Exception, asyncio.CancelledError) as error:
            # An evicted handshake is cancelled; ssl.SSLError is an OSError.
            is_usual = isinstance(error, OSError | TimeoutError | asyncio.CancelledError)
            self.engine.metrics.counters["http_connections_lost_early"] += 1
            write = logger.about(host).info if is_usual else logger.error
            write("connection lost before it began", peer=host, error=for_log(error))
            sock.close()
            # If the protocol was connected, its `connection_lost` calls `on_end`.
            if not made or self._connections.pop(made[0], self) is None:
                on_end()

    def lost(self, connection: HttpConnection) -> None:
        """A connection has ended."""
        self._connections.pop(connection, None)

    def takes_body(self, path: str) -> bool:
        """Whether a POST to this path takes its body itself."""
        match = self._router.match(path.partition("?")[0])
        route = match.routes.get("POST") if match is not None else None
        return route is not None and route.takes_body

    def _make_room(self) -> None:
        """Closes the longest idle connections, so that there are at most `connections_max` with one more."""
        count = len(self._handshakes) + sum(1 for connection in self._connections if connection.is_open)
        excess = count + 1 - self._settings.connections_max
        if excess <= 0:
            return
        idle = [connection for connection in self._connections if connection.is_open and connection.is_idle]
        for connection in nsmallest(excess, idle, key=lambda connection: connection.idle_since):
            self.engine.metrics.counters["http_connections_evicted"] += 1
            connection.force_close()

    @property
    def _look_s(self) -> float:
        settings = self._settings
        shortest_s = min(settings.header_timeout_s, settings.idle_timeout_s, settings.transfer_timeout_s)
        return min(CHECK_S_MAX, max(CHECK_S_MIN, shortest_s / CHECKS_PER_TIMEOUT))

    def _look(self) -> None:
        self._looking = self.engine.loop.call_later(self._look_s, self._look)
        now = self.engine.loop.time()
        for connection in list(self._connections):
            guards.call("http connection", partial(connection.look, now))

    # -- requests -----------------------------------------------------------------------------------

    def request_of(self, message: RawRequestMessage, connection: Any) -> Request:
        """The request of a message that is answered without a task."""
        return self._request(message, EMPTY_PAYLOAD, connection, None, None)

    def _begin_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
        """The request that a handler will answer."""
        request = self._request(message, payload, protocol, writer, task)
        request.direct_body = protocol.begin_request(request)
        return request

    def next_request_id(self) -> str:
        """A request id of our own."""
        self._request_number += 1
        return f"{self._request_prefix}{self._request_number:x}"

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
        loop = self.engine.loop
        answer_writer = Writer(protocol, loop, is_head=message.method == "HEAD")
        request = Request(message, payload, protocol, answer_writer, task, loop)
        request.answer_writer = answer_writer
        request.connection, request.outlet = protocol, self.outlet
        request.host_front, request.engine, request.changes = self, self.engine, self._changes
        request.commitments, request.authentication = self._commitments, self.authentication
        request.direct_body, request.blocks = None, self.blocks
        request.route_name, request.path_values, request.is_counted = _UNROUTED, {}, False
        request.search_parameters, request.target = None, SERVICE
        request.began_at, request.is_last = perf_counter(), message.upgrade
        request.stream_after_s = None
        client_id = message.headers.get("X-Request-ID", "")
        request.id = client_id if _REQUEST_ID.match(client_id) else self.next_request_id()
        settings = self._settings
        sockname = protocol.sockname or ("", 0)
        request.origin = urls.origin_of(
            message.headers,
            peer=protocol.peer_host,
            scheme="https" if protocol.ssl_context else "http",
            socket_host=str(sockname[0]),
            socket_port=int(sockname[1]),
            public_root=settings.public_root,
            trusted=networks(settings.trusted_proxies),
        )
        request.principal = Principal(
            Kind.HTTP, "", request.origin.client, certificate_names=protocol.certificate_names
        )
        return request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, Request)
        try:
            # A monitor behind the address of a busy client must not take that for the server's state.
            self._limits.enter(request.origin.client, is_limited=not request.raw_path.startswith(health.ROOT))
            request.is_counted = True
            return await self._answer(request)
        except (EngineError, MemoryError) as error:
            if request.writer.output_size > 0:
                logger.error("answer aborted", **self._facts(request), error=for_log(error))
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionError(str(error)) from error
            request.answer_writer.take_back()
            response = problem(error, request.id)
            if is_fhir(request):
                response = as_outcome(request, response)
            if response.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.error("request failed", **self._facts(request), error=for_log(error))
            if not request.content.is_eof() and request.content_length != 0:
                # Do not read the rest of the body.
                response.force_close()
                if "Expect" in request.headers and isinstance(request.protocol, HttpConnection):
                    request.protocol.expect_no_body()
            if isinstance(error, EngineError):
                error.without_frames()
            return response

    async def _answer(self, request: Request) -> web.StreamResponse:
        settings = self._settings
        raw_path = request.raw_path.partition("?")[0]
        if "://" in raw_path[:8]:
            raw_path = request.rel_url.raw_path  # an absolute URL, as for a proxy
        self.check_host(request, settings)
        match = self._router.match("/" if raw_path == "*" else raw_path)
        if match is not None and cors.is_preflight(request):
            return cors.answer_preflight(request, match.routes)
        cors.check(request, settings)
        route = self._route(request, match)
        request.target = route.target
        request.route_name, request.path_values = route.name, match.values if match is not None else {}
        if self.is_draining:
            raise Unavailable("the server is stopping")
        if route.action is not None or route.needs_login:
            await self.authentication.identify(request)
        if route.action is not None and not (decision := request.allowed(route.action, route.target)):
            self.audited.refused(request, decision.reason)
            raise NotAllowed(f"{request.origin.client}: {decision.reason}")
        if route.needs_login and is_narrowed(request.principal):
            raise NotAllowed("this token opens nothing of its user's account")
        if route.gives_files:
            self.authentication.check_files(request)
        if route.action is Action.STORE and (refusal := self.engine.admission.refusal()) is not None:
            raise refusal
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "bodies with a Content-Encoding are not supported")
        if route.action is not None and route.action is not Action.STORE:
            await self.engine.caught_up()
        await self.audited.begin(request, route)
        await self._invite(request)
        return await route.handler(request)

    def _route(self, request: Request, match: Match | None) -> Route:
        if match is None:
            raise NotFound("there is nothing at this path")
        route = match.routes.get(request.method)
        if route is None:
            allow = ", ".join(sorted(match.routes))
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is not for this path", {"Allow": allow})
        return route

    def check_host(self, request: Request, settings: Http) -> None:
        """Raises HttpError for a name that is not ours, which an attacker's page may have made resolve to us."""
        name = request.origin.host.lower()
        if request.headers.getall("Host", ()) and len(request.headers.getall("Host")) > 1:
            raise RequestError("there are two Host headers")
        if "*" in settings.host_names or name == "localhost" or name.endswith(".localhost") or _is_address(name):
            return
        own = {sockets.gethostname().lower(), urls.host_of(settings.public_root), *map(str.lower, settings.host_names)}
        if name not in own and name.partition(".")[0] != sockets.gethostname().lower().partition(".")[0]:
            detail = "this server does not have that host name (http.host_names)"
            raise HttpError(HTTPStatus.MISDIRECTED_REQUEST, detail)

    async def _invite(self, request: Request) -> None:
        """Answers `Expect: 100-continue`, after all checks."""
        expectation = request.headers.get("Expect")
        if expectation is None or request.version < (1, 1):
            return
        if expectation.lower() != "100-continue":
            raise HttpError(HTTPStatus.EXPECTATION_FAILED, "only Expect: 100-continue is supported")
        if request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def finish_headers(self, request: Request, response: web.StreamResponse) -> None:
        """Adds the headers of every answer."""
        headers = response.headers
        headers["Server"] = SERVER
        headers["X-Request-ID"] = request.id
        security_headers.add(response, self._settings, is_https=request.root.startswith("https:"))
        if response.status != HTTPStatus.SWITCHING_PROTOCOLS and (self.is_draining or request.is_last):
            response.force_close()
            headers["Connection"] = "close"
        if request.principal.session:
            _keep_private(headers)
        cors.add_headers(request, response, self._settings)

    def finished(self, request: Any, response: web.StreamResponse | None) -> None:
        """Counts and logs a request that was answered, or whose client disconnected (`response` is None)."""
        if not isinstance(request, Request) or not request.is_counted:
            return
        self._limits.leave(request.origin.client)
        status = response.status if response is not None else 499
        seconds = perf_counter() - request.began_at
        if request.stream_after_s is not None:
            # Its length says nothing of us, and a client that leaves it is no failure.
            seconds, status = request.stream_after_s, HTTPStatus.OK
        received, sent = request.content.total_bytes, request.writer.output_size
        self.audited.finished(request, status)
        self.note_end(
            request.origin.client, request.method, request.route_name, request.id, status, seconds, received, sent
        )

    def note_end(
        self, client: str, method: str, route: str, request_id: str, status: int, seconds: float, received: int,
        sent: int,
    ) -> None:  # fmt: skip
        """Counts and logs a request that is over."""
        self.engine.metrics.http_request(client)
        counters = self.engine.metrics.operation(self.name, route)
        counters.observe(seconds, status >= 400, received_bytes=received, sent_bytes=sent)
        if status >= 400:
            self.engine.metrics.counters[f"http_answers_{status}"] += 1
        mode = self._settings.request_log
        is_reading = method in cors.READING
        if (mode == "none" or (is_reading and status < 400 and mode != "all")) and not logger.enabled("debug"):
            return
        facts = {"peer": client, "method": method, "route": route, "request_id": request_id, "status": status}
        peer_logger = logger.about(client)
        if mode == "none":
            write = peer_logger.debug
        elif status >= 400:
            write = peer_logger.warning
        else:
            write = peer_logger.debug if is_reading and mode != "all" else peer_logger.info
        write("request", **facts, ms=round(seconds * 1000, 1), sent=sent)

    def _facts(self, request: Request) -> dict[str, object]:
        """The fields of a request for the log. Never log the URL, which may name a patient."""
        client, name = request.origin.client, request.route_name
        return {"peer": client, "method": request.method, "route": name, "request_id": request.id}

    async def server_stats(self) -> dict[str, Any]:
        """The statistics of all processes; only of this one if there is no supervisor."""
        if self._server_link is None:
            return {
                "time": time(),
                "workers": [{**self.engine.stats(), **self.stats()}],
                "archive": self.engine.archive.stats(),
            }
        return await self._server_link.ask("stats")

    def security_findings(self) -> list[dict[str, str]]:
        """How safe the configuration in force is; takes seconds if identity providers do not answer."""
        return self._examine_security(self.engine.config)

    async def peer_sightings(self) -> dict[str, dict[str, Any]]:
        """When each peer was seen last by any worker."""
        if self._server_link is None:
            return self.engine.sightings.snapshot()
        answer = await self._server_link.ask("peers")
        return merged(worker.get("peers", {}) for worker in answer.get("workers", []))

    async def change_peer(self, title: str, table: dict[str, Any] | None, actor: str, reason: str) -> dict[str, Any]:
        """Adds, replaces or removes (None) a managed peer; see `server.peer_changes`. Empty: nobody answers."""
        if self._server_link is None:
            return {}
        return await self._server_link.ask("change_peer", title=title, table=table, actor=actor, reason=reason)

    async def replay_message(self, number: int) -> dict[str, Any]:
        """Has a message of the journal applied again. Empty: nobody answers."""
        if self._server_link is None:
            return {}
        return await self._server_link.ask("replay", number=number)


def _keep_private(headers: MutableMapping[str, str]) -> None:
    """Lets no cache give to others what a user or a visitor may see: a browser asks each time, or keeps nothing."""
    if "max-age" in headers.get("Cache-Control", ""):
        headers["Cache-Control"] = MUTABLE
    elif "ETag" not in headers:
        headers["Cache-Control"] = "no-store"


def _is_address(name: str) -> bool:
    for family in (sockets.AF_INET, sockets.AF_INET6):
        try:
            sockets.inet_pton(family, name)
        except OSError:
            continue
        return True
    return False
