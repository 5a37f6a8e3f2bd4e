"""Message ids of outstanding requests: never two the same, free again when nobody waits, and an end to the search."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from engine.errors import AssociationFailed
from engine.net.responses import MESSAGE_ID_MAX, Responses


def test_when_all_ids_are_in_use_the_next_request_fails_until_one_is_freed() -> None:
    async def script() -> None:
        responses = Responses()
        ids = {responses.expect()[0] for _ in range(MESSAGE_ID_MAX)}
        assert ids == set(range(1, MESSAGE_ID_MAX + 1))
        with pytest.raises(AssociationFailed, match="are outstanding"):
            responses.expect()
        responses.forget(4711)
        assert responses.expect()[0] == 4711

    asyncio.run(script())


def test_duplicate_and_unexpected_responses_are_ignored() -> None:
    async def script() -> None:
        responses = Responses()
        first, waiting = responses.expect()
        answer = SimpleNamespace(message_id_being_responded_to=first, status=0)
        responses.received(answer)
        responses.received(SimpleNamespace(message_id_being_responded_to=first, status=0xA700))
        responses.received(SimpleNamespace(message_id_being_responded_to=999, status=0xA700))
        assert await waiting is answer
        assert responses.waiting_count == 0
        responses.forget(first)
        second, other = responses.expect()
        responses.forget(second)
        responses.received(SimpleNamespace(message_id_being_responded_to=second, status=0))
        assert other.cancelled()

    asyncio.run(script())
