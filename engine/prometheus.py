"""A server's metrics in the text format of Prometheus: for /metrics, and for a textfile collector.

    filmroom stats --prometheus > /var/lib/node_exporter/filmroom.prom.$$ && mv …      (by cron or a systemd timer)

Every worker answers for all processes. Counters begin at 0 when a worker starts, as Prometheus expects. Without a
server `filmroom_up` is 0, and only the metrics of the archive are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.totals import totals


class _ServerCollector(Collector):
    """The server's answer to `stats`, or None, and the archive's totals."""

    def __init__(self, archive_totals: Mapping[str, int], answer: Mapping[str, Any] | None) -> None:
        self._archive_totals = archive_totals
        self._answer = answer

    def collect(self) -> Iterator[Metric]:
        """All metrics, in the library's types."""
        yield GaugeMetricFamily("filmroom_up", "Whether the server answers.", value=float(self._answer is not None))
        for name, value in self._archive_totals.items():
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
    yield from _audit(answer)
    yield from _messages(answer)
    yield from _object_store(answer)
    yield from _cluster(answer)
    yield from _second_copies(answer.get("workers", []))
    events = CounterMetricFamily("filmroom_events", "Events since the workers started.", labels=["event"])
    for name, count in sorted(now.counters.items()):
        events.add_metric([name], count)
    yield events
    for name in ("instances", "bytes", "failures", "associations", "sent_instances", "sent_bytes"):
        family = CounterMetricFamily(f"filmroom_peer_{name}", f"By calling AE title: {name}.", labels=["aet"])
        for aet, counts in sorted(now.peers.items()):
            family.add_metric([aet], counts[name])
        yield family
    workers = answer.get("workers", [])
    yield from _operations(workers)
    yield from _pools(workers)
    yield from _loads(workers)
    yield from _metadata_cache(workers)
    for name, text in (("store_latency_s", "C-STORE, from data set to answer"), ("sync_latency_s", "fdatasync")):
        yield _histogram(name, text, [worker[name] for worker in workers if name in worker])


def _audit(answer: Mapping[str, Any]) -> Iterator[Metric]:
    """Whether the audit log can be written, and how far behind the collector is."""
    states = [worker["audit"] for worker in answer.get("workers", []) if worker.get("audit")]
    if states:
        failing = sum(bool(state["failure"]) for state in states)
        yield GaugeMetricFamily("filmroom_audit_failing_workers", "Workers that cannot write it.", value=failing)
        waiting = sum(state["waiting"] for state in states)
        yield GaugeMetricFamily("filmroom_audit_waiting", "Audit events that are not on the disk.", value=waiting)
    collector = (answer.get("audit") or {}).get("collector")
    if collector:
        text = "For how long the oldest audit event that the collector lacks has waited."
        yield GaugeMetricFamily("filmroom_audit_late_seconds", text, value=collector["late_s"])


def _messages(answer: Mapping[str, Any]) -> Iterator[Metric]:
    """HL7 messages: how many, how many wait to be applied, how long their answers took."""
    state = answer.get("messages") or {}
    yield GaugeMetricFamily("filmroom_hl7_up", "Whether HL7 messages are received.", value=float("counters" in state))
    if "counters" not in state:
        return
    text = "HL7 messages and blocks, by what became of them."
    counted = CounterMetricFamily("filmroom_hl7_messages", text, labels=["what"])
    for name, count in sorted(state["counters"].items()):
        counted.add_metric([name], count)
    yield counted
    yield GaugeMetricFamily("filmroom_hl7_connections", "Open HL7 connections.", value=state["connections"])
    yield GaugeMetricFamily("filmroom_hl7_waiting", "Messages that wait to be applied.", value=state["waiting"])
    stalled = float(bool(state["stalled"]))
    yield GaugeMetricFamily("filmroom_hl7_stalled", "Whether messages cannot be applied or kept.", value=stalled)
    yield _histogram("hl7_answer_s", "From an HL7 message to its answer", [state["answer_latency_s"]])


