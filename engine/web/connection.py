"""One HTTP connection: aiohttp's protocol, with timeouts for slow clients.

    idle            no byte of a request has arrived                     closed after idle_timeout_s
    head            its first byte has arrived, its end has not          408 after header_timeout_s
    body            we read, and the client sends too slowly             reset after transfer_timeout_s
    answer          data waits for the client, which reads slowly        reset after transfer_timeout_s

The front calls `look` several times within the shortest of these times. aiohttp's parser is llhttp: requests with an
ambiguous length, and bytes that are not HTTP, are answered with 400, and the connection is closed.

The body of a route with `Route.takes_body` and a Content-Length does not go through that parser (`direct_body`): the
parser gets the head alone, and a new parser gets the next request.
"""

from __future__ import annotations

import re
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from engine import log
from engine.delivery import WINDOW_SHARE, Delivery, acknowledged_bytes, undelivered_bytes
from engine.errors import RequestError, for_log
from engine.tls import names_of
from engine.web.direct_body import DirectBody
from engine.web.errors import parser_reason, problem, problem_response
from engine.web.outlet import UNSENT_BYTES_MAX

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from aiohttp.web import BaseRequest, StreamResponse

    from engine.runtime.engine import Engine
    from engine.web.quick_frames import QuickFrames, Terms
    from engine.web.settings import Http

