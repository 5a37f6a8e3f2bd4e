"""QIDO-RS: searches (PS3.18 10.6), six resources.

    /studies   /series   /instances                                       everything
    /studies/{study}/series   /studies/{study}/instances                  below a study
    /studies/{study}/series/{series}/instances                            below a series

A `Search` runs in slices in the pool `index`; rows are sent between two slices, and the search ends with its client. Up
to HELD_BYTES of rows are held back, so that the answer has a length, and headers with the number of matches beyond
`limit`. A longer answer is counted before it is made, and then sent slice by slice.

    200  [] if nothing matches (PS3.18 since CP-2473), as application/dicom+json or multipart application/dicom+xml
         Warning: 299 …  and X-Remaining-Count: more matches than were sent, "1000+" if the count was given up
    400  an invalid parameter, with its name
    413  it took longer than limits.query_timeout_s before the first row was sent; after that the connection is closed
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web
from multidict import CIMultiDict

from engine import log
from engine.access import ARCHIVE, Action
from engine.archive.questions import Level
from engine.archive.supplies import Finder, SuppliedFinder
from engine.dicom import tags, xml_model
from engine.errors import NotAcceptable
from engine.web import multipart, search_request
from engine.web.accept import Offer, accepts_utf_8
from engine.web.forms import choices_of
from engine.web.route import DICOMWEB, Parameter, Route
from engine.web.search import RemainingCounter, Search
from engine.web.search_rows import Rows

if TYPE_CHECKING:
    from engine.web.request import Request
    from engine.web.search_request import SearchRequest

logger = log.get("web.qido")

HELD_BYTES: Final = 1 << 20
WARNINGS_MAX: Final = 20
"""Clients refuse answers with more than some ten KiB of headers."""

JSON_TYPE: Final = "application/dicom+json"
XML_TYPE: Final = "application/dicom+xml"
OFFERS: Final = (Offer(JSON_TYPE), Offer("application/json"), Offer(XML_TYPE, is_multipart=True))

_PARAMETERS: Final = (
    Parameter("limit", "The largest number of matches to return", schema="integer"),
    Parameter("offset", "The number of matches to skip at the start", schema="integer"),
    Parameter("includefield", "Attributes to return beside the usual ones: keywords or tags, or `all`"),
    Parameter("fuzzymatching", "Names match by sound", schema="boolean", options=("true", "false")),
    Parameter(
        "emptyvaluematching",
        "Two quotation marks match attributes without a value",
        schema="boolean",
        options=("true", "false"),
    ),
    Parameter("multiplevaluematching", "Each value of a list must match", schema="boolean", options=("true", "false")),
    Parameter("{attribute}", "A value that an attribute must have, with * and ?; ranges of dates and times with -"),
)


class _Json:
    """Encodes rows as one array."""

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        self._is_begun = False

    def pieces(self, rows: Sequence[bytes]) -> bytes:
        """The next bytes of the body."""
        if not rows:
            return b""
        start, self._is_begun = b"," if self._is_begun else b"[", True
        return start + b",".join(rows)

    def end(self) -> bytes:
        return b"]" if self._is_begun else b"[]"


class _Xml:
    """Encodes rows as parts, one document each."""

    def __init__(self) -> None:
        self._writer = multipart.Writer(secrets.token_hex(20), XML_TYPE)
        self.content_type = self._writer.content_type
        self._count = 0

    def pieces(self, rows: Sequence[bytes]) -> bytes:
        """The next bytes of the body."""
        parts = []
        for row in rows:
            document = xml_model.encode(orjson.loads(row))
            parts += [self._writer.head(self._count, XML_TYPE, content_length=len(document)), document]
            self._count += 1
        return b"".join(parts)

    def end(self) -> bytes:
        return self._writer.end(self._count)


async def _answer(request: Request, level: Level) -> web.StreamResponse:
    engine, archive, view = request.engine, request.engine.archive, request.view(Action.QUERY)
    choice = choices_of(request, OFFERS)[0]
    if not accepts_utf_8(request.headers.get("Accept-Charset"), request.query.getall("charset", [])):
        raise NotAcceptable("text is available in UTF-8 only")
    scope = {of: request.path_values[name] for of, name in _PLACES.items() if name in request.path_values}
    limits = request.config.limits
    search_query = search_request.parse(
        request.rel_url.raw_query_string, level, scope, archive.schema, limits.query_results_max
    )
    base_url = request.root + DICOMWEB
    form = _Xml() if choice.offer.is_multipart else _Json(choice.offer.media_type)
    start_s = perf_counter()
    rows = Rows(search_query, archive.schema, base_url, view.availability(level))
    finder: Finder = view
    if request.config.http.supply and (supplies := await engine.supplies()) is not None:
        finder = SuppliedFinder(supplies, view)
    search = Search(finder, search_query, rows, limits.query_timeout_s)
    pieces: list[bytes] = []
    length = 0
    while not search.is_over and length < HELD_BYTES:
        pieces.append(await _next(request, search, form))
        length += len(pieces[-1])
    if search.is_over:
        headers = _headers(form.content_type, search_query, base_url, search.remaining)
        body = b"".join((*pieces, form.end()))
        response: web.StreamResponse = web.Response(body=body, headers=headers)
    else:
        counter = RemainingCounter(finder, search_query, limits.query_timeout_s)
        while not counter.is_over:
            await engine.pools.index.run(counter.slice)
        headers = _headers(form.content_type, search_query, base_url, counter.remaining)
        response = web.StreamResponse(headers=headers)
        await _send(request, response, search, form, b"".join(pieces))
    _log(request, search_query, search, perf_counter() - start_s)
    return response


async def _next(request: Request, search: Search, form: _Json | _Xml) -> bytes:
    """The bytes of the body from the next slice."""
    return await request.engine.pools.index.run(lambda: form.pieces(search.slice()))


async def _send(
    request: Request, response: web.StreamResponse, search: Search, form: _Json | _Xml, start: bytes
) -> None:
    """Sends a long answer slice by slice, at the client's pace."""
    await response.prepare(request)
    if request.is_head:
        return
    await response.write(start)
    while not search.is_over:
        piece = await _next(request, search, form)
        if piece:
            await response.write(piece)
    await response.write(form.end())
    await response.write_eof()


