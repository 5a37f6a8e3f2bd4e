"""exchange.stow: the body of a request ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from engine.exchange.stow import end_body


def test_a_body_ends_when_the_cancelled_sender_has_left_it() -> None:
    ended: list[str] = []

    async def body(may_go_on: asyncio.Event) -> AsyncGenerator[bytes, None]:
        try:
            yield b"head"
            try:
                await may_go_on.wait()
            except asyncio.CancelledError:
                # As a read in a thread, which a cancellation does not end.
                await may_go_on.wait()
                raise
        finally:
            ended.append("body")

    async def run() -> None:
        may_go_on = asyncio.Event()
        generator = body(may_go_on)

        async def send() -> None:
            async for _ in generator:
                pass

        sending = asyncio.create_task(send())
        while not generator.ag_running:
            await asyncio.sleep(0)
        sending.cancel()
        ending = asyncio.create_task(end_body(generator))
        for _ in range(5):
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already running"):
            await generator.aclose()
        may_go_on.set()
        await ending
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(run())
    assert ended == ["body"]


def test_a_body_that_nobody_has_begun_ends() -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        yield b"head"

    async def run() -> None:
        generator = body()
        await end_body(generator)
        assert [piece async for piece in generator] == []

    asyncio.run(run())
