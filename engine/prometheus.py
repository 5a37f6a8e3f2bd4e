"""A server's figures in the text format that Prometheus reads: for /metrics, and for a textfile collector.

    filmroom stats --prometheus > /var/lib/node_exporter/filmroom.prom.$$ && mv …      (by cron or a systemd timer)

Whichever worker is asked, all processes are in it. Counters begin at 0 when a worker starts, as Prometheus expects.
Without a server `filmroom_up` is 0 and only the archive is told of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.totals import totals


class _Figures(Collector):
    """One answer of the server, or None, and what the archive holds."""

    def __init__(self, held: Mapping[str, int], answer: Mapping[str, Any] | None) -> None:
        self._held = held
        self._answer = answer

    def collect(self) -> Iterator[Metric]:
        """All of it, as the library wants it."""
        yield GaugeMetricFamily("filmroom_up", "Whether the server answers.", value=float(self._answer is not None))
        for name, value in self._held.items():
            yield GaugeMetricFamily(f"filmroom_archive_{name}", f"What the archive holds: {name}.", value=value)
        if self._answer is not None:
            yield from _server(self._answer)


def _server(answer: Mapping[str, Any]) -> Iterator[Metric]:
    now = totals(answer)
    yield GaugeMetricFamily("filmroom_workers", "Worker processes.", value=now.workers)
    yield GaugeMetricFamily("filmroom_associations", "Open associations.", value=now.associations)
    yield GaugeMetricFamily("filmroom_queue_depth", "Instances that wait for the disk.", value=now.queue_depth)
    admissions = [worker["admission"] for worker in answer.get("workers", []) if "admission" in worker]
    refusing = sum(admission["reason"] is not None for admission in admissions)
    yield GaugeMetricFamily("filmroom_refusing_workers", "Workers that refuse new instances.", value=refusing)
    free = [admission["free_bytes"] for admission in admissions if admission["free_bytes"]]
    if free:
        yield GaugeMetricFamily("filmroom_free_bytes", "Free on the disk of the archive.", value=min(free))
    events = CounterMetricFamily("filmroom_events", "What happened since the workers started.", labels=["event"])
    for name, count in sorted(now.counters.items()):
        events.add_metric([name], count)
    yield events
    for what in ("instances", "bytes", "failures", "associations"):
        family = CounterMetricFamily(f"filmroom_peer_{what}", f"By calling AE title: {what}.", labels=["aet"])
        for aet, counts in sorted(now.peers.items()):
            family.add_metric([aet], counts[what])
        yield family
    workers = answer.get("workers", [])
    for name, text in (("store_latency_s", "C-STORE, from data set to answer"), ("sync_latency_s", "fdatasync")):
        yield _histogram(name, text, [worker[name] for worker in workers if name in worker])


def _histogram(name: str, text: str, parts: list[Mapping[str, Any]]) -> Metric:
    family = HistogramMetricFamily(f"filmroom_{name.removesuffix('_s')}_seconds", f"{text}, in seconds.")
    if parts:
        sums = [sum(counts) for counts in zip(*(part["buckets"] for part in parts), strict=True)]
        ends = [*(str(float(bound)) for bound in parts[0]["bounds"]), "+Inf"]
        reached = [sum(sums[: place + 1]) for place in range(len(sums))]
        family.add_metric([], list(zip(ends, reached, strict=True)), sum(part["sum"] for part in parts))
    return family


def text_of(held: Mapping[str, int], answer: Mapping[str, Any] | None) -> str:
    """The text exposition format, version 0.0.4. `answer`: of the server's `stats`; None: no server runs."""
    registry = CollectorRegistry()
    registry.register(_Figures(held, answer))
    return generate_latest(registry).decode()
