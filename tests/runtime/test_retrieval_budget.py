"""The memory that retrievals of a worker share: shares, waiting in order, waiting no longer than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from engine.config import Config, Limits
from engine.errors import MemoryShort
from engine.metrics import Metrics
from engine.runtime.retrieval_budget import PIECE_SHARE, WHOLE_SHARE, RetrievalBudget

MIB = 1 << 20
LONG_S = 60.0


def budget(**limits: int) -> RetrievalBudget:
    config = Config(limits=Limits(**({"retrieval_bytes_max": 16 * MIB} | limits)))
    return RetrievalBudget(lambda: config, Metrics())


def run(script: Coroutine[Any, Any, None]) -> None:
    asyncio.run(script)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_each_kind_of_use_ends_at_its_share() -> None:
    of = budget()
    assert of.take(8 * MIB, WHOLE_SHARE)
    assert not of.is_short
    assert not of.take(1, WHOLE_SHARE)
    assert of.take(4 * MIB, PIECE_SHARE)
    assert of.is_short
    assert not of.take(1, PIECE_SHARE)
    assert of.take(4 * MIB)
    assert not of.take(1)
    of.give_back(16 * MIB)
    assert of.held_bytes == 0


def test_it_is_never_more_than_a_quarter_of_the_memory_above_which_ingest_is_refused() -> None:
    assert budget(retrieval_bytes_max=512 * MIB, memory_bytes_max=1024 * MIB).bytes_max == 256 * MIB
    assert budget(retrieval_bytes_max=64 * MIB, memory_bytes_max=1024 * MIB).bytes_max == 64 * MIB


def test_waiters_are_served_in_order() -> None:
    async def script() -> None:
        of, served = budget(), list[str]()

        async def want(name: str, count: int) -> None:
            await of.wait_for(count, LONG_S)
            served.append(name)

        assert of.take(16 * MIB)
        tasks = [asyncio.create_task(want("large", 10 * MIB)), asyncio.create_task(want("small", MIB))]
        await settle()
        of.give_back(2 * MIB)
        await settle()
        assert served == []
        assert not of.take(1)
        of.give_back(8 * MIB)
        await settle()
        assert served == ["large"]
        of.give_back(6 * MIB)
        await asyncio.gather(*tasks)
        assert served == ["large", "small"]
        assert of.held_bytes == 11 * MIB
        assert of.waiting_count == 0

    run(script())


def test_waiting_too_long_or_requesting_too_much_fails() -> None:
    async def script() -> None:
        of = budget()
        assert of.take(16 * MIB)
        with pytest.raises(MemoryShort, match="memory for retrievals"):
            await of.wait_for(1, 0.01)
        with pytest.raises(MemoryShort, match="more than retrievals may hold"):
            await of.wait_for(17 * MIB, LONG_S)
        assert of.held_bytes == 16 * MIB
        assert of.waiting_count == 0

    run(script())


def test_a_cancelled_waiter_takes_nothing_and_the_next_one_is_served() -> None:
    async def script() -> None:
        of = budget()
        assert of.take(15 * MIB)
        first = asyncio.create_task(of.wait_for(2 * MIB, LONG_S))
        second = asyncio.create_task(of.wait_for(MIB, LONG_S))
        await settle()
        first.cancel()
        await second
        assert of.held_bytes == 16 * MIB
        # Given its bytes and ended in the same moment.
        third = asyncio.create_task(of.wait_for(MIB, LONG_S))
        await settle()
        of.give_back(MIB)
        third.cancel()
        await asyncio.wait([third])
        assert of.held_bytes == (15 if third.cancelled() else 16) * MIB

    run(script())
