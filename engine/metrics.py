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
    """The counters of one calling AE title."""

    __slots__ = ("associations", "bytes", "failures", "instances", "sent_bytes", "sent_instances")

    def __init__(self) -> None:
        self.sent_instances = 0
        self.sent_bytes = 0
        self.instances = 0
        self.bytes = 0
        self.failures = 0
        self.associations = 0

    def snapshot(self) -> dict[str, int]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


class OperationCounters:
    """The counters of one kind of operation: C-FIND, GET /dicom-web/studies."""

    __slots__ = ("failures", "latency_s", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.failures = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.latency_s = Histogram(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)

    def observe(self, seconds: float, is_failure: bool, *, received_bytes: int = 0, sent_bytes: int = 0) -> None:
        """Counts an operation that has ended."""
        self.latency_s.observe(seconds)
        self.failures += is_failure
        self.received_bytes += received_bytes
        self.sent_bytes += sent_bytes

    def snapshot(self) -> dict[str, object]:
        """As plain data."""
        return {
            "failures": self.failures,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "latency_s": self.latency_s.snapshot(),
        }


PEERS_MAX = 1000
"""Calling AE titles counted separately; further ones are counted together, so that made-up titles cost no memory."""

OTHER_PEERS = "(others)"


class Metrics:
    """The counters of one worker since its start."""

    def __init__(self) -> None:
        self.counters: defaultdict[str, int] = defaultdict(int)
        self.peers: dict[str, PeerCounters] = {}
        self.operations: dict[str, OperationCounters] = {}
        """By front and name, from a table of ours: there are as many as there are services and routes."""
        self.http_clients: dict[str, int] = {}
        """Requests by network address."""
        self.store_latency_s = Histogram(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)

    def peer(self, aet: str) -> PeerCounters:
        """The counters of one AE title."""
        counters = self.peers.get(aet)
        if counters is None:
            if len(self.peers) >= PEERS_MAX:
                aet = OTHER_PEERS
            counters = self.peers.setdefault(aet, PeerCounters())
        return counters

    def http_request(self, client: str) -> None:
        """Counts a request of a network address."""
        counts = self.http_clients
        if client not in counts and len(counts) >= PEERS_MAX:
            client = OTHER_PEERS
        counts[client] = counts.get(client, 0) + 1

    def operation(self, front: str, name: str) -> OperationCounters:
        """The counters of one kind of operation. Never pass a name that a peer sent."""
        key = f"{front} {name}"
        counters = self.operations.get(key)
        if counters is None:
            counters = self.operations[key] = OperationCounters()
        return counters

    def snapshot(self) -> dict[str, object]:
        """As plain data, ready for JSON."""
        return {
            "counters": dict(self.counters),
            "peers": {aet: counters.snapshot() for aet, counters in self.peers.items()},
            "http_clients": self.http_clients,
            "operations": {name: counters.snapshot() for name, counters in self.operations.items()},
            "store_latency_s": self.store_latency_s.snapshot(),
        }
