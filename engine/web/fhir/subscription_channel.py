"""A WebSocket that tells of the events of subscriptions (Subscriptions R5 Backport, Channels: WebSockets).

    GET /fhir/Subscription/{id}/$get-ws-binding-token     token, expiration, websocket-url: for the owner
    GET /fhir/websocket                                   the WebSocket
        client ──► bind-with-token: TOKEN                 several times for several subscriptions, BOUND_MAX at most
        server ──► a handshake, then each event from now on, and heartbeats; a notification is one text
        server ──► closes with 4001 on a token that does not hold, with 1001 when it stops

What happened before is read by $events. A token holds for TOKEN_S, and rights are asked for each event. The token is
all that a client shows here, since browsers send no other: until it is bound a client may stay for BIND_S.

    base64url( AES-SIV( subscription id 32 characters, Unix seconds 8 bytes ) )
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import WSMsgType, web

from engine.errors import RequestError
from engine.fhir.notification import notification
from engine.fhir.release import Release
from engine.web import cors
from engine.web.errors import HttpError
from engine.web.fhir import subscription_matches, subscription_state
from engine.web.fhir.answers import answer, asked_release
from engine.web.fhir.subscriptions import owned
from engine.web.route import FHIR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    from engine.archive.subscription_events import Numbered, SubscriptionEvents
    from engine.archive.subscriptions import Subscription
    from engine.web.request import Request

PATH: Final = f"{FHIR}/websocket"
CHANNELS_MAX: Final = 100
"""Of one worker, with the event streams of the change feed: each takes one of its requests without a time limit."""
BOUND_MAX: Final = 20
TOKEN_S: Final = 300
BIND_S: Final = 10.0
LOOK_S: Final = 0.1
CHECK_S: Final = 2.0
"""How often a bound subscription is looked at for changes by its client."""
MESSAGE_BYTES_MAX: Final = 4096
REFUSED: Final = 4001
_BIND: Final = "bind-with-token:"


@dataclass(slots=True)
class _Bound:
    """A subscription that a client listens to."""

    subscription: Subscription
    events: SubscriptionEvents
    state: object
    sent: int
    told_at: float
    checked_at: float


async def binding_token(request: Request) -> web.Response:
    """A token that binds a WebSocket to a subscription. Raises NotFound, HttpError (422)."""
    release, found = asked_release(request), await owned(request)
    if found.channel != "websocket":
        raise HttpError(422, "the channel of this subscription is no websocket")
    until_s = int(time.time()) + TOKEN_S
    sealed = _cipher(request.engine.secret).encrypt(found.id.encode() + until_s.to_bytes(8, "big"), None)
    scheme, _, rest = request.root.partition("://")
    parameters = [
        {"name": "token", "valueString": base64.urlsafe_b64encode(sealed).decode("ascii")},
        {"name": "expiration", "valueDateTime": datetime.fromtimestamp(until_s, UTC).isoformat()},
        {"name": "subscription", "valueString": found.id},
        {"name": "websocket-url", "valueUrl": f"{'wss' if scheme == 'https' else 'ws'}://{rest}{PATH}"},
    ]
    response = answer(request, {"resourceType": "Parameters", "parameter": parameters}, release)
    response.headers["Cache-Control"] = "no-store"
    return response


def _subscription_of(secret: bytes, token: str) -> str:
    """The id of the subscription; "" if the token does not hold."""
    from cryptography.exceptions import InvalidTag

    try:
        opened = _cipher(secret).decrypt(base64.urlsafe_b64decode(token.strip()[:256]), None)
    except (binascii.Error, ValueError, InvalidTag):
        return ""
    return opened[:-8].decode("ascii") if int.from_bytes(opened[-8:], "big") >= time.time() else ""


@lru_cache(maxsize=4)
def _cipher(secret: bytes) -> AESSIV:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(hmac.digest(secret, b"token of a subscription", "sha512"))


async def channel(request: Request) -> web.StreamResponse:
    """Sends notifications for as long as the client listens."""
    if "upgrade" not in request.headers.get("Connection", "").lower() or request.is_head:
        raise RequestError("this is a WebSocket: connect with Upgrade")
    cors.check_channel(request, request.config.http)
    with request.changes.opened(request.principal, CHANNELS_MAX):
        socket = web.WebSocketResponse(compress=False, max_msg_size=MESSAGE_BYTES_MAX, heartbeat=30.0)
        await socket.prepare(request)
        request.stream_after_s = perf_counter() - request.began_at
        await _Channel(request, socket).run()
    return socket


class _Channel:
    """One open WebSocket."""

    def __init__(self, request: Request, socket: web.WebSocketResponse) -> None:
        self._request = request
        self._socket = socket
        self._bound: dict[str, _Bound] = {}
        self._tokens: asyncio.Queue[str] = asyncio.Queue(BOUND_MAX)
        self._opened_at = perf_counter()

    async def run(self) -> None:
        """Until the client leaves, shows a token that does not hold, or the server stops."""
        reader = asyncio.ensure_future(self._listen())
        code: int | None = None
        try:
            while not reader.done() and (code := await self._step()) is None:
                await asyncio.wait((reader,), timeout=LOOK_S)
            if not reader.done() and code is not None:
                await self._socket.close(code=code)
        except ConnectionError:
            pass  # the client has gone
        finally:
            reader.cancel()

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT or not message.data.lower().startswith(_BIND):
                return
            if self._tokens.full():
                return
            self._tokens.put_nowait(message.data[len(_BIND) :])

    async def _step(self) -> int | None:
        """Sends what there is; a code: the channel is over."""
        if self._request.changes.is_ended:
            return 1001
        while not self._tokens.empty():
            if not await self._bind(self._tokens.get_nowait()):
                return REFUSED
        if not self._bound and perf_counter() - self._opened_at > BIND_S:
            return REFUSED
        for bound in list(self._bound.values()):
            await self._tell(bound)
        return None

    async def _bind(self, token: str) -> bool:
        engine = self._request.engine
        files = engine.archive.subscription_files()
        identifier = _subscription_of(engine.secret, token)
        found = await engine.pools.reads.run(partial(files.load, identifier)) if identifier else None
        if found is None or found.channel != "websocket" or len(self._bound) >= BOUND_MAX:
            return False
        events, now = files.events(found.id), perf_counter()
        last = await engine.pools.reads.run(events.last)
        self._bound[found.id] = bound = _Bound(found, events, events.state(), last, now, now)
        await self._send(bound, "handshake", ())
        return True

    async def _tell(self, bound: _Bound) -> None:
        engine, now = self._request.engine, perf_counter()
        if now - bound.checked_at > CHECK_S:
            bound.checked_at = now
            files = engine.archive.subscription_files()
            found = await engine.pools.reads.run(partial(files.load, bound.subscription.id))
            if found is None or found.is_off or subscription_state.has_ended(found) or found.channel != "websocket":
                del self._bound[bound.subscription.id]
                return
            bound.subscription = found
        state = bound.events.state()
        if state != bound.state:
            bound.state = state
            rows = await engine.pools.index.run(partial(self._rows, bound))
            if rows:
                await self._send(bound, "event-notification", rows)
        elif (period_s := bound.subscription.heartbeat_s) and now - bound.told_at > period_s:
            await self._send(bound, "heartbeat", ())

    def _rows(self, bound: _Bound) -> list[Numbered]:
        """New events that the owner may be told of now. Blocks."""
        new = bound.events.after(bound.sent)
        if not new:
            return []
        bound.sent = new[-1].number
        view = subscription_matches.view_of(self._request.engine, bound.subscription)
        return [row for row in new if subscription_matches.may_be_told(view, bound.subscription, row.id)]

    async def _send(self, bound: _Bound, kind: str, rows: Sequence[Numbered]) -> None:
        subscription, engine = bound.subscription, self._request.engine
        standings = engine.archive.subscription_standings()
        progress = await engine.pools.reads.run(partial(standings.load, subscription.id))
        standing = subscription_state.standing_of(subscription, progress)
        resource = notification(
            subscription_state.status_of(subscription, standing, bound.sent),
            kind,
            [subscription_state.told(subscription, row) for row in rows],
            subscription.root + FHIR,
            Release(subscription.release),
            str(uuid.uuid4()),
            datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        await self._socket.send_str(orjson.dumps(resource).decode())
        bound.told_at = perf_counter()
        engine.metrics.counters["subscription_notifications_sent"] += 1
