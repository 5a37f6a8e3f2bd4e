"""Adds up the workers in a server's answer to `stats`.

Knows only the shape of that answer and of `metrics` snapshots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Answer = Mapping[str, Any]


@dataclass(slots=True)
class Distribution:
    """A histogram of `metrics`, added up over workers."""

    bounds: list[float] = field(default_factory=list)
    buckets: list[int] = field(default_factory=list)

    def add(self, snapshot: Answer | None) -> None:
        """Adds another worker's observations."""
        if not snapshot:
            return
        if not self.buckets:
            self.bounds, self.buckets = list(snapshot["bounds"]), [0] * len(snapshot["buckets"])
        self.buckets = [a + b for a, b in zip(self.buckets, snapshot["buckets"], strict=True)]

    def since(self, before: Distribution) -> Distribution:
        """The observations after `before`; all of them when a worker was replaced in between."""
        if len(before.buckets) != len(self.buckets):
            return self
        differences = [a - b for a, b in zip(self.buckets, before.buckets, strict=True)]
        return self if min(differences, default=0) < 0 else Distribution(self.bounds, differences)

    def percentile(self, fraction: float) -> float | None:
        """The bound below which that fraction lies (infinity: above the last bound); None without observations."""
        count = sum(self.buckets)
        cumulative = 0
        for bound, bucket in zip([*self.bounds, float("inf")], self.buckets, strict=False):
            cumulative += bucket
            if count and cumulative >= fraction * count:
                return bound
        return None


@dataclass(slots=True)
class Totals:
    """One answer, added up over the workers."""

    time: float
    workers: int
    associations: int
    queue_depth: int
    instances: int
    bytes: int
    counters: Counter[str]
    peers: dict[str, Counter[str]]
    sync_latency_s: Distribution
    store_latency_s: Distribution


def totals(answer: Answer) -> Totals:
    """Adds the workers of one answer up."""
    workers: Sequence[Answer] = answer.get("workers", [])
    counters: Counter[str] = Counter(answer.get("counters", {}))
    peers: dict[str, Counter[str]] = {}
    sync, store = Distribution(), Distribution()
    for worker in workers:
        counters.update(worker.get("counters", {}))
        for aet, counts in worker.get("peers", {}).items():
            peers.setdefault(aet, Counter()).update(counts)
        sync.add(worker.get("sync_latency_s"))
        store.add(worker.get("store_latency_s"))
    return Totals(
        time=float(answer.get("time", 0.0)),
        workers=len(workers),
        associations=sum(worker.get("associations", 0) for worker in workers),
        queue_depth=sum(worker.get("queue_depth", 0) for worker in workers),
        instances=sum(counts["instances"] for counts in peers.values()),
        bytes=sum(counts["bytes"] for counts in peers.values()),
        counters=counters,
        peers=peers,
        sync_latency_s=sync,
        store_latency_s=store,
    )
