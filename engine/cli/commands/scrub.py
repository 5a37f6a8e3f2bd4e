"""`filmroom scrub`: whether all stored bytes are what they were: how far the scrub is, one now, and what it found."""

from __future__ import annotations

from typing import Any

import click

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
    """List what is damaged and not healed yet, or lost and not acknowledged. Exit code 1: there is something."""
    rows = backend.damage(settings.load())
    output.write_list(rows, FINDING_COLUMNS, empty="nothing is known to be damaged")
    return exit_codes.FAILED if rows else exit_codes.OK


@command.command("acknowledge")
@click.argument("segments", nargs=-1, metavar="[SEGMENT]...")
@click.option("--all", "everything", is_flag=True, help="All that is lost.")
@with_settings()
def acknowledge(segments: tuple[str, ...], everything: bool, settings: Settings) -> int:
    """Say that somebody knows of what is lost in these segments, so that it is not told any more.

    Look at `findings` first: what a backup has can be put back, what a peer has can be sent again. Exit code 1: nothing
    is lost there.
    """
    if bool(segments) == everything:
        raise click.UsageError("name the segments that `filmroom scrub findings` lists, or give --all")
    rows = backend.acknowledge_losses(settings.load(), None if everything else [_number(name) for name in segments])
    output.write_list(rows, FINDING_COLUMNS, empty="nothing is known to be damaged")
    return exit_codes.OK if rows else exit_codes.FAILED


def _number(name: str) -> int:
    try:
        return int(name, 16)
    except ValueError:
        raise click.UsageError(f"{name!r} is no segment: `filmroom scrub findings` lists them") from None


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