logger = log.get("web.connection")

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets the connection."""

TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

LINGER_S = 2.0
"""How long the rest of a body is read and dropped after an early answer: a client that is still sending would otherwise
get a reset before it reads the answer."""

_NEVER_S = 1e6

_HEAD_END = b"\r\n\r\n"
_HAS_LENGTH = re.compile(rb"\r\ncontent-length:", re.IGNORECASE)


class Owner(Protocol):
    """The part of the front that connections need."""

    engine: Engine
    quick: QuickFrames

    def lost(self, connection: HttpConnection) -> None:
        """A connection has ended."""

    def takes_body(self, path: str) -> bool:
        """Whether the route for a POST to this path reads the body directly."""

    def finished(self, request: BaseRequest, response: StreamResponse | None) -> None:
        """A request was answered; `response` is None if its client disconnected before."""


class HttpConnection(RequestHandler):
    """One connection. Call `look` several times a second."""

    def __init__(self, front: Owner, manager: Any, settings: Http, on_end: Callable[[], None]) -> None:
        self._parsing: dict[str, Any] = {
            "max_line_size": settings.request_line_bytes_max,
            "max_field_size": settings.header_bytes_max,
            "max_headers": settings.headers_max,
            "auto_decompress": False,
        }
        super().__init__(
            manager,
            loop=front.engine.loop,
            keepalive_timeout=_NEVER_S,  # `look` has the timeouts
            lingering_time=LINGER_S,
            access_log=None,  # type: ignore[arg-type]
            **self._parsing,
        )
        self._front = front
        self._settings = settings
        self._on_end = on_end
        self._received_bytes = 0
        self._head_since: float | None = None
        self._idle_since = front.engine.loop.time()
        window_s = settings.transfer_timeout_s * WINDOW_SHARE
        self._upload = Delivery(max(settings.upload_rate_bytes_per_s_min, 1), window_s)
        self._delivery = Delivery(max(settings.delivery_rate_bytes_per_s_min, 1), window_s)
        self._request: BaseRequest | None = None
        self._has_failed = False
        """Whether the parser has found an error, after which nothing can be told from its bytes."""
        self._is_answered = False
        """Whether the last request was answered but aiohttp's task does not wait for the next one yet."""
        self.direct_body: DirectBody | None = None
        """The body that is received past the parser."""
        self._held_body: DirectBody | None = None
        """The same body, until its request is created."""
        self._held_payload: Any = None
        self.peer_host = ""
        self.certificate_names: frozenset[str] | None = None
        """What its client's verified certificate says of it (`tls.names_of`); None without TLS."""
        self.socket_fd = -1
        """The descriptor for writes past the transport while `is_direct`; -1: there is none."""
        self.terms: Terms | None = None
        """The terms of its last request for a frame (`quick_frames`)."""

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
        self._front.lost(self)
        self._on_end()

    def half_closed(self) -> bool:
        """The client has ended its side. Returns whether it gets an answer: to a store that has arrived whole.

        To others this is the sign that the client has gone, and their work is cancelled.
        """
        if self._messages:
            message, payload = self._messages[-1]
            is_store = isinstance(message, RawRequestMessage) and message.method == "POST" and payload.is_eof()
        else:
            request = self._request
            is_store = request is not None and request.method == "POST" and request.content.is_eof()
        if not is_store or self.ssl_context is not None:
            return False
        self.close()
        return True

    def received(self, count: int) -> None:
        """Counts received bytes of any kind."""
        self._received_bytes += count

    def data_received(self, data: bytes) -> None:
        """Passes received bytes to the parser; no bytes: aiohttp lets it go on with those that it holds back."""
        if not data:
            self._parse(data)
            return
        is_free = self._waiter is not None or self._is_answered
        is_first = self.is_idle and self._head_since is None
        if is_first and data.startswith(b"POST ") and (end := self._head_end(data)):
            self._parse(data[:end])
            if length := self._direct_length():
                self._hold_body(length, data[end:])
            elif end < len(data):
                self._parse(data[end:])
        elif is_free and self._head_since is None and data.endswith(_HEAD_END):
            if self._answer_at_once(data):
                self._idle_since = self._loop.time()
                return
        else:
            self._parse(data)
        if self.is_idle:
            if self._head_since is None:
                self._head_since = self._loop.time()
        else:
            self._head_since = None

    def _answer_at_once(self, data: bytes) -> bool:
        """Parses bytes from an idle connection, probably a request without a body; True: it was answered."""
        waiter, self._waiter = self._waiter, None  # so that aiohttp's task is not woken if the request is answered here
        self._parse(data)
        self._waiter = waiter
        if len(self._messages) == 1:
            message = self._messages[0][0]
            if isinstance(message, RawRequestMessage) and self._front.quick.answer(self, message):
                self._messages.clear()
                assert self._parser is not None
                self._parser.message_consumed()
                return True
        if self._messages and waiter is not None and not waiter.done():
            waiter.set_result(None)
        return False

    def _parse(self, data: bytes) -> None:
        """Passes bytes to aiohttp's parser, up to the first error."""
        if self._has_failed:
            return
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._has_failed = True
            self._fail_body()

    def _fail_body(self) -> None:
        """Passes an error of the parser to the handler if it lies in a body: aiohttp would let the handler wait."""
        payloads = [payload for message, payload in self._messages if isinstance(message, RawRequestMessage)]
        if not payloads and self._request is not None:
            payloads = [self._request.content]
        if payloads and not payloads[-1].is_eof():
            error = self._messages.pop()[0]
            reason = self._not_understood(getattr(error, "exc", None))
            payloads[-1].set_exception(RequestError(f"the body is not valid HTTP: {reason}"))
            self._lingering_time = 0.0  # the rest of the body cannot be told from the next request

    # -- bodies past the parser -----------------------------------------------------------------

    def begin_request(self, request: BaseRequest) -> DirectBody | None:
        """Called before the request's task starts; returns its body if the parser does not read it.

        From now on the connection is busy: bytes that arrive before the task starts wait for this request's answer.
        """
        self._request, self._is_answered = request, False
        body, self._held_body = self._held_body, None
        return body

    def pause_body(self) -> None:
        """Pauses reading from the socket."""
        self._pause_transport_reading()

    def resume_body(self) -> None:
        """Resumes reading from the socket."""
        self._resume_transport_reading()

    def body_ended(self, length: int) -> None:
        """Called when the whole body has been read from the socket: the next bytes are another request."""
        self.direct_body = None
        payload, self._held_payload = self._held_payload, None
        payload.total_bytes = length
        payload.feed_eof()
        if self._manager is not None:
            self._parser = HttpRequestParser(
                self,
                self._loop,
                self._read_bufsize,
                payload_exception=RequestPayloadError,
                max_msg_queue_size=self._max_msg_queue_size,
                **self._parsing,
            )

    def _head_end(self, data: bytes) -> int:
        """The length of a complete head whose route reads the body directly, otherwise 0."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END) or not _HAS_LENGTH.search(data, 0, end):
            return 0
        path = data[len(b"POST ") : data.find(b"\r\n")].partition(b" ")[0]
        return end if self._front.takes_body(path.decode("latin-1")) else 0

    def _direct_length(self) -> int:
        """The length of the body of the request whose head was just parsed; 0 if the parser must read it."""
        if len(self._messages) != 1 or self._upgraded:
            return 0
        message, payload = self._messages[0]
        if not isinstance(message, RawRequestMessage) or message.chunked or payload.is_eof() or payload.total_bytes:
            return 0
        return int(message.headers.get("Content-Length", "0"))

    def _hold_body(self, length: int, beginning: bytes) -> None:
        body = DirectBody(self, length, beginning[:length])
        self.direct_body = self._held_body = body
        self._held_payload = self._messages[0][1]
        if not body.is_whole:
            body.pause()
            return
        self.body_ended(length)
        if len(beginning) > length:
            self.data_received(beginning[length:])

    # -- the front's side -----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it is established and is not being closed."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self._request is None and not self._messages

    @property
    def is_direct(self) -> bool:
        """Whether bytes may be written to `socket_fd`: the transport has no pending bytes."""
        transport = self.transport
        return (
            self.socket_fd >= 0
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    @property
    def idle_since(self) -> float:
        """The start of the wait, by the loop's clock."""
        return self._idle_since

    def hold_unsent(self, bytes_max: int) -> None:
        """See `outlet.Connection`."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.set_write_buffer_limits(high=bytes_max)

    def look(self, now: float) -> None:
        """Ends the connection when the client is too slow."""
        settings = self._settings
        if self.transport is None:
            return
        if self._is_undelivered_too_long(now):
            self.reset("received an answer too slowly")
        elif self._request is not None:
            payload = self._request.content
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
            self._front.finished(request, response)

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

    def _not_understood(self, error: BaseException | None) -> str:
        """Counts and logs bytes that are not a request; returns the reason."""
        self._front.engine.metrics.counters["http_requests_not_understood"] += 1
        reason = parser_reason(error)
        logger.about(self.peer_host).warning("invalid HTTP request", peer=self.peer_host, error=reason)
        return reason

    def _is_undelivered_too_long(self, now: float) -> bool:
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        acknowledged = acknowledged_bytes(sock) or 0
        is_pending = self.transport.get_write_buffer_size() > 0 or undelivered_bytes(sock) > 0
        return self._delivery.is_too_slow(now, acknowledged, pending=is_pending)
