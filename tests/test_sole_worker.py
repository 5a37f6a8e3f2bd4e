"""sole_worker: the work is done by whoever has the lock, and is begun again after whatever it raises."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine import log
from engine.errors import ArchiveInUse, StorageError
from engine.log_settings import Log
from engine.sole_worker import run_alone


class Turns:
    """A lock that is taken at first, and work that fails in several ways before it ends the test."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.outcomes: list[Exception | None] = [StorageError("no room"), ValueError("a mistake"), None]
        self.taken = 2

    @contextmanager
    def lock(self) -> Iterator[None]:
        if self.taken:
            self.taken -= 1
            self.events.append("taken")
            raise ArchiveInUse("another process has it")
        self.events.append("locked")
        try:
            yield
        finally:
            self.events.append("free")

    async def work(self) -> None:
        self.events.append("work")
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome
        raise asyncio.CancelledError


def test_it_waits_for_the_lock_and_begins_again_after_failures() -> None:
    turns = Turns()
    needed = iter([False, *[True] * 10])

    async def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            await run_alone(
                turns.lock,
                turns.work,
                is_needed=lambda: next(needed),
                check_s=0.0,
                logger=log.get("test"),
                failure="it is not done",
            )

    lines = io.StringIO()
    log.configure(Log(format="json"), stream=lines)
    try:
        asyncio.run(run())
    finally:
        log.configure(Log())
    assert turns.events == ["taken", "taken", *["locked", "work", "free"] * 3]
    logged = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["level"], line["event"]) for line in logged] == [
        ("warning", "it is not done"), ("error", "it is not done"),
    ]  # fmt: skip
    assert [line["error"].partition(" at ")[0] for line in logged] == ["no room", "ValueError"]
