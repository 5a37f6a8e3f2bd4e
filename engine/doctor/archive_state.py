"""Checks the archive: whether it opens, whether log and index agree, and the state of a running server.

It reads only headers of segments and rows of the index, never payloads (`filmroom check --payloads` and scrubbing read
those). If no server runs, opening the archive recovers it after a crash, as with any command.
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
"""If a larger share of the log is dead, compaction does not keep up, or is off."""
REPORT_AGE_S_MAX = 86400.0
"""A storage commitment report that waits longer than a day needs somebody's attention."""
AHEAD_S = 60.0
"""How far in the future a segment may have been made before we suspect the clock."""


def examine(config: Config) -> Iterator[Finding]:
    """Examines the log, the index and the running server, if any."""
    if not (config.data / "archive.json").exists():
        yield good("archive", f"none in {config.data} yet: the first start creates it")
        return
    try:
        archive = Archive.open(config.data)
    except EngineError as error:
        yield fault("archive", str(error), "see the message; filmroom rebuild-index rebuilds a lost index")
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
            "clock", f"a segment was made {ahead_s:.0f} s in the future", "check whether the clock was set back"
        )
    if not (foreign or unreadable or set_aside):
        yield good("log", f"{survey.segment_count} segments")


def _index(archive: Archive, missing: list[str]) -> Iterator[Finding]:
    stats = archive.stats()
    if missing:
        names = ", ".join(missing[:8])
        yield fault("index", f"it has instances in missing segments: {names}", "restore them from a backup")
    else:
        what = f"{stats['instances']} instances in {stats['studies']} studies, {bytes_text(stats['index_bytes'])}"
        yield good("index", what)
    dead, live = stats["dead_bytes"], stats["live_bytes"]
    if dead > DEAD_SHARE_MAX * max(dead + live, 1) and dead > 1 << 30:
        what = f"{bytes_text(dead)} of {bytes_text(dead + live)} are deleted or replaced"
        yield warning("space", what, "filmroom compact frees it")
    trashed, trashed_bytes = stats["trashed"], stats["trashed_bytes"]
    if trashed_bytes > DEAD_SHARE_MAX * max(dead + live, 1) and trashed_bytes > 1 << 30:
        what = f"{bytes_text(trashed_bytes)} of {bytes_text(dead + live)} are in the trash"
        yield warning("trash", what, "filmroom trash empty, then filmroom compact, frees it")
    elif trashed:
        yield good("trash", f"{trashed} deleted instances, {bytes_text(trashed_bytes)}, can be restored")
    damaged = archive.damage()
    if damaged:
        advice = "filmroom scrub findings names them; send them again to repair them"
        yield fault("stored instances", f"{len(damaged)} records are damaged", advice)
    else:
        yield good("stored instances", "no damage is known")
    losses = archive.losses()
    if losses:
        instances = sum(bool(loss.sop_instance_uid) for loss in losses)
        what = f"{len(losses)} losses, {instances} of them instances: {losses[0]}"
        advice = "filmroom scrub findings names them; restore, or send again, then filmroom scrub acknowledge"
        yield fault("losses", what, advice)


def _reindexing(archive: Archive) -> Iterator[Finding]:
    reindexer = Reindexer(archive, bytes_per_s=0)
    if not reindexer.is_concerned:
        return
    status = reindexer.status()
    if status["running"]:
        what = f"{status['segments_left']} segments have not been searched for the extra attributes yet"
        advice = "a running server does it in the background; filmroom reindex does it at once"
        yield warning("extra attributes", f"{what}: queries by these miss their instances", advice)
    else:
        yield good("extra attributes", f"{status['attributes']} in effect, all segments searched for them")


def _commitments(archive: Archive) -> Iterator[Finding]:
    transactions = archive.commitment_transactions()
    if not transactions.exist:
        return
    try:
        waiting = list(transactions.headings().values())
    except EngineError as error:
        yield fault("storage commitment", str(error), "check the folder's owner and mode")
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
        yield good("server", "not running")
        return
    except EngineError as error:
        yield fault("server", f"it does not answer: {error}", "read its log")
        return
    holder = stats.get("index_held_by")
    if holder:
        who = f"pid {holder['pid']}" if "pid" in holder else f"pid {holder['pid_elsewhere']} of another PID namespace"
        what = f"{who} ({holder['command']}) has locked the index for {holder['held_s']:.0f} s: nothing can be stored"
        yield fault("server", what, "continue that process (kill -CONT), or end it: its uncommitted changes are undone")
    refused = (stats.get("caretaker") or {}).get("retention", {}).get("refused", {})
    for rule, reason in refused.items():
        advice = "check the clock and filmroom retention dry-run; filmroom retention apply --anyway confirms it"
        yield fault("retention", f"rule {rule} is not applied: {reason}", advice)
    workers = stats["workers"]
    silent = [row["number"] for row in workers if "counters" not in row]
    truncated = sum(row["counters"].get("instances_truncated", 0) for row in workers if "counters" in row)
    if truncated:
        what = f"{truncated} instances that end early were stored since the start (accept_truncated)"
        yield warning("truncated instances", what, "filmroom check names them; have them sent again")
    if silent or stats["workers_missing"]:
        count = len(workers) + len(stats["workers_missing"])
        what = f"{len(workers)} of {count} workers run, {len(silent)} of them do not answer"
        yield fault("server", what, "read its log, which says why; dead workers are replaced")
    elif refusing := [worker for worker in workers if worker["admission"]["reason"]]:
        reasons = ", ".join(sorted({worker["admission"]["reason"] for worker in refusing}))
        advice = "disk reserve: the disk is full, see room; memory or sync latency: read its log"
        yield fault("server", f"{len(refusing)} of {len(workers)} workers refuse new instances: {reasons}", advice)
    else:
        yield good("server", f"{len(workers)} workers, {sum(row['connections'] for row in workers)} connections")
