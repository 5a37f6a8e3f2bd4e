"""`filmroom object-store`: check the bucket that keeps a copy of the archive, publish to it, fetch from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.cli import exit_codes, object_store, options, output
from engine.cli.options import Settings, rate_option, with_settings
from engine.cli.output import whole, wrapped

CHECK_COLUMNS = (whole("check"), whole("result"), wrapped("text"))


@options.group("object-store")
def command() -> None:
    """Check the bucket of [object_store], which keeps a copy of the archive; publish to it, fetch from it."""


@command.command("check")
@with_settings()
def check(settings: Settings) -> int:
    """Check that the store keeps what the archive relies on.

    Writes some megabytes, and removes them: a second writer of one object must be refused, ranges and parts must be
    read back as they were written. Then it asks the store for lifecycle rules, versioning and uploads that never
    ended. Exit code 1: a check has failed, and the store must not be used.
    """
    rows, has_failed = object_store.check(settings.load())
    output.write_list(rows, CHECK_COLUMNS, empty="")
    return exit_codes.FAILED if has_failed else exit_codes.OK


@command.command("status")
@with_settings()
def status(settings: Settings) -> int:
    """Show what waits to go to the bucket, and what the server noted last.

    Full segments are counted here. How many new records wait, which are in segments that still grow, only a server
    knows that has read the bucket.

    Exit code 1: the server says that somebody has to look.
    """
    state = object_store.status(settings.load())
    server = state.pop("server") or {}
    output.write_one({**state, "server": server}, _for_people(state, server), title="object store")
    return exit_codes.FAILED if server.get("is_alarming") else exit_codes.OK


def _for_people(state: Mapping[str, Any], server: Mapping[str, Any]) -> dict[str, object]:
    """The state, without what says nothing now."""
    record_bytes = state["waiting_record_bytes"]
    facts: dict[str, object] = {
        "url": state["url"],
        "full segments waiting": state["waiting_segments"],
        "full segments waiting, bytes": state["waiting_bytes"],
        "new records waiting, bytes": "not known" if record_bytes is None else record_bytes,
        "segments in the bucket only": state["segments_in_the_bucket_only"],
    }
    if not server:
        return facts
    facts["server"] = f"{server.get('state')}, noted at {server.get('updated')}"
    for name, label in _OF_A_SERVER.items():
        if value := server.get(name):
            facts[label] = value
    return facts


_OF_A_SERVER = {
    "error": "error",
    "is_alarming": "somebody has to look",
    "away_s": "seconds without an answer",
    "tail_age_s": "seconds since all was there",
    "backlog_age_s": "seconds the oldest segment waits",
    "disk_days_left": "days until the disk is full",
    "published_segments": "full segments in the bucket",
    "uploaded_bytes_since_start": "uploaded since the start, bytes",
}
"""What a server says that people look for, and its name for them."""


@command.command("publish")
@rate_option
@with_settings()
def publish(rate: int, settings: Settings) -> None:
    """Bring all full segments into the bucket now, without a server. A server with [object_store] does it by itself."""
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        report = object_store.publish(config, rate, progress)
    output.write_report(report)


@command.command("fetch")
@rate_option
@with_settings()
def fetch(rate: int, settings: Settings) -> None:
    """Make files of the segments that are in the bucket only. The server may be running.

    After an interruption, run it again.
    """
    config = settings.load()
    with output.progress_bar("segments") as progress:
        report = object_store.fetch(config, rate, progress)
    output.write_report(report)
