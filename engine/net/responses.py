"""Responses that somebody waits for, by message id: one table an association."""

from __future__ import annotations

import asyncio
from typing import Any

from engine.errors import AssociationFailed

MESSAGE_ID_MAX = 0xFFFF


class Responses:
    """The outstanding requests of one association that we are SCU on."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next = 0
        self._ended: str | None = None

    @property
    def waiting_count(self) -> int:
        """How many responses are due."""
        return len(self._waiting)

    def expect(self) -> tuple[int, asyncio.Future[Any]]:
        """A free message id (1 to 65535) and what its response will arrive in. Raises AssociationFailed.

        Who does not send the request, or does not want the response any more, calls `forget`.
        """
        if self._ended is not None:
            raise AssociationFailed(self._ended)
        if len(self._waiting) >= MESSAGE_ID_MAX:
            raise AssociationFailed(f"{MESSAGE_ID_MAX} requests are not answered")
        while True:
            self._next = self._next % MESSAGE_ID_MAX + 1
            if self._next not in self._waiting:
                break
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._next] = future
        return self._next, future

    def forget(self, message_id: int) -> None:
        """Nobody waits for this response any more; its id is free."""
        future = self._waiting.pop(message_id, None)
        if future is not None:
            future.cancel()

    def received(self, response: Any) -> None:
        """Hands a response to its waiter; one that nobody waits for (a late one) is dropped."""
        future = self._waiting.pop(getattr(response, "message_id_being_responded_to", 0), None)
        if future is not None and not future.done():
            future.set_result(response)

    def fail(self, reason: str) -> None:
        """The association is gone: every waiter gets AssociationFailed."""
        self._ended = reason
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(AssociationFailed(reason))
                future.exception()  # a waiter that was cancelled meanwhile is no unhandled error
        self._waiting.clear()
