"""Counts of one stream: latencies in buckets of one per cent, failures by their reason, lateness.

Buckets keep the memory of a run of many hours small. A percentile is right to one per cent; the maximum is exact.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

_STEP = math.log(1.01)
_NS_PER_MS = 1e6


class Percentiles(Struct, frozen=True):
    """Latencies of one kind of request."""

    count: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    max_ms: float = 0.0


class Histogram:
    """Durations in nanoseconds, in buckets whose limits grow by one per cent."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.max_ns = 0

    def add(self, duration_ns: int) -> None:
        self.buckets[int(math.log(max(duration_ns, 1)) / _STEP)] += 1
        self.max_ns = max(self.max_ns, duration_ns)

    def merge(self, other: Histogram) -> None:
        self.buckets.update(other.buckets)
        self.max_ns = max(self.max_ns, other.max_ns)

    @property
    def count(self) -> int:
        return self.buckets.total()

    def percentile_ms(self, share: float) -> float:
        """The latency that `share` (0 to 1) of the requests did not exceed."""
        rank = math.ceil(share * self.count)
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return min(math.exp((bucket + 1) * _STEP), self.max_ns) / _NS_PER_MS
        return 0.0

    def share_between(self, low_ms: float, high_ms: float) -> float:
        """The share of durations between two limits."""
        low, high = (int(math.log(limit * _NS_PER_MS) / _STEP) for limit in (low_ms, high_ms))
        return sum(count for bucket, count in self.buckets.items() if low <= bucket < high) / max(1, self.count)

    def percentiles(self) -> Percentiles:
        p50, p95, p99, p999 = (round(self.percentile_ms(share), 3) for share in (0.5, 0.95, 0.99, 0.999))
        return Percentiles(self.count, p50, p95, p99, p999, round(self.max_ns / _NS_PER_MS, 3))

    def curve(self) -> list[tuple[float, float]]:
        """(percentage of requests, latency in ms) along the distribution, for a chart."""
        shares = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999)
        useful = [share for share in shares if (1 - share) * self.count >= 1]
        return [(100 * share, round(self.percentile_ms(share), 3)) for share in useful]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request did."""

    failure: str = ""
    """Empty: it succeeded."""
    instance_count: int = 0
    byte_count: int = 0


@dataclass(slots=True)
class Counts:
    """The counts of one interval."""

    latencies: Histogram = field(default_factory=Histogram)
    services: Histogram = field(default_factory=Histogram)
    """Times from the sending to the answer, without the waiting before."""
    lags: Histogram = field(default_factory=Histogram)
    """Delays that the generator is to blame for."""
    late_ns: int = 0
    succeeded: int = 0
    instance_count: int = 0
    byte_count: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Counts) -> None:
        self.latencies.merge(other.latencies)
        self.services.merge(other.services)
        self.lags.merge(other.lags)
        self.late_ns = max(self.late_ns, other.late_ns)
        self.succeeded += other.succeeded
        self.instance_count += other.instance_count
        self.byte_count += other.byte_count
        self.failures.update(other.failures)


class Recorder:
    """The counts of all connections of one stream; `take` ends an interval."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._failures_in_a_row = 0

    def note(self, outcome: Outcome, latency_ns: int, late_ns: int = 0, lag_ns: int = 0) -> None:
        with self._lock:
            counts = self._counts
            counts.latencies.add(latency_ns)
            counts.services.add(latency_ns - late_ns)
            counts.lags.add(lag_ns)
            counts.late_ns = max(counts.late_ns, late_ns)
            counts.instance_count += outcome.instance_count
            counts.byte_count += outcome.byte_count
            if outcome.failure:
                counts.failures[outcome.failure] += 1
                self._failures_in_a_row += 1
            else:
                counts.succeeded += 1
                self._failures_in_a_row = 0

    @property
    def failures_in_a_row(self) -> int:
        return self._failures_in_a_row

    def take(self) -> Counts:
        with self._lock:
            counts, self._counts = self._counts, Counts()
        return counts


def most_frequent(failures: Mapping[str, int], count: int = 20) -> dict[str, int]:
    """The most frequent reasons; the others as one, so that a result stays small."""
    ordered = Counter(failures).most_common()
    shown = dict(ordered[:count])
    if rest := sum(number for _, number in ordered[count:]):
        shown["other reasons"] = rest
    return shown
