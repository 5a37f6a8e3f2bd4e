"""Outstanding responses by message id: one table for each association.

A single response arrives in a future (`expect`), several ones (C-FIND, C-GET, C-MOVE) in a `ResponseStream`
(`expect_several`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from engine.errors import AssociationFailed

MESSAGE_ID_MAX = 0xFFFF

WRONG_OPERATION = "the peer answered with a response of another operation"

STREAM_MAX = 256
"""Unread responses of one request, above which reading from the peer pauses."""


class ResponseStream:
    """The responses to one request, each with its identifier (or b""). Reading from the peer pauses while many wait."""

    def __init__(
        self,
        pause: Callable[[], None],
        resume: Callable[[], None],
        is_answer: Callable[[Any], bool] = lambda response: True,
    ) -> None:
        """`is_answer`: whether a response is of the operation that was requested; another one ends the stream."""
        self._pause = pause
        self._is_answer = is_answer
        self._resume = resume
        self._responses: deque[tuple[Any, bytes]] = deque()
        self._is_paused = False
        self._has_news = asyncio.Event()
        self._failure: str | None = None

    def put(self, response: Any, identifier: bytes) -> None:
        """Adds a response."""
        if not self._is_answer(response):
            self.fail(WRONG_OPERATION)
            return
        self._responses.append((response, identifier))
        self._has_news.set()
        if len(self._responses) >= STREAM_MAX and not self._is_paused:
            self._is_paused = True
            self._pause()

    def fail(self, reason: str) -> None:
        """Ends the stream with an error."""
        self._failure = reason
        self._has_news.set()

    async def next(self, limit_s: float) -> tuple[Any, bytes]:
        """The next response. Raises TimeoutError, or AssociationFailed when the association has ended before."""
        if not self._responses:
            if self._failure is None:
                async with asyncio.timeout(limit_s):
                    await self._has_news.wait()
            if not self._responses:
                raise AssociationFailed(self._failure or "no response")
        response = self._responses.popleft()
        if not self._responses:
            if self._failure is None:
                self._has_news.clear()
            self.close()
        return response

    def close(self) -> None:
        """Resumes reading if it was paused."""
        if self._is_paused:
            self._is_paused = False
            self._resume()


class ResponseHandler(Protocol):
    """Handles the responses to many requests."""

    def received(self, response: Any, /) -> None: ...
    def fail(self, reason: str, /) -> None:
        """The association has ended."""


class Responses:
    """The outstanding requests of one association on which we are SCU."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any] | ResponseHandler] = {}
        self._streams: dict[int, ResponseStream] = {}
        self._next = 0
        self._ended: str | None = None

    @property
    def waiting_count(self) -> int:
        """The number of outstanding requests."""
        return len(self._waiting) + len(self._streams)

    def expect(self) -> tuple[int, asyncio.Future[Any]]:
        """A free message id (1 to 65535) and the future for its response. Raises AssociationFailed.

        Call `forget` if you do not send the request, or no longer need the response.
        """
        message_id = self._free_id()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[message_id] = future
        return message_id, future

    def expect_by(self, handler: ResponseHandler, count: int) -> list[int]:
        """Free message ids; `handler` gets their responses, unless it reads them itself. Raises AssociationFailed."""
        message_ids: list[int] = []
        for _ in range(count):
            message_id = self._free_id()
            self._waiting[message_id] = handler
            message_ids.append(message_id)
        return message_ids

    def expect_several(
        self,
        pause: Callable[[], None],
        resume: Callable[[], None],
        is_answer: Callable[[Any], bool] = lambda response: True,
    ) -> tuple[int, ResponseStream]:
        """The same for a request with several responses. Call `forget` after the last one."""
        message_id = self._free_id()
        stream = self._streams[message_id] = ResponseStream(pause, resume, is_answer)
        return message_id, stream

    def forget(self, message_id: int) -> None:
        """Frees a message id; its response, if any, is dropped."""
        waiter = self._waiting.pop(message_id, None)
        if isinstance(waiter, asyncio.Future):
            waiter.cancel()
        elif self._streams and (stream := self._streams.pop(message_id, None)) is not None:
            stream.close()

    def forget_all(self, message_ids: Iterable[int]) -> None:
        """The same for message ids from `expect_by`."""
        for message_id in message_ids:
            self._waiting.pop(message_id, None)

    def received(self, response: Any, identifier: bytes = b"") -> None:
        """Hands a response to its waiter; drops a late one, for which nobody waits."""
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
        """Ends all requests: every waiter gets AssociationFailed."""
        self._ended = reason
        for waiter in set(self._waiting.values()):
            if not isinstance(waiter, asyncio.Future):
                waiter.fail(reason)
            elif not waiter.done():
                waiter.set_exception(AssociationFailed(reason))
                waiter.exception()  # if the waiter was cancelled, asyncio must not report an unhandled exception
        self._waiting.clear()
        for stream in self._streams.values():
            stream.fail(reason)

    def _free_id(self) -> int:
        if self._ended is not None:
            raise AssociationFailed(self._ended)
        if self.waiting_count >= MESSAGE_ID_MAX:
            raise AssociationFailed(f"{MESSAGE_ID_MAX} requests are outstanding")
        while True:
            self._next = self._next % MESSAGE_ID_MAX + 1
            if self._next not in self._waiting and self._next not in self._streams:
                return self._next
