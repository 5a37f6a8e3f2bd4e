"""`filmroom stats --prometheus`: what the library's own parser reads of it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from engine import prometheus
from engine.metrics import Metrics

HELD = {"instances": 7, "live_bytes": 1000}


def samples(text: str) -> dict[tuple[str, str], float]:
    """(name, label values) → value."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def worker(stored: int, latency_s: float, reason: str | None = None) -> dict[str, object]:
    metrics = Metrics()
    for _ in range(stored):
        metrics.peer('CT "1"\n').instances += 1
        metrics.store_latency_s.observe(latency_s)
    metrics.counters["echo"] += 1
    return {**metrics.snapshot(), "associations": 1, "admission": {"reason": reason, "free_bytes": 5000}}


def test_workers_are_added_up_and_peers_are_labels() -> None:
    found = samples(prometheus.text_of(HELD, {"workers": [worker(2, 0.0004), worker(3, 0.04, "disk full")]}))
    assert found["filmroom_up", ""] == 1
    assert found["filmroom_archive_instances", ""] == 7
    assert found["filmroom_peer_instances_total", 'CT "1"\n'] == 5
    assert found["filmroom_events_total", "echo"] == 2
    assert found["filmroom_refusing_workers", ""] == 1
    assert found["filmroom_free_bytes", ""] == 5000


def test_a_histogram_counts_all_that_took_no_longer() -> None:
    found = samples(prometheus.text_of(HELD, {"workers": [worker(2, 0.0004), worker(3, 0.04)]}))
    assert found["filmroom_store_latency_seconds_bucket", "0.0005"] == 2
    assert found["filmroom_store_latency_seconds_bucket", "0.05"] == 5
    assert found["filmroom_store_latency_seconds_bucket", "+Inf"] == 5
    assert found["filmroom_store_latency_seconds_count", ""] == 5


def test_the_object_store_has_gauges_once_it_is_used() -> None:
    state = {"enabled": True, "is_alarming": True, "away_s": 7.5, "backlog_bytes": 9, "disk_days_left": None}
    found = samples(prometheus.text_of(HELD, {"workers": [], "caretaker": {"object_store": state}}))
    assert found["filmroom_object_store_is_alarming", ""] == 1
    assert found["filmroom_object_store_away_seconds", ""] == 7.5
    assert found["filmroom_object_store_backlog_bytes", ""] == 9
    assert ("filmroom_object_store_disk_days_left", "") not in found
    other = samples(prometheus.text_of(HELD, {"workers": [], "caretaker": {"object_store": {"enabled": False}}}))
    assert not any(name.startswith(("filmroom_object_store", "filmroom_cluster")) for name, _ in other)


def test_a_node_says_how_far_it_follows_the_others() -> None:
    state = {
        "enabled": True,
        "state": "active",
        "error": "",
        "clock_offset_s": 0.25,
        "applied_groups": 12,
        "behind_groups": {"3": 2},
        "stopped": {"3": "damaged"},
    }
    found = samples(prometheus.text_of(HELD, {"workers": [], "caretaker": {"cluster": state}}))
    assert found["filmroom_cluster_up", ""] == 1
    assert found["filmroom_cluster_behind_groups", "3"] == 2
    assert found["filmroom_cluster_stopped_nodes", ""] == 1
    assert found["filmroom_cluster_applied_groups_total", ""] == 12
    assert found["filmroom_cluster_clock_offset_seconds", ""] == 0.25
    lost = {**state, "state": "fenced", "error": "taken over"}
    assert (
        samples(prometheus.text_of(HELD, {"workers": [], "caretaker": {"cluster": lost}}))["filmroom_cluster_up", ""]
        == 0
    )


def test_answers_that_wait_for_a_second_copy_are_measured_by_place() -> None:
    latency = Metrics().store_latency_s
    latency.observe(0.003)
    states = [{"away_s": away_s, "waiting": 2, "latency_s": latency.snapshot()} for away_s in (0.0, 8.0)]
    workers = [{**worker(1, 0.1), "second_copies": {"peer": state}} for state in states]
    found = samples(prometheus.text_of(HELD, {"workers": workers}))
    assert found["filmroom_second_copy_away_seconds", "peer"] == 8.0
    assert found["filmroom_second_copy_waiting", "peer"] == 4
    assert found["filmroom_second_copy_seconds_count", "peer"] == 2


def test_without_a_server_it_is_down_and_the_archive_is_told_of() -> None:
    found = samples(prometheus.text_of(HELD, None))
    assert found["filmroom_up", ""] == 0 and found["filmroom_archive_live_bytes", ""] == 1000
    assert not any(name.startswith("filmroom_peer") for name, _ in found)


def test_operations_of_both_fronts_are_added_up_by_name() -> None:
    def snapshot(count: int) -> dict[str, object]:
        metrics = Metrics()
        for number in range(count):
            metrics.operation("dicom", "C-FIND").observe(0.003, is_failure=number == 0)
            metrics.operation("http", "GET /a/{b}").observe(0.3, is_failure=False, received_bytes=2, sent_bytes=10)
        return metrics.snapshot()

    found = samples(prometheus.text_of(HELD, {"workers": [snapshot(2), snapshot(3), {}]}))
    assert found["filmroom_operation_seconds_count", "dicom,C-FIND"] == 5
    assert found["filmroom_operation_seconds_bucket", "dicom,0.005,C-FIND"] == 5
    assert found["filmroom_operation_failures_total", "dicom,C-FIND"] == 2
    assert found["filmroom_operation_sent_bytes_total", "http,GET /a/{b}"] == 50
