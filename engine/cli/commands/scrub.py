"""`filmroom scrub`: whether all stored bytes are what they were: how far the scrub is, one now, and what it found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, json_option, with_settings


@click.group("scrub")
def command() -> None:
    """Verify all stored bytes, again and again: what is damaged is named, and healed when it is sent again."""


@command.command("status")
@with_settings("data")
@json_option
def status(settings: Settings, as_json: bool) -> None:
    """Show the pass under way, its speed, the one before it, and how much is damaged."""
    state = backend.scrub_status(settings.load())
    if as_json:
        output.write_json(state)
        return
    output.write_facts(_readable(state), title="scrub")
    if not state["in_time"]:
        output.complain("the archive is too large to be read within the cycle at this rate: see [scrub]")


@command.command("run")
@click.option("--rate", type=click.IntRange(min=0), metavar="BYTES", help="Bytes a second at most.  [no limit]")
@with_settings("data")
@json_option
def run(rate: int | None, settings: Settings, as_json: bool) -> int:
    """Read everything now, from the beginning; also beside a running server. Exit code 1: something is damaged."""
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        found, state = backend.scrub_run(config, rate or 0, progress)
    if as_json:
        output.write_json({"found": found, "status": state})
    else:
        for finding in found:
            output.complain(finding)
        last = state["last_pass"]
        output.write_facts({"bytes": last["read_bytes"], "damaged": last["damaged"], "new": len(found)})
    return exit_codes.FAILED if state["last_pass"]["damaged"] else exit_codes.OK


@command.command("findings")
@with_settings("data")
@json_option
def findings(settings: Settings, as_json: bool) -> int:
    """List what is known to be damaged and not healed yet. Exit code 1: there is something."""
    rows = backend.damage(settings.load())
    if as_json:
        output.write_json(rows)
    else:
        columns = ("found", "SOP Instance UID", "segment", "offset", "what")
        output.write_table(
            columns,
            [
                (_time(row["found_ns"]), row["sop_instance_uid"], row["segment"], row["offset"], row["what"])
                for row in rows
            ],
        )
    return exit_codes.FAILED if rows else exit_codes.OK


def _readable(state: dict[str, Any]) -> dict[str, object]:
    last = state["last_pass"]
    facts: dict[str, object] = {"pass": state["pass"], "running": state["running"]}
    if state["running"]:
        facts["began"] = _time(state["began_ns"])
        facts["progress"] = f"{state['progress']:.1%}, {output.bytes_text(state['read_bytes'])} read"
        facts["speed"] = f"{output.bytes_text(state['bytes_per_s'])}/s"
    else:
        facts["next"] = _time(state["next_pass_ns"])
    facts["limit"] = f"{output.bytes_text(state['bytes_per_s_max'])}/s"
    facts["to read"] = output.bytes_text(state["total_bytes"])
    if last is not None:
        facts["last pass ended"] = _time(last["ended_ns"])
        facts["last pass read"] = output.bytes_text(last["read_bytes"])
        facts["last pass found damaged"] = last["damaged"]
    facts["damaged now"] = state["damaged"]
    return facts


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="seconds")
