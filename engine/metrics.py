"""Counters and histograms; no exporter logic. A worker holds one `Metrics`; `filmroom stats` adds them up.

Plain attributes and lists: an increment on the path of an instance costs some tens of nanoseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict


class Histogram:
    """Counts of observations up to each bound (the last bucket: above all bounds), with their sum."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, *bounds: float) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one observation."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.buckets)

    def snapshot(self) -> dict[str, object]:
        """As plain data: bounds, buckets (one more than bounds), count and sum."""
        return {"bounds": list(self.bounds), "buckets": list(self.buckets), "count": self.count, "sum": self.total}


class PeerCounters:
    """What one calling AE title did."""

    __slots__ = ("associations", "bytes", "failures", "instances")

    def __init__(self) -> None:
        self.instances = 0
        self.bytes = 0
        self.failures = 0
        self.associations = 0

    def snapshot(self) -> dict[str, int]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


PEERS_MAX = 1000
"""Calling AE titles counted apart; further ones are counted together, so that made-up titles cost no memory."""

OTHER_PEERS = "(others)"


class Metrics:
    """What one worker has done since it started."""

    def __init__(self) -> None:
        self.counters: defaultdict[str, int] = defaultdict(int)
        self.peers: dict[str, PeerCounters] = {}
        self.store_latency_s = Histogram(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)

    def peer(self, aet: str) -> PeerCounters:
        """The counters of one AE title."""
        counters = self.peers.get(aet)
        if counters is None:
            if len(self.peers) >= PEERS_MAX:
                aet = OTHER_PEERS
            counters = self.peers.setdefault(aet, PeerCounters())
        return counters

    def snapshot(self) -> dict[str, object]:
        """As plain data, ready for JSON."""
        return {
            "counters": dict(self.counters),
            "peers": {aet: counters.snapshot() for aet, counters in self.peers.items()},
            "store_latency_s": self.store_latency_s.snapshot(),
        }
