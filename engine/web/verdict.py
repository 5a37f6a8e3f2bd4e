"""Judges whether all is well with a server and its archive: findings, each with a level and the values to word it with.

    bad          somebody must act now: instances are refused, damaged or lost, a process is missing, the disk fills up
    attention    somebody should look within days: backups, failed jobs, quarantine
    good         there are no findings

Pure: from the answer to `stats`, the summary of the last minute (`live_summary`) and `archive.admin.condition`. A page
words a finding by its code, in the language of its reader.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

DAY_S: Final = 86_400
FULL_BAD_S: Final = 7 * DAY_S
FULL_ATTENTION_S: Final = 60 * DAY_S
BACKUP_AGE_S_MAX: Final = 2 * DAY_S
VERIFIED_AGE_S_MAX: Final = 35 * DAY_S
REPLICATION_LAG_S_MAX: Final = 3600
BACKLOG_AGE_S_MAX: Final = DAY_S
SYNC_P99_S_MAX: Final = 0.5
SECOND_COPY_AWAY_S_MAX: Final = 5.0
"""A replica that is started anew is back by then."""
FAILURES_SHARE_MAX: Final = 0.05
FAILURES_MIN: Final = 10

Level = Literal["bad", "attention"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    code: str
    level: Level
    values: dict[str, Any] = field(default_factory=dict)


def findings(
    stats: Mapping[str, Any], summary: Mapping[str, Any], facts: Mapping[str, Any], now_s: float | None = None
) -> list[Finding]:
    """The findings, bad ones first."""
    now_s = time.time() if now_s is None else now_s
    found = [
        *_server(stats, summary),
        *_archive(stats, facts),
        *_disk(facts, now_s),
        *_copies(facts),
        *_queues(stats, facts),
    ]
    return sorted(found, key=lambda finding: finding.level != "bad")


def state(found: list[Finding]) -> str:
    """good, attention or bad."""
    return found[0].level if found else "good"


def _server(stats: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[Finding]:
    for missing in stats.get("workers_missing", []):
        yield Finding("worker_missing", "bad", {"number": missing["number"], "error": missing["error"]})
    workers = stats.get("workers", [])
    silent = [worker["number"] for worker in workers if "number" in worker and "admission" not in worker]
    if silent:
        yield Finding("worker_silent", "bad", {"numbers": silent})
    reasons = {worker["admission"]["reason"] for worker in workers if worker.get("admission", {}).get("reason")}
    for reason in sorted(reasons):
        yield Finding("refusing", "bad", {"reason": reason})
    if stats.get("index_held_by"):
        yield Finding("index_held", "bad", {"by": stats["index_held_by"]})
    caretaker = stats.get("caretaker") or {}
    if caretaker.get("not_started"):
        yield Finding("caretaker_missing", "bad", {"error": caretaker["not_started"]})
    yield from _object_store(caretaker.get("object_store") or {})
    yield from _second_copies(workers)
    yield from _messages(stats.get("messages") or {})
    for job, error in sorted((caretaker.get("failing") or {}).items()):
        yield Finding("background_job_failing", "bad", {"job": job, "error": str(error)})
    feed = stats.get("feed") or {}
    if feed.get("error"):
        yield Finding("feed_failing", "attention", {"error": feed["error"]})
    failures_of_audit = [worker["audit"]["failure"] for worker in workers if (worker.get("audit") or {}).get("failure")]
    if failures_of_audit:
        yield Finding("audit_failing", "bad", {"error": failures_of_audit[0]})
    keeper = stats.get("audit") or {}
    if keeper.get("signing_failure"):
        yield Finding("audit_unsigned", "attention", {"error": keeper["signing_failure"]})
    if (collector := keeper.get("collector")) and collector["is_late"]:
        yield Finding("audit_late", "attention", {"seconds": collector["late_s"], "error": collector["error"]})
    sync_s = summary.get("latency", {}).get("sync", {}).get("p99")
    if sync_s is not None and sync_s >= SYNC_P99_S_MAX:
        yield Finding("sync_slow", "attention", {"seconds": sync_s})
    failures, count = summary.get("failures", 0), summary.get("count", 0)
    if failures >= FAILURES_MIN and failures >= FAILURES_SHARE_MAX * count:
        yield Finding("operations_failing", "attention", {"failures": failures, "count": count})


def _object_store(state: Mapping[str, Any]) -> Iterator[Finding]:
    """The copy of the archive in a bucket."""
    if not state.get("enabled"):
        return
    gibibytes = round(state["backlog_bytes"] / (1 << 30), 1)
    if state["state"] == "fenced":
        yield Finding("object_store_fenced", "bad", {"error": state["error"]})
    elif state["is_alarming"]:
        yield Finding("object_store_away", "bad", {"error": state["error"], "gibibytes": gibibytes})
    elif state["backlog_age_s"] > BACKLOG_AGE_S_MAX:
        yield Finding("object_store_behind", "attention", {"gibibytes": gibibytes})


def _second_copies(workers: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Answers that wait for a replica or a bucket, by place: the worst of all workers."""
    away: dict[str, Mapping[str, Any]] = {}
    for worker in workers:
        for place, state in (worker.get("second_copies") or {}).items():
            if state["away_s"] > away.get(place, {"away_s": SECOND_COPY_AWAY_S_MAX})["away_s"]:
                away[place] = state
    for place, state in sorted(away.items()):
        values = {"durable": place, "seconds": round(state["away_s"])}
        if state["state"] == "fenced":
            yield Finding("second_copy_fenced", "bad", values)
        else:
            yield Finding("second_copy_alone" if state["when_away"] == "local" else "second_copy_away", "bad", values)