def _object_store(answer: Mapping[str, Any]) -> Iterator[Metric]:
    """Whether the bucket is up to date."""
    state = (answer.get("caretaker") or {}).get("object_store") or {}
    if not state.get("enabled"):
        return
    for field, text in (
        ("is_alarming", "Whether somebody has to look at the object store."),
        ("away_s", "For how long the object store has not answered."),
        ("tail_lag_bytes", "New records that are not in the bucket."),
        ("backlog_bytes", "Sealed segments that are not in the bucket."),
        ("backlog_age_s", "Age of the oldest of these segments."),
        ("disk_days_left", "Days in which what arrives fills the disk."),
    ):
        if (value := state.get(field)) is not None:
            name = f"filmroom_object_store_{field.removesuffix('_s')}{'_seconds' if field.endswith('_s') else ''}"
            yield GaugeMetricFamily(name, text, value=float(value))
    uploaded = state.get("uploaded_bytes_since_start", 0)
    yield CounterMetricFamily("filmroom_object_store_uploaded_bytes", "Bytes that went to the bucket.", value=uploaded)


def _cluster(answer: Mapping[str, Any]) -> Iterator[Metric]:
    """This node's part in an archive of several nodes."""
    state = (answer.get("caretaker") or {}).get("cluster") or {}
    if not state.get("enabled"):
        return
    is_member = float(state["state"] in ("active", "draining") and not state["error"])
    yield GaugeMetricFamily(
        "filmroom_cluster_up", "Whether this node is a member, and PostgreSQL knows.", value=is_member
    )
    behind = GaugeMetricFamily(
        "filmroom_cluster_behind_groups", "Not applied yet, by the node's slot.", labels=["slot"]
    )
    for slot, count in sorted(state["behind_groups"].items()):
        behind.add_metric([slot], count)
    yield behind
    stopped = len(state["stopped"])
    yield GaugeMetricFamily("filmroom_cluster_stopped_nodes", "Nodes whose log cannot be followed.", value=stopped)
    applied = state["applied_groups"]
    yield CounterMetricFamily("filmroom_cluster_applied_groups", "Groups of other nodes, applied.", value=applied)
    if (offset_s := state["clock_offset_s"]) is not None:
        yield GaugeMetricFamily("filmroom_cluster_clock_offset_seconds", "Clock minus PostgreSQL's.", value=offset_s)


