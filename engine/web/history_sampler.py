"""Takes a look at the whole server once a minute, and writes what happened since the last one into the history.

One worker of all does: the one that has the flock on DATA/stats.lock. Rates are differences of counters, which begin
at 0 when a worker starts: what goes down counts from there.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from engine import guards, log
from engine.archive.stats_history import COUNTS, MINUTE_S
from engine.errors import ArchiveInUse, EngineError
from engine.totals import Distribution, totals

if TYPE_CHECKING:
    from engine.runtime.engine import Engine

logger = log.get("web.history")

LOOK_S: Final = 1.0


class HistorySampler:
    """Samples for one process, if it is the one that does. Used on the loop's thread."""

    def __init__(self, engine: Engine, server_stats: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._engine = engine
        self._server_stats = server_stats
        self._task = guards.watch(engine.loop.create_task(self._stand_by()), "history")

    def close(self) -> None:
        """Samples no more."""
        self._task.cancel()

    async def _stand_by(self) -> None:
        archive = self._engine.archive
        while True:
            try:
                if not archive.is_read_only:
                    with archive.keeping_history():
                        await self._attend()
            except ArchiveInUse:
                pass  # another worker does
            except (EngineError, OSError) as error:
                logger.warning("no history is written", error=str(error))
            await asyncio.sleep(LOOK_S)

    async def _attend(self) -> None:
        history, reads = self._engine.archive.stats_history(), self._engine.pools.reads
        before = await self._server_stats()
        while True:
            await asyncio.sleep(MINUTE_S - time.time() % MINUTE_S)
            now = await self._server_stats()
            if now:
                # What is seen at the full minute happened in the one before.
                values = sample(now, before)
                await reads.run(partial(history.add, time.time() - MINUTE_S / 2, values))
                before = now


def sample(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """One answer, and what happened since another one."""
    counts, earlier = _counts(now), _counts(before)
    one, other = totals(now), totals(before)
    workers = now.get("workers", [])
    archive = now.get("archive", {})
    free = [worker["admission"]["free_bytes"] for worker in workers if worker.get("admission", {}).get("free_bytes")]
    return {
        **{name: counts[name] - earlier[name] if counts[name] >= earlier[name] else counts[name] for name in COUNTS},
        "associations": one.associations,
        "connections": sum(worker.get("http", {}).get("connections", 0) for worker in workers),
        "queue_depth": one.queue_depth,
        "store_p99_s": _percentile(one.store_latency_s.since(other.store_latency_s)),
        "sync_p99_s": _percentile(one.sync_latency_s.since(other.sync_latency_s)),
        "free_bytes": min(free, default=0),
        "archive_studies": archive.get("studies", 0),
        "archive_instances": archive.get("instances", 0),
        "archive_bytes": archive.get("bytes", 0),
    }


def _percentile(distribution: Distribution) -> float:
    bound = distribution.percentile(0.99)
    return 0.0 if bound is None else bound if math.isfinite(bound) else distribution.bounds[-1]


def _counts(answer: Mapping[str, Any]) -> dict[str, float]:
    whole = totals(answer)
    operations = [each for worker in answer.get("workers", []) for each in worker.get("operations", {}).values()]
    return {
        "instances": whole.instances,
        "instance_bytes": whole.bytes,
        "operations": sum(each["latency_s"]["count"] for each in operations),
        **{name: sum(each[name] for each in operations) for name in ("failures", "received_bytes", "sent_bytes")},
    }
