"""web.live_summary, web.verdict and /api/live: what a server does now, and whether all is well."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive.archive import Archive
from engine.archive.disk_forecast import DAY_S, forecast
from engine.web import live_status, verdict
from engine.web.live_summary import Snapshots
from tests import samples
from tests.web.hosting import Hosting
from tests.web.serving import ApiClient, serving

BOUNDS = [0.001, 0.01, 0.1]


def histogram(*buckets: int) -> dict[str, Any]:
    return {"bounds": BOUNDS, "buckets": list(buckets), "count": sum(buckets), "sum": 0.0}


def worker(instances: int = 0, store: tuple[int, ...] = (0, 0, 0, 0), **fields: Any) -> dict[str, Any]:
    peer = {"instances": instances, "bytes": 100 * instances, "failures": 0, "associations": 1}
    return {
        "peers": {"CT1": {**peer, "sent_bytes": 7 * instances, "sent_instances": instances}},
        "counters": {"instances_refused": instances, "find": 9},
        "operations": {},
        "http_clients": {"10.0.0.1": instances},
        "store_latency_s": histogram(*store),
        "sync_latency_s": histogram(0, 0, 0, 0),
        "admission": {"reason": None, "free_bytes": 1000},
        **fields,
    }


def answer(*workers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"time": 5.0, "workers": list(workers), "archive": {}, **fields}


def test_rates_are_of_the_last_seconds_and_the_rest_of_the_last_minute() -> None:
    snapshots = Snapshots()
    for second in range(0, 130, 2):
        summary = snapshots.add(answer(worker(10 * second), worker(0)), float(second))
    assert summary["rates"]["instances"] == 10.0 and summary["rates"]["received_bytes"] == 1000.0
    assert summary["rates"]["sent_bytes"] == 70.0
    assert summary["window_s"] == 60.0
    (peer,) = summary["peers"]
    assert (peer["name"], peer["instances"], peer["all_instances"]) == ("CT1", 600, 1280)
    assert summary["clients"] == [{"name": "10.0.0.1", "requests": 600}]
    assert summary["errors"] == {"instances_refused": [1280, 600]}, "find counts no error"


def test_percentiles_are_right_over_several_workers() -> None:
    snapshots = Snapshots()
    snapshots.add(answer(worker(store=(50, 0, 0, 0)), worker()), 0.0)
    # 90 quick ones of one worker and 10 slow ones of the other: neither worker's own p95 is that of both.
    summary = snapshots.add(answer(worker(store=(140, 0, 0, 0)), worker(store=(0, 0, 9, 1))), 2.0)
    assert summary["latency"]["store"] == {"p50": 0.001, "p95": 0.1, "p99": 0.1}
    assert summary["latency"]["sync"] == {"p50": None, "p95": None, "p99": None}


def test_a_replaced_worker_makes_no_negative_rate() -> None:
    snapshots = Snapshots()
    snapshots.add(answer(worker(1000)), 0.0)
    assert snapshots.add(answer(worker(10)), 10.0)["rates"]["instances"] == 1.0


def codes(stats: dict[str, Any] | None = None, **facts: Any) -> dict[str, str]:
    whole = {"backups": [{"age_s": 60, "verified_age_s": 60}], **facts}
    found = verdict.findings(stats or answer(worker()), {}, whole, now_s=1e9)
    return {finding.code: finding.level for finding in found}


def test_all_is_well_without_a_finding() -> None:
    assert codes() == {} and verdict.state([]) == "good"


@pytest.mark.parametrize(
    ("expected", "stats", "facts"),
    [
        ({"refusing": "bad"}, answer(worker(admission={"reason": "disk", "free_bytes": 1})), {}),
        ({"worker_missing": "bad"}, answer(workers_missing=[{"number": 1, "error": "no memory"}]), {}),
        ({"worker_silent": "bad"}, answer({"number": 3}), {}),
        ({"background_job_failing": "bad"}, answer(caretaker={"failing": {"scrub": "x"}}), {}),
        ({"damaged": "bad"}, answer(archive={"damaged": 2}), {}),
        ({"quarantine": "attention"}, answer(archive={"versions": 2}), {}),
        ({"rule_parked": "attention"}, answer(outbox=[{"name": "x", "state": "parked", "error": "y"}]), {}),
        ({"webhook_parked": "attention"}, answer(webhooks=[{"name": "x", "state": "parked", "error": "y"}]), {}),
        ({"lost": "bad"}, None, {"lost": 1}),
        ({"disk_filling": "bad"}, None, {"disk": {"full_at_s": 1e9 + DAY_S}}),
        ({"disk_filling": "attention"}, None, {"disk": {"full_at_s": 1e9 + 30 * DAY_S}}),
        ({}, None, {"disk": {"full_at_s": 1e9 + 300 * DAY_S}}),
        ({"backup_none": "attention"}, None, {"backups": []}),
        ({"backup_old": "attention"}, None, {"backups": [{"age_s": 9 * DAY_S, "verified_age_s": 5}]}),
        ({"backup_unverified": "attention"}, None, {"backups": [{"age_s": 9, "verified_age_s": None}]}),
        ({"replication_stopped": "bad"}, None, {"replications": [{"running": False, "state": "behind, not running"}]}),
        (
            {"replication_late": "attention"},
            None,
            {"replications": [{"running": True, "state": "behind", "lag_s": 9999}]},
        ),
        ({"jobs_failed": "attention"}, None, {"jobs": {"failed": 1, "done": 5}}),
        ({"commitments_failing": "attention"}, None, {"commitments": {"waiting": 2, "failing": 1}}),
        ({"scrub_late": "attention"}, None, {"scrub": {"in_time": False}}),
    ],
)
def test_each_trouble_is_a_finding(
    expected: dict[str, str], stats: dict[str, Any] | None, facts: dict[str, Any]
) -> None:
    assert codes(stats, **facts) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"enabled": False}, {}),
        ({"state": "up to date"}, {}),
        ({"state": "away", "error": "no answer"}, {}),
        ({"state": "away", "error": "no answer", "is_alarming": True}, {"object_store_away": "bad"}),
        ({"state": "fenced", "error": "another", "is_alarming": True}, {"object_store_fenced": "bad"}),
        ({"state": "behind", "backlog_age_s": 2.0 * DAY_S}, {"object_store_behind": "attention"}),
    ],
)
def test_an_object_store_that_needs_somebody_is_a_finding(state: dict[str, Any], expected: dict[str, str]) -> None:
    whole = {"enabled": True, "error": "", "is_alarming": False, "backlog_bytes": 0, "backlog_age_s": 0.0, **state}
    assert codes(answer(worker(), caretaker={"object_store": whole})) == expected


@pytest.mark.parametrize(
    ("state", "away_s", "when_away", "expected"),
    [
        ("ready", 0.0, "refuse", {}),
        ("away", 3.0, "refuse", {}),
        ("away", 9.0, "refuse", {"second_copy_away": "bad"}),
        ("away", 9.0, "local", {"second_copy_alone": "bad"}),
        ("fenced", 9.0, "local", {"second_copy_fenced": "bad"}),
    ],
)
def test_a_missing_second_copy_is_a_finding(
    state: str, away_s: float, when_away: str, expected: dict[str, str]
) -> None:
    others = {"state": "ready", "away_s": 0.0, "when_away": when_away, "waiting": 0}
    one = {**others, "state": state, "away_s": away_s}
    workers = [{**worker(), "second_copies": {"peer": each}} for each in (others, one)]
    assert codes(answer(*workers)) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, {}),
        ({"restarts": 0, "not_started": None}, {}),  # it begins
        ({"restarts": 0, "not_started": "the port is taken"}, {"messages_missing": "bad"}),
        ({"restarts": 2, "not_started": None}, {"messages_missing": "bad"}),
        ({"restarts": 2, "counters": {}, "waiting": 0, "stalled": ""}, {}),
        ({"restarts": 0, "counters": {}, "waiting": 7, "stalled": "no space"}, {"messages_stalled": "bad"}),
    ],
)
def test_messages_that_are_not_received_or_applied_are_a_finding(
    state: dict[str, Any] | None, expected: dict[str, str]
) -> None:
    assert codes(answer(worker(), messages=state)) == expected


def test_bad_findings_come_first() -> None:
    found = verdict.findings(answer(archive={"damaged": 1}), {}, {"backups": []})
    assert [finding.level for finding in found] == ["bad", "attention"] and verdict.state(found) == "bad"


def line(days: int, per_day: float, start: float = 1000.0) -> list[tuple[float, float]]:
    return [(hour * 3600.0, start - per_day * hour / 24) for hour in range(days * 24)]


def test_the_forecast_finds_the_day_on_which_the_reserve_is_reached() -> None:
    found = forecast(line(10, 10.0), reserve_bytes=100)
    assert found.state == "filling" and found.full_at_s == pytest.approx(90 * DAY_S)
    assert found.bytes_per_day == pytest.approx(10)


def test_outliers_and_one_compaction_change_the_forecast_little() -> None:
    points = [(time, free + (150 if time > 8 * DAY_S else 0)) for time, free in line(10, 10.0)]
    points[50] = points[50][0], 1.0
    found = forecast(points)
    assert found.bytes_per_day == pytest.approx(10, rel=0.2)


@pytest.mark.parametrize(("per_day", "state"), [(0.0, "steady"), (-5.0, "steady"), (0.001, "steady"), (1.0, "filling")])
def test_a_disk_that_does_not_fill_up_is_steady(per_day: float, state: str) -> None:
    assert forecast(line(10, per_day)).state == state


def test_a_short_history_has_no_forecast() -> None:
    assert forecast([]).state == "unknown"
    assert forecast([(minute * 60.0, 1000.0 - minute) for minute in range(30)]).state == "unknown"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data: Path = tmp_path_factory.mktemp("live") / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        archive.store(samples.part10(samples.instance(1, 1, 1)))
    with serving(data) as hosting:
        yield hosting


def test_the_status_has_the_archive_and_its_condition(hosting: Hosting) -> None:
    api = ApiClient(hosting.port)
    try:
        first, status = api.get("/api/live"), api.get("/api/live")
    finally:
        api.close()
    assert first["archive"]["studies"] == 1
    assert status["state"] == "attention" and [one["code"] for one in status["findings"]] == ["backup_none"]
    assert status["object_store"] is None and status["messages"] is None
    assert status["condition"]["scrub"]["damaged"] == 0 and status["condition"]["disk"]["state"] == "unknown"
    assert any(row["name"] == "http GET /api/live" for row in status["operations"])


def test_watchers_share_one_task_which_ends_with_the_last(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_status, "INTERVAL_S", 0.02)
    monkeypatch.setattr(live_status, "LINGER_S", 0.1)
    connections = [http.client.HTTPConnection("127.0.0.1", hosting.port, timeout=60) for _ in range(3)]
    responses = []
    for connection in connections:
        connection.request("GET", "/api/live", headers={"Accept": "text/event-stream"})
        responses.append(connection.getresponse())
    for response in responses:
        lines = [response.readline() for _ in range(8)]
        frames = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
        assert len(frames) >= 2 and frames[0]["archive"]["studies"] == 1
    assert hosting.front.live_status.count == 3
    for connection in connections:
        connection.sock.close() if connection.sock is not None else None
        connection.close()
    for response in responses:
        response.close()
    for _ in range(500):
        if not hosting.front.live_status.count:
            break
        threading.Event().wait(0.02)
    assert hosting.front.live_status.count == 0
    operation = hosting.engine.metrics.operations["http GET /api/live"]
    assert operation.failures == 0, "a client that leaves a stream is no failure"