def _headers(content_type: str, search_query: SearchRequest, base_url: str, remaining: str) -> CIMultiDict[str]:
    headers = CIMultiDict(
        {
            "Content-Type": content_type,
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Accept-Charset",
            "X-Remaining-Count": remaining,
        }
    )
    texts = list(search_query.warnings[:WARNINGS_MAX])
    if remaining != "0":
        count = f"more than {remaining[:-1]}" if remaining.endswith("+") else remaining
        texts.append(f"There are {count} additional results that can be requested")
    for text in texts:
        headers.add("Warning", f"299 {base_url}: {text}")
    return headers


def _log(request: Request, search_query: SearchRequest, search: Search, seconds: float) -> None:
    """Counts a search, and logs a slow one with its keys, never with their values."""
    summary = search.explanation.summary()
    request.engine.metrics.counters["http_search_matches"] += search.explanation.matches
    slow_s = request.config.query.slow_s
    if slow_s and seconds >= slow_s:
        names = [tags.keyword_of(tag) for tag, value in search_query.query.keys.items() if value]
        logger.about(request.origin.client).warning("slow search", keys=names, seconds=round(seconds, 4), **summary)


_PLACES: Final = {Level.STUDY: "study", Level.SERIES: "series"}


async def studies(request: Request) -> web.StreamResponse:
    """Searches for studies."""
    return await _answer(request, Level.STUDY)


async def series(request: Request) -> web.StreamResponse:
    """Searches for series."""
    return await _answer(request, Level.SERIES)


async def instances(request: Request) -> web.StreamResponse:
    """Searches for instances."""
    return await _answer(request, Level.IMAGE)


def _route(path: str, handler: Callable[[Request], Awaitable[web.StreamResponse]], summary: str) -> Route:
    return Route(
        "GET",
        DICOMWEB + path,
        handler,
        summary,
        Action.QUERY,
        _PARAMETERS,
        produces=tuple(map(str, OFFERS)),
        errors=(406, 413),
        tag="QIDO-RS",
        schema="DataSets",
        target=ARCHIVE,
    )


ROUTES: Final = (
    _route("/studies", studies, "Search for studies"),
    _route("/series", series, "Search for series, in all studies"),
    _route("/instances", instances, "Search for instances, in all studies"),
    _route("/studies/{study}/series", series, "Search for series of a study"),
    _route("/studies/{study}/instances", instances, "Search for instances of a study"),
    _route("/studies/{study}/series/{series}/instances", instances, "Search for instances of a series"),
)
