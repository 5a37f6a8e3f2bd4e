"""The summary of `filmroom stats`, on one screen. `--all` shows the rest (`live.show_once`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.cli import live
from engine.cli.output import bytes_text
from engine.totals import totals

PEERS_SHOWN = 8


def of_archive(held: Mapping[str, int]) -> dict[str, object]:
    """What is stored, and what needs attention."""
    size = bytes_text(held["live_bytes"])
    facts: dict[str, object] = {
        "stored": f"{held['instances']} instances of {held['studies']} studies, {held['patients']} patients, {size}",
        "disk": f"{held['segments']} segments, {bytes_text(held['dead_bytes'])} of it deleted; "
        f"index {bytes_text(held['index_bytes'])}",
        "quarantine": f"{held['versions']} versions, {held['unparseable']} unparseable",
        "patients' data": f"{held['conflicts']} conflicts, {held['corrections']} corrections",
        "on hold": f"{held['held_studies']} studies",
        "damaged": f"{held['damaged']}{': see filmroom scrub findings' if held['damaged'] else ''}",
    }
    if held["trashed"]:
        facts["trash"] = f"{held['trashed']} instances, {bytes_text(held['trashed_bytes'])}: see filmroom trash list"
    return facts


def of_server(answer: Mapping[str, Any]) -> dict[str, object]:
    """The server's activity, and whether it accepts new instances."""
    now = totals(answer)
    failures = sum(counts["failures"] for counts in now.peers.values())
    facts: dict[str, object] = {
        "new instances": live.admission(answer),
        "associations": f"{now.associations} open, {now.counters['associations']} since the start",
        "received": f"{now.instances} instances, {bytes_text(now.bytes)}, {failures} failures since the start",
        "queue": f"{now.queue_depth} instances wait for the disk, {now.workers} workers",
    }
    for name, found in (("C-STORE", now.store_latency_s), ("fdatasync", now.sync_latency_s)):
        p50, p99 = (live.milliseconds(found, fraction) for fraction in (0.5, 0.99))
        if p50 is not None:
            facts[f"{name} takes"] = f"{live.short(p50)} (p50), {live.short(p99)} (p99)"
    free = [worker["admission"]["free_bytes"] for worker in answer.get("workers", []) if "admission" in worker]
    if any(free):
        facts["free on disk"] = bytes_text(min(filter(None, free)))
    return facts | _feed(answer) | _messages(answer) | _background(answer.get("caretaker") or {})


def _feed(answer: Mapping[str, Any]) -> dict[str, object]:
    """The state of the change feed, and webhooks, routes and rules with errors."""
    feed = answer.get("feed")
    if not feed:
        return {}
    facts: dict[str, object] = {"change feed": feed["error"] or f"{feed['sequence']} events"}
    for name, key in (("webhooks", "webhooks"), ("routes and rules", "outbox")):
        standings = answer.get(key) or []
        if standings:
            troubled = [f"{each['name']} {each['state']}: {each['error']}" for each in standings if each["error"]]
            facts[name] = "; ".join(troubled) or f"{len(standings)}, all delivering"
    return facts


def _messages(answer: Mapping[str, Any]) -> dict[str, object]:
    """The state of the process of HL7 messages."""
    state = answer.get("messages")
    if not state:
        return {}
    if "counters" not in state:
        return {"HL7": state["not_started"] or "its process is starting"}
    counts = state["counters"]
    text = f"{counts.get('taken', 0)} messages taken, {counts.get('refused', 0)} refused, {state['waiting']} wait"
    return {"HL7": f"{text}: {state['stalled']}" if state["stalled"] else text}


def _background(caretaker: Mapping[str, Any]) -> dict[str, object]:
    """The background jobs that are running."""
    running = [name for name, job in caretaker.items() if isinstance(job, Mapping) and job.get("running")]
    return {"in the background": ", ".join(running) or "nothing"}