def _second_copies(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Answers that wait for a replica ("peer") or a bucket ("object")."""
    states = [(place, state) for worker in workers for place, state in (worker.get("second_copies") or {}).items()]
    places = sorted({place for place, _ in states})
    if not places:
        return
    text = "For how long no receipts have come, at the worker that waits longest."
    away = GaugeMetricFamily("filmroom_second_copy_away_seconds", text, labels=["durable"])
    waiting = GaugeMetricFamily("filmroom_second_copy_waiting", "Instances that wait for one.", labels=["durable"])
    text = "From the commit here to the receipt, in seconds."
    latency = HistogramMetricFamily("filmroom_second_copy_seconds", text, labels=["durable"])
    for place in places:
        own = [state for each, state in states if each == place]
        away.add_metric([place], max(state["away_s"] for state in own))
        waiting.add_metric([place], sum(state["waiting"] for state in own))
        latency.add_metric([place], *_add_histograms([state["latency_s"] for state in own]))
    yield away
    yield waiting
    yield latency


def _operations(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """HTTP requests and DIMSE operations: number, latency, bytes."""
    labels = ["front", "operation"]
    text = "Operations by front and name, in seconds from request to answer."
    latency = HistogramMetricFamily("filmroom_operation_seconds", text, labels=labels)
    counters = {
        "failures": CounterMetricFamily("filmroom_operation_failures", "Operations that failed.", labels=labels),
        "received_bytes": CounterMetricFamily("filmroom_operation_received_bytes", "Bytes of requests.", labels=labels),
        "sent_bytes": CounterMetricFamily("filmroom_operation_sent_bytes", "Bytes of answers.", labels=labels),
    }
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for worker in workers:
        for key, snapshot in worker.get("operations", {}).items():
            by_key.setdefault(key, []).append(snapshot)
    for key, snapshots in sorted(by_key.items()):
        front, _, operation = key.partition(" ")
        buckets, total = _add_histograms([snapshot["latency_s"] for snapshot in snapshots])
        latency.add_metric([front, operation], buckets, total)
        for name, family in counters.items():
            family.add_metric([front, operation], sum(snapshot[name] for snapshot in snapshots))
    yield latency
    yield from counters.values()


def _metadata_cache(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """How often series metadata was ready."""
    text = "Series metadata requested over HTTP: ready (hit), or made or updated for the request (miss)."
    family = CounterMetricFamily("filmroom_metadata_cache", text, labels=["result"])
    for field, label in (("hits", "hit"), ("misses", "miss")):
        family.add_metric([label], sum(worker.get("metadata_cache", {}).get(field, 0) for worker in workers))
    yield family


def _pools(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Threads for blocking work, by pool."""
    busy = GaugeMetricFamily("filmroom_pool_busy_threads", "Busy threads, by pool.", labels=["pool"])
    waiting = GaugeMetricFamily("filmroom_pool_waiting", "Calls that wait for a thread, by pool.", labels=["pool"])
    names = sorted({name for worker in workers for name in worker.get("pools", {})})
    for name in names:
        snapshots = [worker["pools"][name] for worker in workers if name in worker.get("pools", {})]
        busy.add_metric([name], sum(snapshot["busy"] for snapshot in snapshots))
        waiting.add_metric([name], sum(snapshot["waiting"] for snapshot in snapshots))
    yield busy
    yield waiting


_LOADS = (
    ("filmroom_http_connections", "Open HTTP connections.", ("http", "connections")),
    ("filmroom_http_requests", "HTTP requests in progress.", ("http", "requests")),
    ("filmroom_retrieval_held_bytes", "Bytes that retrievals hold in memory.", ("retrieval_budget", "held_bytes")),
    ("filmroom_retrieval_waiting", "Retrievals that wait for memory.", ("retrieval_budget", "waiting")),
    ("filmroom_transcoding_unfinished", "Instances and frames that wait for a codec.", ("codecs", "transcoding")),
    ("filmroom_rendering_unfinished", "Pictures that wait to be rendered.", ("codecs", "rendering")),
    ("filmroom_resident_bytes", "Memory of the workers.", ("admission", "resident_bytes")),
)


def _loads(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    for name, text, (table, field) in _LOADS:
        values = [worker[table][field] for worker in workers if field in worker.get(table, {})]
        if values:
            yield GaugeMetricFamily(name, text, value=sum(values))


def _add_histograms(parts: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, float]], float]:
    """Adds histograms of several workers: cumulative counts up to each bound, as the library expects, and the sum."""
    sums = [sum(counts) for counts in zip(*(part["buckets"] for part in parts), strict=True)]
    bounds = [*(str(float(bound)) for bound in parts[0]["bounds"]), "+Inf"]
    return list(zip(bounds, map(float, accumulate(sums)), strict=True)), sum(part["sum"] for part in parts)


def _histogram(name: str, text: str, parts: list[Mapping[str, Any]]) -> Metric:
    family = HistogramMetricFamily(f"filmroom_{name.removesuffix('_s')}_seconds", f"{text}, in seconds.")
    if parts:
        family.add_metric([], *_add_histograms(parts))
    return family


def text_of(archive_totals: Mapping[str, int], answer: Mapping[str, Any] | None) -> str:
    """The text exposition format, version 0.0.4. `answer`: the server's answer to `stats`; None: no server runs."""
    registry = CollectorRegistry()
    registry.register(_ServerCollector(archive_totals, answer))
    return generate_latest(registry).decode()
