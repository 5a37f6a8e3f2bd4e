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

    def merge(self, other: Distribution) -> None:
        """Adds the observations of another one with the same bounds."""
        self.add({"bounds": other.bounds, "buckets": other.buckets} if other.buckets else None)

    def since(self, before: Distribution) -> Distribution:
        """The observations after `before`; all of them when a worker was replaced in between."""
        if len(before.buckets) != len(self.buckets):
            return self
        differences = [a - b for a, b in zip(self.buckets, before.buckets, strict=True)]
        return self if min(differences, default=0) < 0 else Distribution(self.bounds, differences)

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.buckets)

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
class Operation:
    """One kind of operation ("dicom C-FIND"), added up over workers."""

    failures: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    latency_s: Distribution = field(default_factory=Distribution)

    def add(self, snapshot: Answer) -> None:
        """Adds another worker's counters."""
        self.failures += snapshot["failures"]
        self.received_bytes += snapshot["received_bytes"]
        self.sent_bytes += snapshot["sent_bytes"]
        self.latency_s.add(snapshot["latency_s"])


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
    sent_bytes: int
    """Of instances to peers, and of answers to HTTP clients."""
    operations: dict[str, Operation]
    sync_latency_s: Distribution
    store_latency_s: Distribution


def totals(answer: Answer) -> Totals:
    """Adds the workers of one answer up."""
    workers: Sequence[Answer] = answer.get("workers", [])
    counters: Counter[str] = Counter(answer.get("counters", {}))
    peers: dict[str, Counter[str]] = {}
    operations: dict[str, Operation] = {}
    sync, store = Distribution(), Distribution()
    for worker in workers:
        counters.update(worker.get("counters", {}))
        for aet, counts in worker.get("peers", {}).items():
            peers.setdefault(aet, Counter()).update(counts)
        for name, snapshot in worker.get("operations", {}).items():
            operations.setdefault(name, Operation()).add(snapshot)
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
        sent_bytes=sum(counts["sent_bytes"] for counts in peers.values())
        + sum(operation.sent_bytes for operation in operations.values()),
        operations=operations,
        sync_latency_s=sync,
        store_latency_s=store,
    )
