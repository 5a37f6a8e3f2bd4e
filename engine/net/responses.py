"""Responses that somebody waits for, by message id: one table an association.

One response comes in a future (`expect`), several (C-FIND, C-GET, C-MOVE) in a `ResponseStream` (`expect_several`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from engine.errors import AssociationFailed

MESSAGE_ID_MAX = 0xFFFF


STREAM_MAX = 256
"""Responses of one request that lie unread, above which no more are read from the peer."""


class ResponseStream:
    """The responses to one request, each with its identifier (b"" without). Reading the peer stops while many wait."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self._responses: deque[tuple[Any, bytes]] = deque()
        self._is_paused = False
        self._news = asyncio.Event()
        self._failure: str | None = None

    def put(self, response: Any, identifier: bytes) -> None:
        """One more has come."""
        self._responses.append((response, identifier))
        self._news.set()
        if len(self._responses) >= STREAM_MAX and not self._is_paused:
            self._is_paused = True
            self._pause()

    def fail(self, reason: str) -> None:
        """No more will come."""
        self._failure = reason
        self._news.set()

    async def next(self, limit_s: float) -> tuple[Any, bytes]:
        """The next one. Raises TimeoutError, or AssociationFailed when the association ended before."""
        if not self._responses:
            if self._failure is None:
                async with asyncio.timeout(limit_s):
                    await self._news.wait()
            if not self._responses:
                raise AssociationFailed(self._failure or "no response")
        taken = self._responses.popleft()
        if not self._responses:
            if self._failure is None:
                self._news.clear()
            self.close()
        return taken

    def close(self) -> None:
        """Reads on, if that had stopped."""
        if self._is_paused:
            self._is_paused = False
            self._resume()


class Taker(Protocol):
    """Somebody who waits for many responses."""

    def received(self, response: Any, /) -> None: ...
    def fail(self, reason: str, /) -> None:
        """The association is gone."""


class Responses:
    """The outstanding requests of one association that we are SCU on."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any] | Taker] = {}
        self._streams: dict[int, ResponseStream] = {}
        self._next = 0
        self._ended: str | None = None

    @property
    def waiting_count(self) -> int:
        """How many responses are due."""
        return len(self._waiting) + len(self._streams)

    def expect(self) -> tuple[int, asyncio.Future[Any]]:
        """A free message id (1 to 65535) and what its response will arrive in. Raises AssociationFailed.

        Who does not send the request, or does not want the response any more, calls `forget`.
        """
        message_id = self._free_id()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[message_id] = future
        return message_id, future

    def expect_by(self, taker: Taker, count: int) -> list[int]:
        """Free message ids, whose responses `taker` is told, or has before they come here. Raises AssociationFailed."""
        message_ids: list[int] = []
        for _ in range(count):
            message_id = self._free_id()
            self._waiting[message_id] = taker
            message_ids.append(message_id)
        return message_ids

    def expect_several(self, pause: Callable[[], None], resume: Callable[[], None]) -> tuple[int, ResponseStream]:
        """The same for a request that has several responses; whoever has had the last one calls `forget`."""
        message_id = self._free_id()
        stream = self._streams[message_id] = ResponseStream(pause, resume)
        return message_id, stream

    def forget(self, message_id: int) -> None:
        """Nobody waits for this response any more; its id is free."""
        waiter = self._waiting.pop(message_id, None)
        if isinstance(waiter, asyncio.Future):
            waiter.cancel()
        elif self._streams and (stream := self._streams.pop(message_id, None)) is not None:
            stream.close()

    def forget_all(self, message_ids: Iterable[int]) -> None:
        """The same for those that `expect_by` gave."""
        for message_id in message_ids:
            self._waiting.pop(message_id, None)

    def received(self, response: Any, identifier: bytes = b"") -> None:
        """Hands a response to its waiter; one that nobody waits for (a late one) is dropped."""
        message_id = getattr(response, "message_id_being_responded_to", 0)
        waiter = self._waiting.pop(message_id, None)
        if isinstance(waiter, asyncio.Future):
            if not waiter.done():
                waiter.set_result(response)
        elif waiter is not None:
            waiter.received(response)
        elif self._streams and (stream := self._streams.get(message_id)) is not None:
            stream.put(response, identifier)

    def fail(self, reason: str) -> None:
        """The association is gone: every waiter gets AssociationFailed."""
        self._ended = reason
        for waiter in set(self._waiting.values()):
            if not isinstance(waiter, asyncio.Future):
                waiter.fail(reason)
            elif not waiter.done():
                waiter.set_exception(AssociationFailed(reason))
                waiter.exception()  # a waiter that was cancelled meanwhile is no unhandled error
        self._waiting.clear()
        for stream in self._streams.values():
            stream.fail(reason)

    def _free_id(self) -> int:
        if self._ended is not None:
            raise AssociationFailed(self._ended)
        if self.waiting_count >= MESSAGE_ID_MAX:
            raise AssociationFailed(f"{MESSAGE_ID_MAX} requests are not answered")
        while True:
            self._next = self._next % MESSAGE_ID_MAX + 1
            if self._next not in self._waiting and self._next not in self._streams:
                return self._next
