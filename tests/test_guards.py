"""What ends a thread or a task that nobody waits for is logged and told."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator

import pytest

from engine import guards, log
from engine.config import Log


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What is logged."""
    stream = io.StringIO()
    log.configure(Log(format="json"), stream=stream)
    yield stream
    log.configure(Log())


def test_the_end_of_a_thread_is_logged_and_reported(said: io.StringIO) -> None:
    ends: list[BaseException] = []

    def work() -> None:
        raise SystemExit(3)

    guards.start("worker bee", work, ends.append).join(60)
    assert [type(end) for end in ends] == [SystemExit]
    assert "worker bee" in said.getvalue()
    guards.start("well", lambda: None, ends.append).join(60)
    assert len(ends) == 1


def test_the_end_of_a_task_is_logged_and_reported_unless_it_was_cancelled(said: io.StringIO) -> None:
    ends: list[BaseException] = []

    async def crash() -> None:
        raise KeyError("lost")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        crashed = guards.watch(loop.create_task(crash()), "crashing", ends.append)
        cancelled = guards.watch(loop.create_task(asyncio.sleep(60)), "cancelled", ends.append)
        cancelled.cancel()
        await asyncio.wait([crashed, cancelled])
        await asyncio.sleep(0)

    asyncio.run(run())
    assert [type(end) for end in ends] == [KeyError]
    assert "crashing" in said.getvalue() and "cancelled" not in said.getvalue()


def test_a_failing_callback_does_not_prevent_the_next_one(said: io.StringIO) -> None:
    called: list[int] = []
    guards.call("first", lambda: 1 // 0)
    guards.call("second", called.append, 2)
    assert called == [2]
    assert "ZeroDivisionError" in said.getvalue()
