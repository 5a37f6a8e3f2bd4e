"""/api/studies: windows of all studies that match, in the order of any column.

    order=-StudyDate    keyword or tag of patient or study, `-` in front: descending; `received`: arrival. By default
                        -received. What has no value comes last
    after=CURSOR        behind the last row of another window: `next` of that answer
    from=TEXT           from the first value on that is not before TEXT: a letter, a date
    position=N          without the first N, for a scroll bar; beside filters these are looked at, without they are only
                        counted (a name with several groups counts several times then)
    limit=N             rows, WINDOW_MAX at most
    count=true          `total` too: exact without filters, else as far as COUNT_S of work go
    others              filters and includefield, as of QIDO-RS

    {"studies": [{…DICOM JSON…}, …], "next": CURSOR or null, "total": {"count": 17, "is_exact": true}}

Orders for which the index has keys (`index.query.ordering`) cost what the window costs, however many studies there are.
Others are sorted, up to a bound beyond which the request is 400. A window ends after WINDOW_S of work, with fewer rows
than asked for or none: what says that there are no more is `next`, null. What cannot be left before it is done is 413
after limits.query_timeout_s.

A cursor names a place, not a row: what is stored or deleted meanwhile moves nothing. It is bound to its order and to
this index; another one is 410.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import orjson
from aiohttp import web

from engine.archive.questions import Bookmark, Explanation, Level, Order, PlacedMatch, path_of
from engine.errors import QueryError, RequestError
from engine.web import search_request
from engine.web.api.json_bodies import JSON, NO_STORE, number_of, switch_of
from engine.web.errors import Gone, TooLarge
from engine.web.route import DICOMWEB, Parameter
from engine.web.search_rows import Rows

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.web.request import Request
    from engine.web.search_request import SearchRequest

WINDOW_MAX: Final = 200
WINDOW_S: Final = 0.5
COUNT_MAX: Final = 100_000
COUNT_S: Final = 0.2
SLICE_S: Final = 0.01
"""How long a thread works before others are looked at."""
POSITION_MAX: Final = 1 << 32
EPOCH_BYTES: Final = 8

_OWN: Final = ("order", "after", "from", "position", "limit", "count")
_RECEIVED: Final = "received"

PARAMETERS: Final = (
    Parameter("order", "A keyword, `-` in front for descending; `received`: arrival"),
    Parameter("after", "`next` of the window before"),
    Parameter("from", "A text that the first value is not before"),
    Parameter("position", "Rows to leave out at the start", schema="integer"),
    Parameter("limit", f"Rows to give at most, up to {WINDOW_MAX}", schema="integer"),
    Parameter("count", "Whether all that match are counted", schema="boolean"),
    Parameter("includefield", "Attributes to be told beside the usual ones"),
    Parameter("{attribute}", "A value that an attribute must have, as of QIDO-RS"),
)


@dataclass(slots=True)
class _Window:
    """One window being made, for one thread at a time."""

    archive: Archive
    order: Order
    steps: Iterator[PlacedMatch | Bookmark | None]
    limit: int
    rows: Rows
    found: list[bytes]
    last: Bookmark | None = None
    has_more: bool = False
    is_over: bool = False
    worked_s: float = 0.0

    def slice(self) -> None:
        """Goes on for SLICE_S."""
        began = perf_counter()
        for step in self.steps:
            if isinstance(step, PlacedMatch):
                if len(self.found) == self.limit:
                    self.has_more = self.is_over = True
                    return
                self.found.append(self.rows.encoded(step.match))
                self.last = step.place
                continue
            self.last = step or self.last
            if perf_counter() - began >= SLICE_S:
                self.worked_s += perf_counter() - began
                return
        self.is_over = True


async def window(request: Request) -> web.Response:
    """One window. Raises RequestError, QueryError, Gone."""
    for name in _OWN:
        if len(request.query.getall(name, [])) > 1:
            raise RequestError(f"{name}: is there twice")
    archive, pools = request.engine.archive, request.engine.pools
    asked = _asked(request, archive)
    order = _order(request, archive)
    epoch = archive.epoch_id()[:EPOCH_BYTES]
    after = _after(request, archive, order, epoch)
    limit = number_of(request, "limit", WINDOW_MAX, WINDOW_MAX)
    position = number_of(request, "position", 0, POSITION_MAX)
    if order.tag is not None:
        asked = replace(asked, query=replace(asked.query, keys={order.tag: b"", **asked.query.keys}))
    steps = archive.ordered_steps(asked.query, order, after, Explanation(), skip=position)
    rows = Rows(asked, archive.schema, request.root + DICOMWEB)
    made = _Window(archive, order, steps, limit, rows, [])
    timeout_s = request.config.limits.query_timeout_s
    while not made.is_over and (made.last is None or made.worked_s < WINDOW_S):
        await pools.index.run(made.slice)
        if timeout_s and made.worked_s > timeout_s and made.last is None:
            raise TooLarge(f"the search was stopped after {timeout_s:g} s: narrow it")
    facts: dict[str, Any] = {"next": _cursor(made, order, after, epoch)}
    if switch_of(request, "count"):
        facts["total"] = await _total(request, archive, asked)
    body = b'{"studies":[%b],%b' % (b",".join(made.found), orjson.dumps(facts)[1:])
    return web.Response(body=body, content_type=JSON, headers=NO_STORE)


def _asked(request: Request, archive: Archive) -> SearchRequest:
    """The filters, as QIDO-RS has them; what it would pass over is refused."""
    filters = [(name, value) for name, value in request.query.items() if name not in _OWN]
    asked = search_request.parse(urlencode(filters), Level.STUDY, {}, archive.schema)
    if asked.warnings:
        raise RequestError(asked.warnings[0])
    return replace(asked, query=replace(asked.query, limit=None, offset=0))


def _order(request: Request, archive: Archive) -> Order:
    text = request.query.get("order", f"-{_RECEIVED}")
    name = text.removeprefix("-")
    is_descending = text != name
    if name == _RECEIVED:
        return Order(None, is_descending)
    try:
        (tag,) = path_of(name, archive.schema)
    except (QueryError, ValueError):
        raise RequestError("order: is neither `received` nor an attribute of patient or study") from None
    return Order(tag, is_descending)


def _after(request: Request, archive: Archive, order: Order, epoch: bytes) -> Bookmark | None:
    cursor, text = request.query.get("after"), request.query.get("from")
    if cursor is not None and text is not None:
        raise RequestError("after and from: one of the two says where the window begins")
    if text is not None:
        return archive.bookmark_at(order, text)
    return _bookmark_of(cursor, order, epoch) if cursor is not None else None


def _head(order: Order, epoch: bytes) -> bytes:
    return b"%08x%b" % (order.tag or 0, b"-" if order.is_descending else b"+") + epoch.ljust(EPOCH_BYTES, b"\0")


def _cursor(made: _Window, order: Order, after: Bookmark | None, epoch: bytes) -> str | None:
    if made.is_over and not made.has_more:
        return None
    place = made.last or after or Bookmark(b"", 0)
    packed = _head(order, epoch) + place.number.to_bytes(4, "big") + place.key
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def _bookmark_of(cursor: str, order: Order, epoch: bytes) -> Bookmark:
    """Raises RequestError for what is none, Gone for one of another index."""
    head = _head(order, epoch)
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("after: is no cursor") from None
    length = len(head)
    if len(packed) < length + 4 or len(packed) > length + 4 + 400:
        raise RequestError("after: is no cursor")
    if packed[: length - EPOCH_BYTES] != head[: length - EPOCH_BYTES]:
        raise RequestError("after: is a cursor of another order")
    if packed[:length] != head:
        raise Gone("after: the index has been made anew since; begin again")
    return Bookmark(packed[length + 4 :], int.from_bytes(packed[length : length + 4], "big"))


async def _total(request: Request, archive: Archive, asked: SearchRequest) -> dict[str, Any]:
    """How many studies match: all of them, or as far as they were counted."""
    pools = request.engine.pools
    if not any(asked.query.keys.values()):
        stats = await pools.index.run(archive.stats)
        return {"count": stats["studies"], "is_exact": True}
    explanation = Explanation()
    steps = archive.find_steps(replace(asked.query, limit=0, count_max=COUNT_MAX), explanation)
    worked_s, is_over = 0.0, False
    while not is_over and worked_s < COUNT_S:
        began = perf_counter()
        is_over = await pools.index.run(partial(_count, steps, began))
        worked_s += perf_counter() - began
    is_exact = is_over and explanation.beyond < COUNT_MAX
    return {"count": explanation.beyond, "is_exact": is_exact}


def _count(steps: Iterator[object], began: float) -> bool:
    return all(perf_counter() - began < SLICE_S for _ in steps)
