"""GET /changes: the events of the archive, as pages of JSON or as server-sent events.

    since=CURSOR    events behind this cursor; absent: all stored events; `now`: none, only a cursor to begin with
    limit=N         events in a page
    action=A,B      only these events, see `archive.feed.event`

    application/json     {"events": [{"sequence": …, "action": …, …}, …], "next": CURSOR, "more": true}
    text/event-stream    one event a message, with its cursor as the id; a client that reconnects sends Last-Event-ID.
                         The stream of a client that is too slow ends with a comment that asks it to reconnect

410: the feed does not have the cursor any more (too old, another feed). The client must take `since=now`, list the
archive, and follow from there.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from engine.access import FULL, Action
from engine.archive.feed.cursor import Cursor
from engine.archive.feed.event import ACTIONS, action_of
from engine.errors import CursorRefused, RequestError
from engine.web import event_stream
from engine.web.change_stream import PAGE_EVENTS, Frames, is_visible
from engine.web.route import Parameter, Route

if TYPE_CHECKING:
    from engine.archive.feed.subscription import Feed
    from engine.archive.view import View
    from engine.web.change_stream import Follower
    from engine.web.request import Request

JSON = "application/json"
LIMIT_MAX = 10_000
"""Events in one page: some 4 MB."""
STREAMS_MAX = 100
"""Event streams of one worker: each takes one of its 256 requests without a time limit."""
ALIVE_S = 15.0
"""After so long without an event a comment is sent, so that proxies do not close the connection."""
RECONNECT_MS = 1000
"""When a client whose stream has ended shall reconnect."""


async def changes(request: Request) -> web.StreamResponse:
    """Sends one page, or the stream."""
    actions = _actions(request)
    if event_stream.is_wanted(request):
        since = request.headers.get("Last-Event-ID") or request.query.get("since", "")
        return await _stream(request, since, actions)
    limit = _limit(request)
    stream = request.changes
    view = request.view(Action.QUERY)
    return await stream.in_thread(partial(_page, view, stream.feed(), request.query.get("since", ""), limit, actions))


def _page(view: View, feed: Feed, since: str, limit: int, actions: frozenset[str]) -> web.Response:
    page = feed.read(_cursor(feed, since), limit)
    lines = [line for line in page.lines if (not actions or action_of(line) in actions) and is_visible(view, line)]
    return _json(lines, page.cursor, is_more=len(page.lines) == limit and feed.has_more(page.cursor))


def _json(lines: list[bytes], cursor: Cursor, *, is_more: bool) -> web.Response:
    fields = orjson.dumps({"next": str(cursor), "more": is_more})
    body = b'{"events":[' + b",".join(lines) + b"]," + fields[1:]
    return web.Response(body=body, content_type=JSON, headers={"Cache-Control": "no-store"})


def _limit(request: Request) -> int:
    text = request.query.get("limit", str(PAGE_EVENTS))
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text)):
        raise RequestError("limit is a number of events, 1 or more")
    return min(int(text), LIMIT_MAX)


def _actions(request: Request) -> frozenset[str]:
    actions = frozenset(filter(None, ",".join(request.query.getall("action", ())).split(",")))
    if actions - set(ACTIONS):
        raise RequestError(f"action is one or more of {', '.join(ACTIONS)}")
    return actions


def _cursor(feed: Feed, text: str) -> Cursor:
    """The cursor of a request. Raises RequestError for an invalid one."""
    if not text:
        return feed.oldest()
    if text == "now":
        return feed.newest()
    try:
        return Cursor.parse(text)
    except CursorRefused as error:
        raise RequestError(f"since: {error}") from error


# server-sent events --------------------------------------------------------------------------------


async def _stream(request: Request, since: str, actions: frozenset[str]) -> web.StreamResponse:
    with request.changes.opened(request.principal, STREAMS_MAX):
        return await _send_stream(request, since, actions)


async def _send_stream(request: Request, since: str, actions: frozenset[str]) -> web.StreamResponse:
    stream = request.changes
    feed = stream.feed()
    cursor = await stream.in_thread(partial(_cursor, feed, since))
    page = await stream.read(feed, cursor)  # before the head of the answer, so that a refused cursor gets its status
    response = await event_stream.begin(request, RECONNECT_MS, "the change feed")
    if request.is_head:
        return response
    follower = None
    try:
        while True:
            while page.lines and not stream.is_ended:
                if visible := await _behind(request, Frames.of(page), cursor, actions):
                    await response.write(visible)
                cursor = page.cursor
                page = await stream.read(feed, cursor)
            if follower is not None and not stream.is_ended:
                cursor = await _follow(request, response, follower, cursor, actions)
            if stream.is_ended or (follower is not None and follower.is_slow):
                await response.write(b": reconnect with Last-Event-ID\n\n")
                return response
            if follower is None:
                follower = stream.join()
            page = await stream.read(feed, cursor)
    finally:
        if follower is not None:
            stream.leave(follower)


async def _behind(request: Request, frames: Frames, cursor: Cursor, actions: frozenset[str]) -> bytes:
    """What the client may see of these frames, by the rules in force now."""
    view = request.view(Action.QUERY)
    if view.scope is FULL:
        return frames.behind(cursor.sequence, actions, view)
    return await request.changes.in_thread(partial(frames.behind, cursor.sequence, actions, view))


async def _follow(
    request: Request,
    response: web.StreamResponse,
    follower: Follower,
    cursor: Cursor,
    actions: frozenset[str],
) -> Cursor:
    """Sends events until the stream ends or has a gap; returns the cursor behind the last one."""
    while True:
        try:
            frames = await asyncio.wait_for(follower.queue.get(), ALIVE_S)
        except TimeoutError:
            if request.allowed(Action.QUERY):
                await response.write(b": alive\n\n")
                continue
            frames = None  # the session has ended meanwhile, or its rights
        if frames is None or not request.allowed(Action.QUERY):
            follower.is_slow = True
            return cursor
        if frames.first > cursor.sequence + 1:
            return cursor
        if frames.cursor.sequence > cursor.sequence:
            if visible := await _behind(request, frames, cursor, actions):
                await response.write(visible)
            cursor = frames.cursor
        if follower.is_slow and follower.queue.empty():
            return cursor


ROUTES = (
    Route(
        "GET",
        "/changes",
        changes,
        "The events of the archive, in pages or as a stream",
        Action.QUERY,
        parameters=(
            Parameter("since", "A cursor, or `now`; absent: all stored events"),
            Parameter("limit", "Events in one page", schema="integer"),
            Parameter("action", "Only these events, separated by commas"),
            Parameter("Last-Event-ID", "The cursor at which a stream continues", place="header"),
        ),
        produces=(JSON, event_stream.MEDIA_TYPE),
        errors=(404, 410),
        tag="changes",
        schema="Changes",
    ),
)
