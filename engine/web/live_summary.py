"""What a server does now: the differences of its counters over the last minute, as plain data for the page.

    Snapshots.add(answer to `stats`) ──► summary: rates of the last seconds; operations, peers, clients, errors and
                                         latencies of the last minute

Histograms of all workers are added before a percentile is taken, so it is right for several workers; it is the upper
bound of a bucket. A counter that went down belongs to a worker that was replaced, and counts from 0.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from engine.totals import Distribution, Operation, Totals, totals

WINDOW_S: Final = 60.0
RATE_S: Final = 6.0
ROWS_MAX: Final = 50
"""Peers and clients in a summary: those with most to do."""

ERROR_WORDS: Final = (
    "refused", "rejected", "failed", "crashed", "timed_out", "not_", "out_of_", "too_slow", "put_off", "evicted",
    "lost_early", "quarantined", "given_up", "short_of", "truncated", "killed", "held_up", "ended_for", "replaced",
)  # fmt: skip
"""Parts of the names of counters that count what went wrong."""


class Snapshots:
    """The answers of the last minute. Used on one thread."""

    def __init__(self) -> None:
        self._snapshots: deque[tuple[float, Totals, dict[str, int]]] = deque()

    def add(self, answer: Mapping[str, Any], at_s: float) -> dict[str, Any]:
        """Adds an answer to `stats`, taken at a moment of a clock that never goes back; returns the summary."""
        now, clients = totals(answer), _clients(answer)
        snapshots = self._snapshots
        while len(snapshots) > 1 and at_s - snapshots[1][0] >= WINDOW_S:
            snapshots.popleft()
        snapshots.append((at_s, now, clients))
        recent = next((each for each in reversed(snapshots) if at_s - each[0] >= RATE_S), snapshots[0])
        first_s, first, first_clients = snapshots[0]
        return {
            "time": now.time,
            "window_s": round(at_s - first_s, 1),
            **_rates(now, recent[1], at_s - recent[0]),
            **_window(now, first),
            "peers": _peers(now, first),
            "clients": _top(
                {client: {"requests": _more(count, first_clients.get(client, 0))} for client, count in clients.items()},
                "requests",
            ),
            **_levels(answer, now),
        }


def _clients(answer: Mapping[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for worker in answer.get("workers", []):
        for client, count in worker.get("http_clients", {}).items():
            counts[client] = counts.get(client, 0) + count
    return counts


def _more(now: int, before: int) -> int:
    return now - before if now >= before else now


def _rates(now: Totals, before: Totals, seconds: float) -> dict[str, Any]:
    def per_s(value: int, earlier: int) -> float:
        return round(_more(value, earlier) / seconds, 2) if seconds > 0 else 0.0

    def requests(total: Totals) -> int:
        return sum(each.latency_s.count for name, each in total.operations.items() if name.startswith("http "))

    return {
        "rates": {
            "instances": per_s(now.instances, before.instances),
            "received_bytes": per_s(now.bytes, before.bytes),
            "sent_bytes": per_s(now.sent_bytes, before.sent_bytes),
            "requests": per_s(requests(now), requests(before)),
            "associations": per_s(now.counters["associations"], before.counters["associations"]),
        }
    }


def _window(now: Totals, first: Totals) -> dict[str, Any]:
    operations = []
    for name, operation in sorted(now.operations.items()):
        earlier = first.operations.get(name, Operation())
        operations.append(
            {
                "name": name,
                "since_start": operation.latency_s.count,
                "failures_since_start": operation.failures,
                "count": (latency := operation.latency_s.since(earlier.latency_s)).count,
                "failures": _more(operation.failures, earlier.failures),
                "received_bytes": _more(operation.received_bytes, earlier.received_bytes),
                "sent_bytes": _more(operation.sent_bytes, earlier.sent_bytes),
                **_percentiles(latency if latency.count else operation.latency_s),
            }
        )
    return {
        "operations": operations,
        "count": sum(row["count"] for row in operations),
        "failures": sum(row["failures"] for row in operations),
        "latency": {
            "store": _percentiles(now.store_latency_s.since(first.store_latency_s)),
            "sync": _percentiles(now.sync_latency_s.since(first.sync_latency_s)),
        },
        "errors": {
            name: [count, _more(count, first.counters[name])]
            for name, count in sorted(now.counters.items())
            if count and any(word in name for word in ERROR_WORDS)
        },
    }


def _percentiles(distribution: Distribution) -> dict[str, float | None]:
    """In seconds; None without observations. Above the last bound: that bound."""
    values = {f"p{percent}": distribution.percentile(percent / 100) for percent in (50, 95, 99)}
    return {
        name: value if value is None or math.isfinite(value) else distribution.bounds[-1]
        for name, value in values.items()
    }


_PEER_COUNTS: Final = ("associations", "instances", "bytes", "failures", "sent_instances", "sent_bytes")


def _peers(now: Totals, first: Totals) -> list[dict[str, Any]]:
    rows = {}
    for aet, counts in now.peers.items():
        earlier: Mapping[str, int] = first.peers.get(aet, {})
        row: dict[str, Any] = {name: _more(counts[name], earlier.get(name, 0)) for name in _PEER_COUNTS}
        rows[aet] = {**row, "all_instances": counts["instances"], "all_associations": counts["associations"]}
    return _top(rows, "bytes", "sent_bytes", "associations", "all_instances", "all_associations")


def _top(rows: Mapping[str, Mapping[str, Any]], *keys: str) -> list[dict[str, Any]]:
    names = sorted(rows, key=lambda name: tuple(-rows[name][key] for key in keys))
    return [{"name": name, **rows[name]} for name in names[:ROWS_MAX]]


def _levels(answer: Mapping[str, Any], now: Totals) -> dict[str, Any]:
    workers = answer.get("workers", [])
    admissions = [worker["admission"] for worker in workers if "admission" in worker]
    return {
        "now": {
            "workers": now.workers,
            "associations": now.associations,
            "connections": sum(worker.get("http", {}).get("connections", 0) for worker in workers),
            "requests": sum(worker.get("http", {}).get("requests", 0) for worker in workers),
            "queue_depth": now.queue_depth,
            "free_bytes": min((each["free_bytes"] for each in admissions if each.get("free_bytes")), default=None),
            "resident_bytes": sum(each.get("resident_bytes") or 0 for each in admissions),
            "transcoding": sum(worker.get("codecs", {}).get("transcoding", 0) for worker in workers),
            "rendering": sum(worker.get("codecs", {}).get("rendering", 0) for worker in workers),
        },
        "archive": dict(answer.get("archive", {})),
        "webhooks": list(answer.get("webhooks", [])),
        "outbox": list(answer.get("outbox", [])),
    }
