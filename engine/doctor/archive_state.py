"""The archive itself: whether it opens, whether log and index agree on what there is, what a running server says.

A quick look: heads of segments and rows of the index, never payloads (`filmroom check --payloads` and scrubbing read
those). On a stopped archive opening it recovers what a crash left, as any command does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from engine import control
from engine.archive.archive import Archive, Survey
from engine.archive.lifecycle.reindex import Reindexer
from engine.config import Config
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import ControlUnavailable, EngineError
from engine.sizes import bytes_text

DEAD_SHARE_MAX = 0.5
"""More than this of the log is dead: compaction does not keep up, or is off."""
REPORT_AGE_S_MAX = 86400.0
"""A storage commitment report that waits longer than a day is one that somebody has to look after."""
AHEAD_S = 60.0
"""How far a segment may lie in the future before the clock is blamed."""


def examine(config: Config) -> Iterator[Finding]:
    """Log, index and, where one runs, the server."""
    if not (config.data / "archive.json").exists():
        yield good("archive", f"none in {config.data} yet: the first start makes it")
        return
    try:
        archive = Archive.open(config.data)
    except EngineError as error:
        yield fault("archive", str(error), "see the sentence; filmroom rebuild-index makes a lost index anew")
        return
    try:
        survey = archive.survey()
        yield from _log(survey)
        yield from _index(archive, survey.missing)
        yield from _reindexing(archive)
        yield from _commitments(archive)
    finally:
        archive.close()
    yield from _server(config)


def _log(survey: Survey) -> Iterator[Finding]:
    foreign, unreadable, set_aside = survey.foreign, survey.unreadable, survey.set_aside
    if foreign:
        advice = "move them out: they were copied here from elsewhere"
        yield fault("log", f"segments of another archive: {', '.join(foreign[:8])}", advice)
    if unreadable or set_aside:
        what = f"{len(unreadable)} segments without a readable header, {len(set_aside)} set aside as .damaged"
        yield fault("log", what, "restore them from a backup (filmroom restore), then filmroom check")
    if survey.newest_ns > time.time_ns() + AHEAD_S * 1e9:
        ahead_s = survey.newest_ns / 1e9 - time.time()
        yield warning(
            "clock", f"a segment was made {ahead_s:.0f} s in the future", "look whether the clock was set back"
        )
    if not (foreign or unreadable or set_aside):
        yield good("log", f"{survey.segment_count} segments")


def _index(archive: Archive, missing: list[str]) -> Iterator[Finding]:
    stats = archive.stats()
    if missing:
        names = ", ".join(missing[:8])
        yield fault("index", f"it knows instances in segments that are missing: {names}", "restore them from a backup")
    else:
        what = f"{stats['instances']} instances in {stats['studies']} studies, {bytes_text(stats['index_bytes'])}"
        yield good("index", what)
    dead, live = stats["dead_bytes"], stats["live_bytes"]
    if dead > DEAD_SHARE_MAX * max(dead + live, 1) and dead > 1 << 30:
        what = f"{bytes_text(dead)} of {bytes_text(dead + live)} are deleted or replaced"
        yield warning("space", what, "filmroom compact gives it back")
    damaged = archive.damage()
    if damaged:
        advice = "filmroom scrub findings names them; sending them again heals"
        yield fault("stored instances", f"{len(damaged)} records are damaged", advice)
    else:
        yield good("stored instances", "no damage is known")
    lost = archive.losses()
    if lost:
        named = sum(bool(loss.sop_instance_uid) for loss in lost)
        what = f"{len(lost)} losses, {named} of them instances: {lost[0]}"
        advice = "filmroom scrub findings names them; restore, or send again, then filmroom scrub acknowledge"
        yield fault("losses", what, advice)


def _reindexing(archive: Archive) -> Iterator[Finding]:
    reindexer = Reindexer(archive, bytes_per_s=0)
    if not reindexer.is_concerned:
        return
    status = reindexer.status()
    if status["running"]:
        what = f"{status['segments_left']} segments have not been looked through for the extra attributes yet"
        advice = "a running server does it in the background; filmroom reindex hurries"
        yield warning("extra attributes", f"{what}: queries by these miss what is in them", advice)
    else:
        yield good("extra attributes", f"{status['attributes']} in effect, everything looked through for them")


def _commitments(archive: Archive) -> Iterator[Finding]:
    transactions = archive.commitment_transactions()
    if not transactions.exist:
        return
    try:
        waiting = list(transactions.headings().values())
    except EngineError as error:
        yield fault("storage commitment", str(error), "look at the folder's owner and mode")
        return
    damaged = sum(heading.is_damaged for heading in waiting)
    received_ns = [heading.received_ns for heading in waiting if not heading.is_damaged]
    age_s = (time.time_ns() - min(received_ns)) / 1e9 if received_ns else 0.0
    if damaged:
        advice = "filmroom commitments list names them; drop them, their peers ask again"
        yield fault("storage commitment", f"{damaged} requests are damaged and cannot be reported", advice)
    if age_s > REPORT_AGE_S_MAX:
        what = f"{len(received_ns)} reports wait for their peers, the oldest for {age_s / 3600:.0f} h"
        advice = "filmroom commitments list says why; a peer needs a [[peer]] table with host and port"
        yield warning("storage commitment", what, advice)
    elif not damaged:
        yield good("storage commitment", f"{len(received_ns)} reports wait for their peers")


def _server(config: Config) -> Iterator[Finding]:
    try:
        stats = control.request(config.data, {"command": "stats"})
    except ControlUnavailable:
        yield good("server", "none runs")
        return
    except EngineError as error:
        yield fault("server", f"it does not answer: {error}", "look at its log")
        return
    holder = stats.get("index_held_by")
    if holder:
        who = f"pid {holder['pid']}" if "pid" in holder else f"pid {holder['pid_elsewhere']} of another PID namespace"
        what = (
            f"{who} ({holder['command']}) has kept the index to itself for {holder['held_s']:.0f} s: nothing is stored"
        )
        yield fault(
            "server", what, "continue that process (kill -CONT), or end it: what it had not committed is undone"
        )
    refused = (stats.get("caretaker") or {}).get("retention", {}).get("refused", {})
    for rule, reason in refused.items():
        advice = "look at the clock and at filmroom retention dry-run; filmroom retention apply --anyway confirms it"
        yield fault("retention", f"rule {rule} is not applied: {reason}", advice)
    workers = stats["workers"]
    silent = [row["number"] for row in workers if "counters" not in row]
    truncated = sum(row["counters"].get("instances_truncated", 0) for row in workers if "counters" in row)
    if truncated:
        what = f"{truncated} that end early were stored since the start, from peers that may (accept_truncated)"
        yield warning("truncated instances", what, "filmroom check names them; have them sent again")
    if silent or stats["workers_missing"]:
        count = len(workers) + len(stats["workers_missing"])
        what = f"{len(workers)} of {count} workers run, {len(silent)} of them do not answer"
        yield fault("server", what, "look at its log; workers that die are replaced, what stops them is there")
    elif refusing := [worker for worker in workers if worker["admission"]["reason"]]:
        reasons = ", ".join(sorted({worker["admission"]["reason"] for worker in refusing}))
        advice = "disk reserve: the disk is full, see room; memory or sync latency: see its log"
        yield fault("server", f"{len(refusing)} of {len(workers)} workers refuse new instances: {reasons}", advice)
    else:
        yield good("server", f"{len(workers)} workers, {sum(row['connections'] for row in workers)} connections")
