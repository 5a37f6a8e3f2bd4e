"""The status of the server for everybody who watches it: one task takes it, while somebody does.

    one task    every INTERVAL_S: asks for the statistics of all processes, summarizes and judges them, makes one frame;
                every FACTS_S it also reads the condition of the archive in a thread
    a watcher   has room for one frame: a slow one misses frames, and never delays the others

It goes on for LINGER_S after the last watcher, who may come back and then finds a whole minute. Else nothing runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import orjson

from engine import guards, log
from engine.archive.admin import condition
from engine.errors import EngineError, for_log
from engine.web import verdict
from engine.web.live_summary import Snapshots
from engine.web.stream_slots import StreamSlots

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.runtime.engine import Engine

logger = log.get("web.live")

INTERVAL_S: Final = 2.0
FACTS_S: Final = 30.0
LINGER_S: Final = 60.0
STALE_S: Final = 3 * INTERVAL_S


OF_THE_STORE: Final = ("state", "tail_lag_bytes", "tail_age_s", "backlog_segments", "backlog_bytes", "backlog_age_s")
OF_MESSAGES: Final = ("connections", "last_number", "waiting")


class LiveStatus:
    """The watchers of one process. Used on the loop's thread."""

    def __init__(self, engine: Engine, server_stats: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._engine = engine
        self._server_stats = server_stats
        self.slots = StreamSlots()
        """Of the streams of its clients."""
        self._watchers: set[asyncio.Queue[bytes | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._snapshots = Snapshots()
        self._facts: dict[str, Any] = {}
        self._facts_at = -FACTS_S
        self._frame: tuple[float, bytes] = (-STALE_S, b"")
        self.is_ended = False

    @property
    def count(self) -> int:
        """The number of watchers."""
        return len(self._watchers)

    def join(self) -> asyncio.Queue[bytes | None]:
        """A queue that gets every frame (None: there are no more)."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._watchers.add(queue)
        if self._task is None:
            self._task = guards.watch(self._engine.loop.create_task(self._run()), "live status", self._crashed)
        return queue

    def leave(self, queue: asyncio.Queue[bytes | None]) -> None:
        """Removes a watcher."""
        self._watchers.discard(queue)

    async def frame(self) -> bytes:
        """A frame of now, as JSON; empty when the supervisor does not answer."""
        if monotonic() - self._frame[0] > STALE_S:
            self._snapshots = Snapshots()
        await self._take()
        return self._frame[1]

    def end(self) -> None:
        """Ends all streams, when the server stops."""
        self.is_ended = True
        self._send(None)
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        self._snapshots = Snapshots()
        try:
            watched_at = monotonic()
            while monotonic() - watched_at < LINGER_S:
                await self._take()
                self._send(self._frame[1])
                await asyncio.sleep(INTERVAL_S)
                if self._watchers:
                    watched_at = monotonic()
        finally:
            self._task = None

    def _crashed(self, error: BaseException) -> None:
        del error
        self._send(None)

    def _send(self, frame: bytes | None) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(frame)

    async def _take(self) -> None:
        stats = await self._server_stats()
        if not stats:
            return
        if monotonic() - self._facts_at >= FACTS_S:
            await self._read_facts()
        summary = self._snapshots.add(stats, monotonic())
        found = verdict.findings(stats, summary, self._facts)
        body = {
            "state": verdict.state(found),
            "findings": [asdict(finding) for finding in found],
            **summary,
            "condition": self._facts,
            "object_store": _some((stats.get("caretaker") or {}).get("object_store"), OF_THE_STORE, "state"),
            "messages": _some(stats.get("messages"), OF_MESSAGES, "counters"),
        }
        self._frame = (monotonic(), orjson.dumps(body))

    async def _read_facts(self) -> None:
        engine, config = self._engine, self._engine.config
        work = partial(condition.facts, engine.archive, config.scrub, config.limits.disk_reserve_bytes)
        try:
            self._facts = await engine.pools.slow.run(work)
        except (EngineError, OSError) as error:
            logger.warning("the condition of the archive cannot be read", error=for_log(error))
            self._facts = {"error": str(error)}
        self._facts_at = monotonic()


def _some(state: dict[str, Any] | None, names: tuple[str, ...], mark: str) -> dict[str, Any] | None:
    """Some facts of a part of the server; None if it is off, or does not answer (then it has no `mark`)."""
    return {name: state.get(name) for name in names} if state and mark in state else None
