"""Samples the statistics of the whole server once a minute, and writes the differences into the history.

One worker samples: the one with the flock on DATA/stats.lock. Rates are differences of counters, which begin at 0 when
a worker starts: a counter that went down counts from 0.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from engine import guards, log
from engine.archive.stats_history import COUNTS, MINUTE_S
from engine.sole_worker import run_alone
from engine.totals import Distribution, Totals, totals

if TYPE_CHECKING:
    from engine.runtime.engine import Engine

logger = log.get("web.history")

CHECK_S: Final = 1.0


class HistorySampler:
    """Samples, if no other process does. Used on the loop's thread."""

    def __init__(self, engine: Engine, server_stats: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._engine = engine
        self._server_stats = server_stats
        self._task = guards.watch(engine.loop.create_task(self._run()), "history")

    def close(self) -> None:
        """Ends sampling."""
        self._task.cancel()

    async def _run(self) -> None:
        archive = self._engine.archive
        await run_alone(
            archive.keeping_history,
            self._sample_forever,
            is_needed=lambda: not archive.is_read_only,
            check_s=CHECK_S,
            logger=logger,
            failure="the history cannot be written",
        )

    async def _sample_forever(self) -> None:
        history, reads = self._engine.archive.stats_history(), self._engine.pools.reads
        before = await self._server_stats()
        while True:
            await asyncio.sleep(MINUTE_S - time.time() % MINUTE_S)
            now = await self._server_stats()
            if now:
                # A sample at the full minute belongs to the minute before.
                values = sample(now, before)
                await reads.run(partial(history.add, time.time() - MINUTE_S / 2, values))
                before = now


_SEARCH: Final = re.compile(
    r"dicom C-FIND|http GET (/api/studies|/dicom-web/(.*/)?(studies|series|instances)|/fhir/(ImagingStudy|Patient))"
)
_WEB: Final = "http GET /dicom-web/"


def latencies(total: Totals) -> dict[str, Distribution]:
    """The latencies of each kind of operation that the history has."""
    query, web = Distribution(), Distribution()
    for name, operation in total.operations.items():
        if _SEARCH.fullmatch(name):
            query.merge(operation.latency_s)
        elif name.startswith(_WEB):
            web.merge(operation.latency_s)
    return {"store": total.store_latency_s, "query": query, "web": web, "sync": total.sync_latency_s}


def sample(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, float]:
    """The values of one answer to `stats`, with the differences from an earlier one."""
    total, earlier_total = totals(now), totals(before)
    counts, earlier_counts = _counts(total), _counts(earlier_total)
    workers = now.get("workers", [])
    archive = now.get("archive", {})
    free = [worker["admission"]["free_bytes"] for worker in workers if worker.get("admission", {}).get("free_bytes")]
    since, earlier = latencies(total), latencies(earlier_total)
    return {
        **{
            name: counts[name] - (earlier_counts[name] if counts[name] >= earlier_counts[name] else 0)
            for name in COUNTS
        },
        **{
            f"{kind}_p{percent}_s": _percentile(distribution.since(earlier[kind]), percent / 100)
            for kind, distribution in since.items()
            for percent in (50, 95, 99)
        },
        "associations": total.associations,
        "connections": sum(worker.get("http", {}).get("connections", 0) for worker in workers),
        "queue_depth": total.queue_depth,
        "free_bytes": min(free, default=0),
        "archive_studies": archive.get("studies", 0),
        "archive_instances": archive.get("instances", 0),
        "archive_bytes": archive.get("live_bytes", 0),
    }


def _percentile(distribution: Distribution, fraction: float) -> float:
    bound = distribution.percentile(fraction)
    return 0.0 if bound is None else bound if math.isfinite(bound) else distribution.bounds[-1]


def _counts(total: Totals) -> dict[str, float]:
    operations = total.operations.values()
    return {
        "instances": total.instances,
        "instance_bytes": total.bytes,
        "operations": sum(operation.latency_s.count for operation in operations),
        "failures": sum(operation.failures for operation in operations),
        "received_bytes": sum(operation.received_bytes for operation in operations),
        "sent_bytes": total.sent_bytes,
    }
