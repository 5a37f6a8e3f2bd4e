"""One HTTP connection: aiohttp's protocol, with timeouts for slow clients.

    idle            no byte of a request has arrived                     closed after idle_timeout_s
    head            its first byte has arrived, its end has not          408 after header_timeout_s
    body            we read, and the client sends too slowly             reset after transfer_timeout_s
    answer          data waits for the client, which reads slowly        reset after transfer_timeout_s

The front calls `look` several times within the shortest of these times. What is received goes through `reception`.
"""

from __future__ import annotations

import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from engine import log
from engine.delivery import WINDOW_SHARE, Delivery, acknowledged_bytes, undelivered_bytes
from engine.errors import for_log
from engine.tls import names_of
from engine.web import reception
from engine.web.errors import problem, problem_response
from engine.web.outlet import UNSENT_BYTES_MAX

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aiohttp.web import BaseRequest, StreamResponse

    from engine.web.settings import Http

logger = log.get("web.connection")

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets the connection."""

TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Owner(reception.Owner, Protocol):
    """The part of the front that connections need."""

    def lost(self, connection: HttpConnection) -> None:
        """A connection has ended."""

    def finished(self, request: BaseRequest, response: StreamResponse | None) -> None:
        """A request was answered; `response` is None if its client disconnected before."""


class HttpConnection(reception.Reception):
    """One connection. Call `look` several times a second."""

    def __init__(self, front: Owner, manager: Any, settings: Http, on_end: Callable[[], None]) -> None:
        super().__init__(front, manager, settings)
        self._owner = front
        self._on_end = on_end
        window_s = settings.transfer_timeout_s * WINDOW_SHARE
        self._upload = Delivery(max(settings.upload_rate_bytes_per_s_min, 1), window_s)
        self._delivery = Delivery(max(settings.delivery_rate_bytes_per_s_min, 1), window_s)
        self.certificate_names: frozenset[str] | None = None
        """What its client's verified certificate says of it (`tls.names_of`); None without TLS."""

    # -- asyncio's side -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open, after the TLS handshake if there is one."""
        peername = transport.get_extra_info("peername")
        self.peer_host = str(peername[0]) if peername else ""
        transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)  # type: ignore[attr-defined]
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self.certificate_names = names_of(ssl_object)
        elif sock is not None:
            self.socket_fd = sock.fileno()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection was closed by either side."""
        super().connection_lost(exc)
        store, self._store = self._store, None
        if store is not None:
            store.lost()
        self._owner.lost(self)
        self._on_end()

    def half_closed(self) -> bool:
        """The client has ended its side. Returns whether it gets an answer: to a store that has arrived whole.

        To others this is the sign that the client has gone, and their work is cancelled.
        """
        if self._store is not None:
            is_store = self.direct_body is None
        elif self._messages:
            message, payload = self._messages[-1]
            is_store = isinstance(message, RawRequestMessage) and message.method == "POST" and payload.is_eof()
        else:
            request = self._request
            is_store = request is not None and request.method == "POST" and request.content.is_eof()
        if not is_store or self.ssl_context is not None:
            return False
        self.close()
        return True

    # -- the front's side -----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it is established and is not being closed."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def idle_since(self) -> float:
        """The start of the wait, by the loop's clock."""
        return self._idle_since

    def look(self, now: float) -> None:
        """Ends the connection when the client is too slow."""
        settings = self._settings
        if self.transport is None:
            return
        if self._is_undelivered_too_long(now):
            self.reset("received an answer too slowly")
        elif self._request is not None or self._store is not None:
            payload = self._request.content if self._request is not None else self._store_message[1]
            is_ours = self._reading_paused or (self.direct_body is not None and self.direct_body.is_paused)
            is_pending = not payload.is_eof() and not is_ours
            if self._upload.is_too_slow(now, self._received_bytes, pending=is_pending):
                self.reset("sent a body too slowly")
        elif self._head_since is not None and now - self._head_since > settings.header_timeout_s:
            self._front.engine.metrics.counters["http_heads_too_slow"] += 1
            self.transport.write(TOO_LATE)
            self.force_close()
        elif self.is_idle and self._head_since is None and now - self._idle_since > settings.idle_timeout_s:
            self.force_close()

    def reset(self, why: str) -> None:
        """Resets the connection, and drops data that the client has not received."""
        transport = self.transport
        if transport is None:
            return
        self._front.engine.metrics.counters["http_clients_too_slow"] += 1
        logger.about(self.peer_host).warning("connection reset, the client is too slow", peer=self.peer_host, why=why)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        transport.abort()

    def expect_no_body(self) -> None:
        """Does not wait for the request's body: the client expected 100 Continue and was refused."""
        self._lingering_time = 0.0

    def drain(self) -> None:
        """Closes an idle connection; one that serves a request is closed after it."""
        if self.is_idle and self._head_since is None:
            self.force_close()
        else:
            self.close()

    # -- aiohttp's side -------------------------------------------------------------------------

    async def _handle_request(
        self, request: BaseRequest, start_time: float | None, request_handler: Any
    ) -> tuple[StreamResponse, bool]:
        response: StreamResponse | None = None
        try:
            response, reset = await super()._handle_request(request, start_time, request_handler)
            self._is_answered = bool(response.keep_alive) and not reset and request.content.is_eof()
            return response, reset
        finally:
            if self.direct_body is not None:
                self.direct_body.drop()
            self._request = None
            self._idle_since = self._loop.time()
            self._owner.finished(request, response)

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        """The answer to bytes that are not a request (400), and to an exception in a handler (500)."""
        counters = self._front.engine.metrics.counters
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer was sent already")
        if status == 500:
            counters["http_handlers_crashed"] += 1
            crash = exc or RuntimeError("unknown")
            logger.error("request crashed", peer=self.peer_host, error=for_log(crash))
            response = problem(crash, getattr(request, "id", ""))
        else:
            if isinstance(exc, LineTooLong):
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            response = problem_response(status, f"this is not a valid HTTP request: {self._not_understood(exc)}", "")
        response.force_close()
        return response

    # -- inside ---------------------------------------------------------------------------------

    def _is_undelivered_too_long(self, now: float) -> bool:
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        acknowledged = acknowledged_bytes(sock) or 0
        is_pending = self.transport.get_write_buffer_size() > 0 or undelivered_bytes(sock) > 0
        return self._delivery.is_too_slow(now, acknowledged, pending=is_pending)
