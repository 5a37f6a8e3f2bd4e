"""`filmroom scrub`: verify stored bytes; show progress, findings and losses."""

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
    """Verify all stored bytes regularly and list damage. An instance that is sent again is healed."""


@command.command("status", short_help="Show the current pass and the last one.")
@with_settings()
def status(settings: Settings) -> None:
    """Show the current pass, its speed, the last pass, and the amount of damage."""
    state = backend.scrub_status(settings.load())
    output.write_one(state, _readable(state), title="scrub")
    if not state["in_time"]:
        output.complain("the archive cannot be read within the cycle at this rate: raise one of them in [scrub]")


@command.command("run", short_help="Read everything now.")
@rate_option
@with_settings()
def run(rate: int, settings: Settings) -> int:
    """Read everything now, with or without a running server. Exit code 1: something is damaged."""
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        found, state = backend.scrub_run(config, rate, progress)
    last = state["last_pass"]
    shown = {"bytes": last["read_bytes"], "damaged": last["damaged"]}
    output.write_report({"status": state}, shown, new=found)
    return exit_codes.FAILED if state["last_pass"]["damaged"] else exit_codes.OK


@command.command("findings", short_help="List damage.")
@with_settings()
def findings(settings: Settings) -> int:
    """List damage that is not healed and losses that are not acknowledged. Exit code 1: the list is not empty."""
    rows = backend.damage(settings.load())
    output.write_list(rows, FINDING_COLUMNS, empty="nothing is known to be damaged")
    return exit_codes.FAILED if rows else exit_codes.OK


@command.command("acknowledge")
@click.argument("segments", nargs=-1, metavar="[SEGMENT]...")
@click.option("--all", "everything", is_flag=True, help="All losses.")
@with_settings()
def acknowledge(segments: tuple[str, ...], everything: bool, settings: Settings) -> int:
    """Acknowledge the losses in these segments, so that they are no longer reported.

    Look at `findings` first: restore what a backup has, and have peers send again what they have. Exit code 1: these
    segments have no losses.
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
