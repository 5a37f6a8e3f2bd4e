"""The events of a subscriber over a WebSocket (PS3.18 8.10.4, 11.13): GET /subscribers/{aetitle}.

    server ──► text      one event, as a data set of JSON: class, Message ID, workitem, Event Type ID, information
    server ──► ping      the number of the last event that was sent
    client ──► pong      the same: the client has read all events up to it, and they are forgotten here

Every WebSocket client answers pings, in the order in which it reads. A client that comes back after a break gets what
it has not read, perhaps some of it twice, and nothing is lost. At most WINDOW events are sent ahead. A new channel of a
title takes the place of an older one, which may be dead without a sign.
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import WSMsgType, web

from engine.access import Action
from engine.dicom import json_model
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import RequestError
from engine.orders.workitems.life import CLASS_UID
from engine.orders.workitems.store import CHANNEL_S
from engine.web import cors
from engine.web.route import DICOMWEB, Route
from engine.web.workitem_subscribers import TITLE, subscriber_of
from engine.web.workitems import TAG, reach, run

if TYPE_CHECKING:
    from engine.orders.rows import EventRow
    from engine.orders.workitems.store import Workitems
    from engine.web.request import Request

CHANNELS_MAX: Final = 100
"""Of one worker, with the event streams of the change feed: each takes one of its requests without a time limit."""
LOOK_S: Final = 0.05
PING_S: Final = 15.0
PONG_S: Final = 120.0
"""A client that does not answer a ping for so long is gone."""
WINDOW: Final = 100
MESSAGE_BYTES_MAX: Final = 4096
"""Of what a client sends: nothing is expected but control frames."""
REPLACED: Final = 4000
"""The code with which a channel is closed whose place another one has taken."""


async def channel(request: Request) -> web.StreamResponse:
    """Sends the events of a title for as long as its client listens."""
    if "upgrade" not in request.headers.get("Connection", "").lower() or request.is_head:
        raise RequestError("this is a WebSocket: connect with Upgrade")
    cors.check_channel(request, request.config.http)
    who = subscriber_of(request)
    await run(request, lambda workitems: workitems.check_receiver(who), is_change=False)
    workitems = await run(request, lambda workitems: workitems, is_change=False)
    with request.changes.opened(request.principal, CHANNELS_MAX):
        token = uuid.uuid4().hex
        await request.engine.pools.orders.run(lambda: workitems.open_channel(who.title, token))
        socket = web.WebSocketResponse(autoping=False, compress=False, max_msg_size=MESSAGE_BYTES_MAX)
        await socket.prepare(request)
        request.stream_after_s = perf_counter() - request.began_at
        await _Channel(request, workitems, who.title, token, socket).run()
    return socket


class _Channel:
    """One open channel."""

    def __init__(
        self, request: Request, workitems: Workitems, title: str, token: str, socket: web.WebSocketResponse
    ) -> None:
        self._request = request
        self._workitems = workitems
        self._title = title
        self._token = token
        self._socket = socket
        self._sent = self._read = self._forgotten = 0
        """Numbers of events: the last one sent, read by the client, forgotten here; 0: none yet."""
        self._news = asyncio.Event()
        self._heard_at = perf_counter()
        self._pinged_at = self._kept_at = perf_counter()

    async def run(self) -> None:
        """Until the client leaves, another channel takes its place, or the server stops."""
        reader = asyncio.ensure_future(self._listen())
        try:
            while not reader.done() and (code := await self._step()) is None:
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
                except TimeoutError:
                    pass
                self._news.clear()
            if not reader.done() and code is not None:
                await self._socket.close(code=code)
        except ConnectionError:
            pass  # the client has gone
        finally:
            reader.cancel()
            pool = self._request.engine.pools.orders
            await pool.run(lambda: self._workitems.close_channel(self._title, self._token))

    async def _listen(self) -> None:
        async for message in self._socket:
            self._heard_at = perf_counter()
            if message.type is WSMsgType.PING:
                await self._socket.pong(message.data)
            elif message.type is WSMsgType.PONG and message.data.isdigit() and len(message.data) < 20:
                self._read = max(self._read, min(int(message.data), self._sent))
                self._news.set()

    async def _step(self) -> int | None:
        """Sends what there is; a code: the channel is over."""
        request, pool, now = self._request, self._request.engine.pools.orders, perf_counter()
        if request.changes.is_ended or not request.allowed(Action.WORKITEM):
            return 1001
        if now - self._kept_at > CHANNEL_S / 3:
            self._kept_at = now
            if not await pool.run(lambda: self._workitems.keep_channel(self._title, self._token)):
                return REPLACED
        if self._read > self._forgotten:
            number = self._read
            await pool.run(partial(self._workitems.acknowledge, self._title, number))
            self._forgotten = number
        await self._send()
        is_waited_for = self._read < self._sent or now - self._heard_at > 2 * PING_S
        return 1001 if is_waited_for and now - self._heard_at > PONG_S else None

    async def _send(self) -> None:
        room = WINDOW - (self._sent - self._read)
        events = self._workitems.waiting(self._title, self._sent, room) if room > 0 else []
        if events and not self._sent:
            self._read = events[0][0] - 1
        seen, pool = reach(self._request), self._request.engine.pools.orders
        for number, row in events:
            if seen is None or await pool.run(partial(self._workitems.tells, row, seen)):
                await self._socket.send_str(_text(number, row))
                self._request.engine.metrics.counters["workitem_events_sent"] += 1
            self._sent = number
        now = perf_counter()
        if events or now - self._pinged_at > PING_S:
            self._pinged_at = now
            await self._socket.ping(str(self._sent).encode())


def _text(number: int, row: EventRow) -> str:
    """An event as a data set of JSON (11.13)."""
    command = {
        "00000002": {"vr": "UI", "Value": [CLASS_UID]},
        "00000110": {"vr": "US", "Value": [number % 0xFFFF + 1]},
        "00001000": {"vr": "UI", "Value": [row.uid]},
        "00001002": {"vr": "US", "Value": [row.type]},
    }
    information = json_model.encode(row.data_set, EXPLICIT_VR_LITTLE_ENDIAN, None)
    return (orjson.dumps(command)[:-1] + b"," + information[1:]).decode()


ROUTES: Final = (
    Route(
        "GET",
        f"{DICOMWEB}/subscribers/{{aetitle}}",
        channel,
        "The events of a subscriber, as a WebSocket",
        Action.WORKITEM,
        parameters=(TITLE,),
        produces=(),
        statuses=(101,),
        errors=(403, 404, 503),
        tag=TAG,
    ),
)
"""The rows of the route table."""
