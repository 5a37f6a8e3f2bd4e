"""A task for each table of the configuration in force: begun when the table comes, ended when it goes or changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from engine import guards

if TYPE_CHECKING:
    from engine.archive.feed.subscription import Watch
    from engine.runtime.engine import Engine

CHECK_S: Final = 1.0
"""How often the configuration is looked at."""

Table = TypeVar("Table")


class Tables(Generic[Table]):
    """The tasks of the tables of one kind. Used on the loop's thread."""

    def __init__(
        self,
        engine: Engine,
        kind: str,
        tables: Callable[[], Mapping[str, Table]],
        work: Callable[[Table, Watch], Coroutine[Any, Any, None]],
    ) -> None:
        """`tables`: those of the configuration in force, by name. `work`: what is done for one, until it is cancelled;
        the watch wakes it when the change feed grows."""
        self._engine = engine
        self._kind = kind
        self._tables = tables
        self._work = work
        self._running: dict[str, tuple[Table, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Works until this is cancelled."""
        watch: Watch | None = None
        try:
            while True:
                if self._tables() and watch is None:
                    watch = self._engine.archive.feed_watch(self._engine.loop)
                if watch is not None:
                    self._update(watch)
                await asyncio.sleep(CHECK_S)
        finally:
            self.close()
            await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
            self._running.clear()
            if watch is not None:
                watch.close()

    def close(self) -> None:
        """Ends all tasks at once: `run` itself ends only in its next turn, and the pools may be closed by then."""
        for _, task in self._running.values():
            task.cancel()

    def _update(self, watch: Watch) -> None:
        configured = self._tables()
        for name, (table, task) in list(self._running.items()):
            if task.done() or configured.get(name) != table:
                task.cancel()
                del self._running[name]
        for name, table in configured.items():
            if name not in self._running:
                task = self._engine.loop.create_task(self._work(table, watch))
                self._running[name] = table, guards.watch(task, f"{self._kind} {name}")
