"""server.bootstrap: what a child process does with the supervisor's messages, and when it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.server import bootstrap
from engine.server.channel import Channel

PATIENCE_S = 60.0


@pytest.mark.parametrize("trouble", ["a message that cannot be handled", "the end of the supervisor"])
def test_a_child_handles_messages_in_order_until_one_fails_or_the_supervisor_ends(trouble: str) -> None:
    handled: list[str] = []

    async def child() -> None:
        supervisor, theirs = Channel.pair()
        channel = Channel.inherited(theirs.detach())
        channel.set_blocking(False)
        ended = asyncio.Event()

        def handle(message: dict[str, Any], fd: int | None) -> None:
            if message["kind"] == "wrong":
                raise KeyError("version")
            handled.append(message["kind"])

        bootstrap.listen(channel, handle, ended.set)
        try:
            supervisor.send("first")
            supervisor.send("second")
            if trouble == "the end of the supervisor":
                supervisor.close()
            else:
                supervisor.send("wrong")
            await asyncio.wait_for(ended.wait(), PATIENCE_S)
        finally:
            asyncio.get_running_loop().remove_reader(channel.fileno())
            channel.close()
            supervisor.close()

    asyncio.run(child())
    assert handled == ["first", "second"]


def test_a_child_whose_supervisor_has_ended_does_not_start() -> None:
    supervisor, theirs = Channel.pair()
    supervisor.close()
    channel = Channel.inherited(theirs.detach())

    def serve(*_: object) -> int:
        raise AssertionError("it has started")

    assert bootstrap.run(channel, "child", serve) == 1
    channel.close()
