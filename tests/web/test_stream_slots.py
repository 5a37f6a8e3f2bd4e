"""Streams without an end: nobody takes the place of all others."""

from __future__ import annotations

from contextlib import ExitStack
from http import HTTPStatus

import pytest

from engine.access import Kind, Principal
from engine.web.errors import HttpError
from engine.web.stream_slots import StreamSlots


def user(name: str, address: str = "10.0.0.1") -> Principal:
    return Principal(Kind.HTTP, name, address)


def refused(slots: StreamSlots, principal: Principal, count_max: int) -> HTTPStatus:
    with pytest.raises(HttpError) as failure, slots.taken(principal, count_max):
        pass
    return HTTPStatus(failure.value.status)


def test_one_user_has_a_quarter_however_many_addresses_he_uses() -> None:
    slots = StreamSlots()
    with ExitStack() as stack:
        for number in range(2):
            stack.enter_context(slots.taken(user("ann", f"10.0.0.{number}"), 8))
        assert refused(slots, user("ann", "10.0.0.9"), 8) is HTTPStatus.TOO_MANY_REQUESTS
        for name in ("bob", "cid", "", "eve"):
            stack.enter_context(slots.taken(user(name), 8))
    for _ in range(3):
        with slots.taken(user("ann"), 8):
            pass


def test_all_together_have_no_more_than_there_are() -> None:
    slots = StreamSlots()
    with ExitStack() as stack:
        for number in range(8):
            stack.enter_context(slots.taken(user("", f"10.0.0.{number}"), 8))
        assert refused(slots, user("new"), 8) is HTTPStatus.SERVICE_UNAVAILABLE
    with slots.taken(user("new"), 8), slots.taken(user("new", "10.0.0.2"), 8):
        assert refused(slots, user("new"), 8) is HTTPStatus.TOO_MANY_REQUESTS
