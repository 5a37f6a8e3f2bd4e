"""`filmroom scrub`: whether all stored bytes are what they were: how far the scrub is, one now, and what it found."""

from __future__ import annotations

from typing import Any

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, rate_option, with_settings
from engine.cli.output import whole, wrapped

FINDING_COLUMNS = (
    whole("found"),
    whole("segment"),
    whole("offset"),
    whole("sop_instance_uid", "SOP instance"),
    wrapped("what"),
)


@options.group("scrub")
def command() -> None:
    """Verify all stored bytes, again and again: what is damaged is named, and healed when it is sent again."""


@command.command("status", short_help="Show the pass under way and the last one.")
@with_settings()
def status(settings: Settings) -> None:
    """Show the pass under way, its speed, the one before it, and how much is damaged."""
    state = backend.scrub_status(settings.load())
    output.write_one(state, _readable(state), title="scrub")
    if not state["in_time"]:
        output.complain("the archive is too large to be read within the cycle at this rate: see [scrub]")


@command.command("run", short_help="Read everything now.")
@rate_option
@with_settings()
def run(rate: int, settings: Settings) -> int:
    """Read everything now, from the beginning; also beside a running server. Exit code 1: something is damaged."""
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        found, state = backend.scrub_run(config, rate, progress)
    last = state["last_pass"]
    shown = {"bytes": last["read_bytes"], "damaged": last["damaged"]}
    output.write_report({"status": state}, shown, new=found)
    return exit_codes.FAILED if state["last_pass"]["damaged"] else exit_codes.OK


@command.command("findings", short_help="List what is damaged.")
@with_settings()
def findings(settings: Settings) -> int:
    """List what is known to be damaged and not healed yet. Exit code 1: there is something."""
    rows = backend.damage(settings.load())
    output.write_list(rows, FINDING_COLUMNS)
    return exit_codes.FAILED if rows else exit_codes.OK


def _readable(state: dict[str, Any]) -> dict[str, object]:
    last = state["last_pass"]
    facts: dict[str, object] = {"pass": state["pass"], "running": state["running"]}
    if state["running"]:
        facts["began"] = state["began"]
        facts["progress"] = f"{state['progress']:.1%}, {output.bytes_text(state['read_bytes'])} read"
        facts["speed"] = f"{output.bytes_text(state['bytes_per_s'])}/s"
    else:
        facts["next"] = state["next_pass"]
    facts["limit"] = f"{output.bytes_text(state['bytes_per_s_max'])}/s"
    facts["to read"] = output.bytes_text(state["total_bytes"])
    if last is not None:
        facts["last pass ended"] = last["ended"]
        facts["last pass read"] = output.bytes_text(last["read_bytes"])
        facts["last pass found damaged"] = last["damaged"]
    facts["damaged now"] = state["damaged"]
    return facts
