"""/api/studies: windows of the matching studies, sorted by any column.

    order=-StudyDate    keyword or tag of patient or study, `-` in front: descending; `received`: arrival; `size`,
                        `sender`, `institution`. Default: -received. Studies without a value come last
    after=CURSOR        the rows after another window: `next` of that answer
    from=TEXT           begins at the first value that is not before TEXT: a letter, a date
    position=N          skips N rows, for a scroll bar; with filters each skipped row is read, without they are only
                        counted (a name with several groups then counts several times)
    limit=N             rows, WINDOW_MAX at most
    count=true          `total` too: exact without filters, else as far as `window.COUNT_S` of work allow
    arrivals=true       `arrivals` too: size, senders and times of each row
    others              filters and includefield, as in QIDO-RS

    {"studies": [{…DICOM JSON…}, …], "next": CURSOR or null, "total": {"count": 17, "is_exact": true},
     "arrivals": [{"instances": …, "bytes": …, "senders": […], "institutions": […], "state": …, …}, …]}

With an order for which the index has keys (`index.query.ordering`) the cost depends on the window, not on the number of
studies. Other orders are sorted, up to a maximum; beyond it the request is 400. A window may end with
fewer rows than requested or none (`web.window`): only `next` = null means that there are no more. A search that cannot
be interrupted gets 413 after limits.query_timeout_s.

A cursor is a position, not a row: studies that are stored or deleted meanwhile do not move it. It is valid for its
order and this index only; with another index it gets 410. It is sealed (`window_cursor`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import orjson
from aiohttp import web

from engine.access import Action
from engine.archive.admin import studies as facts_of_studies
from engine.archive.questions import ArrivalFact, Bookmark, Explanation, Level, Match, Order, path_of
from engine.dicom import tags
from engine.errors import QueryError, RequestError
from engine.web import search_request
from engine.web.api import window_cursor
from engine.web.api.json_bodies import JSON, NO_STORE, number_of, switch_of
from engine.web.route import DICOMWEB, Parameter
from engine.web.search_rows import Rows
from engine.web.window import Window, count_of

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.view import View
    from engine.web.request import Request
    from engine.web.search_request import SearchRequest

WINDOW_MAX: Final = 200
POSITION_MAX: Final = 1 << 32

_WINDOW_PARAMETERS: Final = ("order", "after", "from", "position", "limit", "count", "arrivals")
_RECEIVED: Final = "received"
_FACTS: Final = {fact.value: fact for fact in ArrivalFact}

PARAMETERS: Final = (
    Parameter("order", "A keyword, `received`, `size`, `sender` or `institution`; `-` in front: descending"),
    Parameter("after", "`next` of the window before"),
    Parameter("from", "Begins at the first value that is not before this text"),
    Parameter("position", "Rows to skip", schema="integer"),
    Parameter("limit", f"Maximum number of rows, up to {WINDOW_MAX}", schema="integer"),
    Parameter("count", "Whether to count all matches", schema="boolean"),
    Parameter("arrivals", "Whether to add size, senders and times of each study", schema="boolean"),
    Parameter("includefield", "Additional attributes to return"),
    Parameter("{attribute}", "A value that an attribute must have, as in QIDO-RS"),
)


async def window(request: Request) -> web.Response:
    """Answers with one window. Raises RequestError, QueryError, Gone."""
    archive, view, pools = request.engine.archive, request.view(Action.QUERY), request.engine.pools
    search_query = search_of(request, _WINDOW_PARAMETERS)
    order, search_query = order_of(request, search_query)
    after = _after(request, archive, order)
    limit = number_of(request, "limit", WINDOW_MAX, WINDOW_MAX)
    position = number_of(request, "position", 0, POSITION_MAX)
    availability = view.availability(search_query.query.level)
    rows = Rows(search_query, archive.schema, request.root + DICOMWEB, availability)
    objects: list[bytes] = []
    uids: list[str] = []

    def add(match: Match) -> None:
        objects.append(rows.encode(match))
        uids.append(match.attributes[tags.StudyInstanceUID].decode("utf-8", "replace"))

    found = Window(view.ordered_steps(search_query.query, order, after, Explanation(), skip=position), limit, add)
    await found.search(request)
    facts: dict[str, Any] = {"next": cursor_of(request, found, order, after)}
    if switch_of(request, "count"):
        count, is_exact = await count_of(request, view, search_query.query)
        facts["total"] = {"count": count, "is_exact": is_exact}
    if switch_of(request, "arrivals"):
        facts["arrivals"] = await pools.index.run(partial(_arrivals, archive, view, uids))
    body = b'{"studies":[%b],%b' % (b",".join(objects), orjson.dumps(facts)[1:])
    return web.Response(body=body, content_type=JSON, headers=NO_STORE)


def _arrivals(archive: Archive, view: View, uids: list[str]) -> list[dict[str, Any]]:
    states = archive.study_states.of(uids)
    return [
        {**facts_of_studies.summary(view, uid), "state": state and state.state}
        for uid, state in zip(uids, states, strict=True)
    ]


def search_of(request: Request, others: Collection[str]) -> SearchRequest:
    """The filters, as in QIDO-RS, without limit. Refuses what QIDO-RS would ignore; `others`: no filters, once each."""
    for name in others:
        if len(request.query.getall(name, [])) > 1:
            raise RequestError(f"{name}: occurs twice")
    filters = [(name, value) for name, value in request.query.items() if name not in others]
    search_query = search_request.parse(urlencode(filters), Level.STUDY, {}, request.engine.archive.schema)
    if search_query.warnings:
        raise RequestError(search_query.warnings[0])
    return replace(search_query, query=replace(search_query.query, limit=None, offset=0))


def order_of(request: Request, search_query: SearchRequest) -> tuple[Order, SearchRequest]:
    """The order, and the search with its attribute among the keys. Raises RequestError."""
    text = request.query.get("order", f"-{_RECEIVED}")
    name = text.removeprefix("-")
    is_descending = text != name
    if name == _RECEIVED:
        return Order(None, is_descending), search_query
    if fact := _FACTS.get(name):
        return Order(None, is_descending, fact), search_query
    try:
        (tag,) = path_of(name, request.engine.archive.schema)
    except (QueryError, ValueError):
        names = ", ".join((_RECEIVED, *_FACTS))
        raise RequestError(f"order: must be one of {names}, or an attribute of patient or study") from None
    keys = {tag: b"", **search_query.query.keys}
    return Order(tag, is_descending), replace(search_query, query=replace(search_query.query, keys=keys))


def _after(request: Request, archive: Archive, order: Order) -> Bookmark | None:
    cursor, text = request.query.get("after"), request.query.get("from")
    if cursor is not None and text is not None:
        raise RequestError("after and from: only one of them can be used")
    if text is not None:
        return archive.bookmark_at(order, text)
    if cursor is None:
        return None
    return window_cursor.opened(request.engine.secret, order, archive.epoch_id(), cursor)


def cursor_of(request: Request, found: Window, order: Order, after: Bookmark | None) -> str | None:
    """The cursor of the window behind this one; None: there is none."""
    if found.is_complete:
        return None
    place = found.last or after or Bookmark(b"", 0)
    return window_cursor.sealed(request.engine.secret, order, request.engine.archive.epoch_id(), place)
