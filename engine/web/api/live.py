"""/api/live: what the server does now, and whether all is well.

    application/json     once
    text/event-stream    every two seconds, a message each, until the client leaves; for EventSource

`state` is good, attention or bad; `findings` has the reasons (`web.verdict`). Rates are of the last seconds;
operations, peers, clients, errors and latencies of the last `window_s` seconds, up to a minute (`web.live_summary`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.access import Action
from engine.web import event_stream
from engine.web.api.json_bodies import JSON, NO_STORE, check_parameters
from engine.web.errors import Unavailable

if TYPE_CHECKING:
    from engine.web.live_status import LiveStatus
    from engine.web.request import Request

WATCHERS_MAX: Final = 100
"""Streams of one worker. A browser has one for all its tabs."""
ALIVE_S: Final = 15.0
RECONNECT_MS: Final = 2000


async def live(request: Request) -> web.StreamResponse:
    """Sends the status, once or as a stream."""
    check_parameters(request)
    status = request.host_front.live_status
    if event_stream.is_wanted(request):
        return await _stream(request, status)
    frame = await status.frame()
    if not frame:
        raise Unavailable("the supervisor does not answer")
    return web.Response(body=frame, content_type=JSON, headers=NO_STORE)


async def _stream(request: Request, status: LiveStatus) -> web.StreamResponse:
    with status.slots.taken(request.principal, WATCHERS_MAX):
        return await _watch(request, status)


async def _watch(request: Request, status: LiveStatus) -> web.StreamResponse:
    response = await event_stream.begin(request, RECONNECT_MS)
    if request.is_head:
        return response
    queue = status.join()
    try:
        while not status.is_ended:
            try:
                frame = await asyncio.wait_for(queue.get(), ALIVE_S)
            except TimeoutError:
                if not request.allowed(Action.OBSERVE):
                    break
                await response.write(b": alive\n\n")
                continue
            if frame is None or not request.allowed(Action.OBSERVE):
                break
            if frame:
                await response.write(b"data: %b\n\n" % frame)
    finally:
        status.leave(queue)
    return response
