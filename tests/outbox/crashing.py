"""A process that hands numbers over until it is killed: `python -m tests.outbox.crashing FOLDER COUNT`.

Each accepted number is a line of FOLDER/accepted, on the disk before it is accepted.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.archive.feed.destinations import Destinations
from engine.outbox.follower import Follower, Retries, Saving
from engine.outbox.source import Page, Unit


class Numbers:
    """The numbers from 1 to `count`."""

    def __init__(self, count: int) -> None:
        self._count = count

    def newest(self) -> str:
        return "0"

    oldest = newest

    def read(self, cursor: str) -> Page[int]:
        first = int(cursor) + 1
        numbers = range(first, min(first + 10, self._count + 1))
        units = [Unit(number, str(number - 1), str(number)) for number in numbers]
        return Page(units, str(numbers[-1]) if numbers else cursor, is_end=not numbers)

    def changed(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def close(self) -> None:
        pass


class Lines:
    """Accepts a number when its line is on the disk."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def deliver(self, unit: Unit[int], reset: str) -> None:
        os.write(self._fd, f"{unit.content}\n".encode())
        os.fdatasync(self._fd)

    def nothing(self, cursor: str) -> None:
        return None

    async def close(self) -> None:
        pass


async def run(folder: Path, count: int) -> None:
    async def in_line(work: Callable[[], Any]) -> Any:
        return work()

    engine: Any = SimpleNamespace(
        loop=asyncio.get_running_loop(),
        metrics=SimpleNamespace(counters=Counter()),
        pools=SimpleNamespace(reads=SimpleNamespace(run=in_line)),
    )
    layout: Any = SimpleNamespace(data=folder)
    follower = Follower(
        engine,
        "test",
        "numbers",
        Numbers(count),
        Lines(folder / "accepted"),
        destinations=Destinations(layout),
        retries=Retries(retry_s=0.01, retry_s_max=0.01),
        saving=Saving(accepted_s=0.0),
    )
    await follower.run()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