def _messages(state: Mapping[str, Any]) -> Iterator[Finding]:
    """HL7 messages."""
    if state.get("not_started") or (state.get("restarts") and "counters" not in state):
        yield Finding("messages_missing", "bad", {"error": state.get("not_started") or ""})
    elif state.get("stalled"):
        yield Finding("messages_stalled", "bad", {"count": state["waiting"], "error": state["stalled"]})


def _archive(stats: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Finding]:
    archive = stats.get("archive", {})
    if facts.get("lost"):
        yield Finding("lost", "bad", {"count": facts["lost"]})
    if archive.get("damaged"):
        yield Finding("damaged", "bad", {"count": archive["damaged"]})
    if facts.get("read_only"):
        yield Finding("read_only", "attention")
    quarantined = archive.get("quarantined", 0) + archive.get("versions", 0)
    if quarantined:
        yield Finding("quarantine", "attention", {"count": quarantined})
    if (scrub := facts.get("scrub")) and not scrub.get("in_time", True):
        yield Finding("scrub_late", "attention")


def _disk(facts: Mapping[str, Any], now_s: float) -> Iterator[Finding]:
    full_at_s = (facts.get("disk") or {}).get("full_at_s")
    if full_at_s is not None and full_at_s - now_s < FULL_ATTENTION_S:
        level: Level = "bad" if full_at_s - now_s < FULL_BAD_S else "attention"
        yield Finding("disk_filling", level, {"full_at_s": full_at_s, "days": max(0, int((full_at_s - now_s) / DAY_S))})


def _copies(facts: Mapping[str, Any]) -> Iterator[Finding]:
    replications = facts.get("replications", [])
    for replication in replications:
        lag_s, values = replication.get("lag_s"), {"destination": replication.get("destination", "")}
        if not replication["running"] and str(replication["state"]).startswith("behind"):
            yield Finding("replication_stopped", "bad", values)
        elif lag_s is not None and lag_s > REPLICATION_LAG_S_MAX:
            yield Finding("replication_late", "attention", {**values, "seconds": lag_s})
    backups = facts.get("backups", [])
    if not backups:
        if not replications and not facts.get("read_only"):
            yield Finding("backup_none", "attention")
        return
    newest = min(backup["age_s"] for backup in backups)
    if newest > BACKUP_AGE_S_MAX:
        yield Finding("backup_old", "attention", {"days": newest // DAY_S})
    verified = [backup["verified_age_s"] for backup in backups if backup["verified_age_s"] is not None]
    if not verified:
        yield Finding("backup_unverified", "attention")
    elif min(verified) > VERIFIED_AGE_S_MAX:
        yield Finding("backup_verified_old", "attention", {"days": min(verified) // DAY_S})


def _queues(stats: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Finding]:
    for key, code in (("webhooks", "webhook_parked"), ("outbox", "rule_parked")):
        for receiver in stats.get(key, []):
            if receiver.get("state") == "parked":
                yield Finding(code, "attention", {"name": receiver["name"], "error": receiver["error"]})
    if failing := (facts.get("commitments") or {}).get("failing"):
        yield Finding("commitments_failing", "attention", {"count": failing})
    if failed := (facts.get("jobs") or {}).get("failed"):
        yield Finding("jobs_failed", "attention", {"count": failed})
