"""Stores the files of a short STOW without a task: nothing of it waits but its bytes and the commit.

    head ─ aiohttp's parser ─► terms of its headers ─► access, admission, limits ─► body ─► ingest ─► one write
                               kept by connection      asked for each request       (`direct_body`)

The body is received where it is stored from, before anybody asks for it. When it is whole and all of its parts are
files, they are offered to ingest here, and the answer is written when the last one is committed. Everything else goes
through `front` and `stow`, with the same answers: bodies that are longer, chunked, one file alone, or have metadata or
damaged parts; refused requests; clients that have not taken their last answer. They get the body as far as it has
arrived. A part that ends before the body does is stored at once, so that such a body is theirs too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPMethod, HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp.helpers import rfc822_formatted_time

from engine import log
from engine.access import Action
from engine.errors import EngineError, MultipartError, for_log
from engine.web import quick_terms, stow
from engine.web.accept import MULTIPART, parse_media_type
from engine.web.errors import RETRY_S
from engine.web.forms import choices_of
from engine.web.multipart import Reader, boundary_in
from engine.web.route import DICOMWEB
from engine.web.stored import root_under
from engine.web.stow_response import OFFERS, StoreResponse
from engine.web.upload import Uploads

if TYPE_CHECKING:
    import asyncio

    from aiohttp.http_parser import RawRequestMessage

    from engine.web.accept import MediaType
    from engine.web.limits import RequestLimits
    from engine.web.multipart import BlockPool
    from engine.web.route import Route

logger = log.get("web.quick_stores")

BYTES_MAX: Final = 1 << 20
"""Of a body: one block. What a task costs is little beside a longer one."""
PARTS_MAX: Final = 16

_PATH: Final = re.compile(f"{DICOMWEB}/studies(?:/([0-9.]{{1,64}}))?")
_OF_THE_BODY: Final = (b"content-length", b"content-type")
"""Headers that differ with each request."""


class Client(Protocol):
    """What is needed of a connection."""

    transport: asyncio.Transport | None
    store_terms: Terms | None
    """The terms of its last store."""

    def store_answered(self, answer: bytes) -> None:
        """Sends the answer to its store."""


class Host(quick_terms.Host, Protocol):
    """What is needed of the front."""

    blocks: BlockPool

    def note_end(
        self, client: str, method: str, route: str, request_id: str, status: int, seconds: float, received: int,
        sent: int,
    ) -> None:  # fmt: skip
        """Counts and logs a request that is over."""


@dataclass(slots=True)
class Terms(quick_terms.Terms):
    """Those of stores."""

    media_type: str
    """Of the answer."""
    lines: str
    """Header lines of every answer."""


class QuickStores:
    """One for each front."""

    def __init__(self, host: Host, limits: RequestLimits, routes: tuple[Route, ...]) -> None:
        self._host = host
        self._engine = host.engine
        self._limits = limits
        self._routes = {"{" in route.path: route for route in routes if route.handler is stow.store}

    def begin(self, connection: Client, message: RawRequestMessage, length: int) -> QuickStore | None:
        """A store whose body of `length` bytes may be received at once; None: `front` must decide."""
        try:
            return self._begin(connection, message, length)
        except Exception as error:
            # The front answers, which shows whether the request or this module is the cause.
            self._engine.metrics.counters["http_quick_answers_failed"] += 1
            logger.error("no quick store", error=for_log(error))
            return None

    def _begin(self, connection: Client, message: RawRequestMessage, length: int) -> QuickStore | None:
        engine, transport = self._engine, connection.transport
        path = _PATH.fullmatch(message.path) if message.method == HTTPMethod.POST else None
        route = self._routes.get(path[1] is not None) if path is not None else None
        if path is None or route is None or self._host.is_draining or engine.archive.is_read_only:
            return None
        if transport is None or transport.get_write_buffer_size() or not quick_terms.goes_on(message):
            return None
        most = engine.config.limits
        if length > min(BYTES_MAX, most.stream_threshold_bytes, most.data_set_bytes_max):
            return None
        if engine.ingest_budget.is_used_up or engine.admission.refusal() is not None:
            return None
        content_type = parse_media_type(message.headers.get("Content-Type", ""))
        if content_type is None or content_type.name != MULTIPART:
            return None
        try:
            boundary = boundary_in(content_type)
        except MultipartError:
            return None
        terms = self._terms(connection, message)
        if terms is None or not engine.access.allowed(terms.principal, Action.STORE, route.target):
            return None
        if terms.proof is not None:
            engine.accounts.use(terms.proof)
        if not self._limits.enter_early(terms.client):
            return None
        reader = Reader(boundary, self._host.blocks)
        return QuickStore(self._host, self._limits, connection, terms, route, path[1], reader, content_type, length)

    def _terms(self, connection: Client, message: RawRequestMessage) -> Terms | None:
        """The terms; None: `front` must answer, since the request needs more, or is refused."""
        settings = self._engine.config.http
        raw_headers = tuple(pair for pair in message.raw_headers if pair[0].lower() not in _OF_THE_BODY)
        terms = connection.store_terms
        if terms is not None and terms.raw_headers == raw_headers and terms.settings is settings:
            return terms
        connection.store_terms = None
        if not quick_terms.is_usual(message):
            return None
        try:
            request, proof = quick_terms.request_of(self._host, message, connection, settings)
            media_type = choices_of(request, OFFERS)[0].offer.media_type
        except EngineError:
            return None
        lines = quick_terms.lines_of(self._host, request, {"Content-Type": media_type})
        origin = request.origin
        terms = Terms(raw_headers, settings, origin.client, request.principal, proof, origin.root, media_type, lines)
        connection.store_terms = terms if terms.may_be_kept else None
        return terms


class QuickStore:
    """One request. After `offer` has returned True it is answered by `Client.store_answered`, unless it is `lost`."""

    def __init__(
        self,
        host: Host,
        limits: RequestLimits,
        connection: Client,
        terms: Terms,
        route: Route,
        study: str | None,
        reader: Reader,
        content_type: MediaType,
        length: int,
    ) -> None:
        self.reader = reader
        self._host = host
        self._limits = limits
        self._connection = connection
        self._terms = terms
        self._route = route
        self._study = study
        self._default_type = parse_media_type(content_type.parameter("type"))
        self._length = length
        self._id = host.next_request_id()
        self._began_at = perf_counter()
        self._is_over = False

    def offer(self) -> bool:
        """Stores the files of the body, which is whole. False: nothing was done, and `front` must answer."""
        engine, terms = self._host.engine, self._terms
        parts = self.reader.whole_parts()
        if parts is None or len(parts) > PARTS_MAX or engine.ingest_budget.is_used_up:
            return False
        for begin, _ in parts:
            part_type = begin.content_type or self._default_type
            if part_type is not None and not stow.is_file(part_type, self._default_type):
                return False
        if not self._limits.has_rate(terms.client):
            return False
        response = StoreResponse(root_under(terms.root), self._study)
        uploads = Uploads(engine, terms.principal, response, self._study)
        self.reader.stop()
        uploads.offer_all((pieces for _, pieces in parts), lambda: self._answer(response))
        return True

    def leave(self) -> None:
        """`front` answers instead: the request does not count here."""
        self._is_over = True
        self._limits.leave(self._terms.client)

    def lost(self) -> None:
        """The connection has ended. What was offered is stored."""
        if not self._is_over:
            self.reader.stop()
            self._end(499, 0)

    def _answer(self, response: StoreResponse) -> None:
        if self._is_over:
            return
        status, body = response.status, response.body(self._terms.media_type)
        lines = self._terms.lines
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            lines += f"Retry-After: {RETRY_S}\r\n"
        if self._host.is_draining:
            lines += "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {status:d} {HTTPStatus(status).phrase}\r\n{lines}Content-Length: {len(body)}\r\n"
            f"X-Request-ID: {self._id}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        ).encode()
        self._connection.store_answered(head + body)
        self._end(status, len(head) + len(body))

    def _end(self, status: int, sent: int) -> None:
        self._is_over = True
        client = self._terms.client
        self._limits.leave(client)
        seconds = perf_counter() - self._began_at
        self._host.note_end(client, "POST", self._route.name, self._id, status, seconds, self._length, sent)
