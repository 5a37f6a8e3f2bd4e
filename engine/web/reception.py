"""What an HTTP connection receives: aiohttp's parser, and the ways past it and past aiohttp's task.

    a request for a cached frame     answered at once (`quick_frames`)
    the body of a store              received where it is stored from (`direct_body`); of a short one without the task
                                     too (`quick_stores`)
    everything else                  messages for aiohttp's task

The parser is llhttp: requests with an ambiguous length, and bytes that are not HTTP, are answered with 400, and the
connection is closed. The body of a route with `Route.takes_body` and a Content-Length does not go through it: it gets
the head alone, and a new parser gets the next request. Answers are sent in the order of the requests: what comes behind
a store waits until that is answered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from engine import log
from engine.errors import RequestError
from engine.web.direct_body import DirectBody
from engine.web.errors import parser_reason

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest

    from engine.runtime.engine import Engine
    from engine.web.quick_frames import QuickFrames
    from engine.web.quick_frames import Terms as FrameTerms
    from engine.web.quick_stores import QuickStore, QuickStores
    from engine.web.quick_stores import Terms as StoreTerms
    from engine.web.settings import Http

logger = log.get("web.reception")

LINGER_S = 2.0
"""How long the rest of a body is read and dropped after an early answer: a client that is still sending would otherwise
get a reset before it reads the answer."""

_NEVER_S = 1e6

_HEAD_END = b"\r\n\r\n"
_HAS_LENGTH = re.compile(rb"\r\ncontent-length:", re.IGNORECASE)


class Owner(Protocol):
    """The part of the front that receives."""

    engine: Engine
    quick: QuickFrames
    quick_stores: QuickStores

    def takes_body(self, path: str) -> bool:
        """Whether the route for a POST to this path reads the body directly."""


class Reception(RequestHandler):
    """The receiving half of a connection."""

    def __init__(self, front: Owner, manager: Any, settings: Http) -> None:
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
        self._received_bytes = 0
        self._head_since: float | None = None
        self._idle_since = front.engine.loop.time()
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
        self._last_path = b""
        self._takes_body = False
        """Whether a POST to that path takes its body itself: a sender names the same one each time."""
        self.peer_host = ""
        self.socket_fd = -1
        """The descriptor for writes past the transport while `is_direct`; -1: there is none."""
        self.terms: FrameTerms | None = None
        """The terms of its last request for a frame (`quick_frames`)."""
        self.store_terms: StoreTerms | None = None
        """The terms of its last store (`quick_stores`)."""
        self._store: QuickStore | None = None
        """The store that is received or committed without aiohttp's task. Other messages wait for its answer."""
        self._store_message: Any = None
        """Its message and payload, for aiohttp's task if it becomes a usual request."""

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self._request is None and not self._messages and self._store is None

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

    def hold_unsent(self, bytes_max: int) -> None:
        """See `outlet.Connection`."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.set_write_buffer_limits(high=bytes_max)

    def received(self, count: int) -> None:
        """Counts received bytes of any kind."""
        self._received_bytes += count

    def data_received(self, data: bytes) -> None:
        """Passes received bytes to the parser; no bytes: aiohttp lets it go on with those that it holds back."""
        if not data:
            self._parse(data)
            return
        if self._store is not None:
            self._parse_unseen(data)
            return
        is_free = self._waiter is not None or self._is_answered
        is_first = self.is_idle and self._head_since is None
        if is_first and data.startswith(b"POST ") and (end := self._head_end(data)):
            self._parse_unseen(data[:end])
            if length := self._direct_length():
                self._hold_body(length, data[end:])
            elif end < len(data):
                self._parse(data[end:])
            if self._store is None:
                self._wake()
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
        self._parse_unseen(data)
        if len(self._messages) == 1:
            message = self._messages[0][0]
            if isinstance(message, RawRequestMessage) and self._front.quick.answer(self, message):
                self._messages.clear()
                assert self._parser is not None
                self._parser.message_consumed()
                return True
        self._wake()
        return False

    def _parse_unseen(self, data: bytes) -> None:
        """Parses without waking aiohttp's task, which `_wake` does unless the request is answered here."""
        waiter, self._waiter = self._waiter, None
        self._parse(data)
        self._waiter = waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if self._messages and waiter is not None and not waiter.done():
            waiter.set_result(None)

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
        if self._store is not None:
            if self._store.offer():
                self._held_body = None
            else:
                self._leave_store()

    def part_ended(self) -> None:
        """Called when a part of the body has been read from the socket, and more of it comes."""
        if self._store is not None:
            self._leave_store()

    def store_answered(self, answer: bytes) -> None:
        """Sends the answer to its store."""
        self._store = self._store_message = None
        self._idle_since = self._loop.time()
        if self.transport is not None:
            self.transport.write(answer)
        if self._close:
            self.force_close()
        else:
            self._wake()

    def _leave_store(self) -> None:
        """Makes the store a usual request, whose body continues where it is."""
        store, self._store = self._store, None
        assert store is not None
        store.leave()
        message, self._store_message = self._store_message, None
        self._messages.appendleft(message)
        self._wake()

    def _head_end(self, data: bytes) -> int:
        """The length of a complete head whose route reads the body directly, otherwise 0."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END) or not _HAS_LENGTH.search(data, 0, end):
            return 0
        path = data[len(b"POST ") : data.find(b"\r\n")].partition(b" ")[0]
        if path != self._last_path:
            self._last_path, self._takes_body = path, self._front.takes_body(path.decode("latin-1"))
        return end if self._takes_body else 0

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
        message, self._held_payload = self._messages[0]
        assert isinstance(message, RawRequestMessage), "`_direct_length` says so"
        if self._waiter is not None and not self._waiter.done():  # otherwise the task would take what comes next
            self._store = self._front.quick_stores.begin(self, message, length)
        if self._store is not None:
            self._store_message = self._messages.popleft()
            body.begin(self._store.reader)
        elif not body.is_whole:
            body.pause()
        if not body.is_whole:
            return
        self.body_ended(length)
        if len(beginning) > length:
            self.data_received(beginning[length:])

    def close(self) -> None:
        """Closes the connection when its requests are answered."""
        if self._store is None:
            super().close()
        else:
            self._close = True

    def _not_understood(self, error: BaseException | None) -> str:
        """Counts and logs bytes that are not a request; returns the reason."""
        self._front.engine.metrics.counters["http_requests_not_understood"] += 1
        reason = parser_reason(error)
        logger.about(self.peer_host).warning("invalid HTTP request", peer=self.peer_host, error=reason)
        return reason
