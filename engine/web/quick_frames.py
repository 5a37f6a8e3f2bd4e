"""Answers a request for one cached frame, sent as it is stored, when it arrives: the hot path of a viewer.

    request ─ aiohttp's parser ─► terms of its headers ─► path ─► access ─► place of the frame ─► one read, one send
                                  kept by connection                        (`retrieve`)          (`outlet`)

All other requests go through `front` and `wado_frames`, with the same answers: other resources and methods, conditions
and ranges, frames that must be decoded or read from disk, lists of frames, TLS, refused or logged requests, and
connections with unsent bytes. If `answer` returns False, nothing was done.

The terms are the evaluated headers (`quick_terms`): the client, and the accepted form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPMethod
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp.helpers import rfc822_formatted_time

from engine import log
from engine.access import Action
from engine.errors import EngineError, NotAcceptable, for_log
from engine.web import quick_terms, wado_frames
from engine.web.forms import choices_of, with_syntax
from engine.web.multipart import Writer
from engine.web.outlet import Connection
from engine.web.route import DICOMWEB
from engine.web.sending import IMMUTABLE, VARY, boundary
from engine.web.stored import url_under

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from engine.archive.retrieve import Instance
    from engine.web.accept import Choice
    from engine.web.audited import AuditedRequests
    from engine.web.limits import RequestLimits
    from engine.web.outlet import Outlet
    from engine.web.route import Route
    from engine.web.settings import Http

logger = log.get("web.quick_frames")

_UID: Final = "([0-9.]{1,64})"
_PATH: Final = re.compile(f"{DICOMWEB}/studies/{_UID}/series/{_UID}/instances/{_UID}/frames/([1-9][0-9]{{0,8}})")

_NOT_QUICK: Final = (
    "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Content-Length",
)  # fmt: skip
"""Headers that request more than a frame."""


class Client(Connection, Protocol):
    """What is needed of a connection."""

    terms: Terms | None
    """The terms of its last request for a frame."""


class Host(quick_terms.Host, Protocol):
    """What is needed of the front."""

    outlet: Outlet
    audited: AuditedRequests


@dataclass(slots=True)
class Terms(quick_terms.Terms):
    """Those of requests for frames."""

    choices: list[Choice]
    lines: str
    """Header lines of every answer."""
    forms: dict[str, tuple[Choice, str] | None] = field(default_factory=dict)
    """By the transfer syntax of the stored instance; None: `front` answers."""


class QuickFrames:
    """One for each front."""

    def __init__(self, host: Host, limits: RequestLimits, routes: tuple[Route, ...]) -> None:
        self._host = host
        self._engine = host.engine
        self._limits = limits
        self._outlet = host.outlet
        self._route = next((route for route in routes if route.handler is wado_frames.frames), None)

    def answer(self, connection: Client, message: RawRequestMessage) -> bool:
        """Answers the request. False: nothing was done, and `front` must answer."""
        began_at = perf_counter()
        try:
            if not self._prepare(connection, message):
                return False
        except Exception as error:
            # The front answers, which shows whether the request or this module is the cause.
            self._engine.metrics.counters["http_quick_answers_failed"] += 1
            logger.error("no quick answer", error=for_log(error))
            return False
        sent = self._outlet.send(connection)
        assert self._route is not None
        counters = self._engine.metrics.operation("http", self._route.name)
        counters.observe(perf_counter() - began_at, False, sent_bytes=sent)
        return True

    def _prepare(self, connection: Client, message: RawRequestMessage) -> bool:
        """Puts the answer into the outlet's buffer. False: `front` must answer."""
        path = _PATH.fullmatch(message.path) if message.method == HTTPMethod.GET else None
        if path is None or self._route is None or self._host.is_draining or not connection.is_direct:
            return False
        if not quick_terms.goes_on(message):
            return False
        engine = self._engine
        if engine.barrier is not None:
            return False  # another node may have deleted the instance
        settings = engine.config.http
        terms = connection.terms
        if terms is None or terms.raw_headers != message.raw_headers or terms.settings is not settings:
            terms = self._terms_of(connection, message, settings)
            connection.terms = terms if terms is not None and terms.may_be_kept else None
            if terms is None:
                return False
        if terms.proof is not None:
            engine.accounts.use(terms.proof)
        study, series, uid, number = path.groups()
        view = engine.archive.view(engine.access.scope(terms.principal, Action.RETRIEVE))
        instance = view.instance(uid)
        if instance is None or instance.study_instance_uid != study or instance.series_instance_uid != series:
            return False
        if not self._host.audited.is_known(terms.principal, study):
            return False
        return self._fill(terms, instance, int(number)) and self._limits.allows(terms.client)

    def _fill(self, terms: Terms, instance: Instance, number: int) -> bool:
        """Puts the answer into the outlet's buffer. False: `front` must answer."""
        form = self._form(terms, instance.transfer_syntax_uid)
        if form is None:
            return False
        stored = self._engine.archive.retrieval.open(instance)
        place = stored.frame_place(number)
        if place is None:
            return False
        choice, syntax_uid = form
        offset, length = place
        etag = wado_frames.etag_of(instance, number, syntax_uid, choice)
        content_type = with_syntax(choice.offer.media_type, syntax_uid)
        location = f"{url_under(terms.root, instance)}/frames/{number}"
        if choice.offer.is_multipart:
            writer = Writer(boundary(self._engine.archive.secret, etag), choice.offer.media_type)
            before, after = writer.head(0, content_type, location, length), writer.end(1)
            lines = f"Content-Type: {writer.content_type}\r\n"
        else:
            before = after = b""
            lines = f"Content-Type: {content_type}\r\nContent-Location: {location}\r\n"
        head = (
            f"HTTP/1.1 200 OK\r\nETag: {etag}\r\n{terms.lines}{lines}Content-Length: "
            f"{len(before) + length + len(after)}\r\nX-Request-ID: {self._host.next_request_id()}\r\n"
            f"Date: {rfc822_formatted_time()}\r\n\r\n"
        ).encode() + before
        if not self._outlet.fits(len(head) + length + len(after)):
            return False
        return self._outlet.refer(head, stored, offset, length, after)

    def _form(self, terms: Terms, stored_uid: str) -> tuple[Choice, str] | None:
        """The form in which stored frames of a transfer syntax are sent; None: they must be converted."""
        try:
            return terms.forms[stored_uid]
        except KeyError:
            pass
        try:
            choice, syntax_uid = wado_frames.first_form(terms.choices, stored_uid)
        except NotAcceptable:
            form = None
        else:
            form = (choice, syntax_uid) if syntax_uid == wado_frames.stored_syntax(stored_uid) else None
        terms.forms[stored_uid] = form
        return form

    def _terms_of(self, connection: Client, message: RawRequestMessage, settings: Http) -> Terms | None:
        """The terms; None: `front` must answer, since the request needs more, is refused, or is logged."""
        if not quick_terms.is_usual(message, _NOT_QUICK):
            return None
        if settings.request_log == "all" or logger.enabled("debug"):
            return None
        try:
            request, proof = quick_terms.request_of(self._host, message, connection, settings)
            choices = choices_of(request, wado_frames.ONE_OFFERS)
        except EngineError:
            return None
        headers = {"Cache-Control": IMMUTABLE, "Vary": VARY, "Accept-Ranges": "bytes"}
        lines = quick_terms.lines_of(self._host, request, headers)
        origin = request.origin
        return Terms(
            message.raw_headers, settings, origin.client, request.principal, proof, origin.root, choices, lines
        )
