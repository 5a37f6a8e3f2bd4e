"""`filmroom quarantine`: instances that stand apart, because others are current or because nobody could parse them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, json_option, with_settings


@click.group("quarantine")
def command() -> None:
    """Look at what was kept aside or could not be parsed; export it, take it in, or drop it."""


@command.command("list")
@with_settings("data")
@json_option
def list_(settings: Settings, as_json: bool) -> None:
    """List what is in quarantine. Shows nothing of what is in the data sets."""
    rows = backend.quarantined(settings.load())
    if as_json:
        output.write_json(rows)
        return
    columns = ("id", "kind", "received", "calling AE title", "bytes", "SOP Instance UID", "reason")
    output.write_table(
        columns,
        [
            (
                row["id"],
                row["kind"],
                _time(row["received_ns"]),
                row["calling_ae_title"],
                row["bytes"],
                row["sop_instance_uid"],
                row["reason"],
            )
            for row in rows
        ],
    )


@command.command("export")
@click.argument("identifier", metavar="ID")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@with_settings("data")
@json_option
def export(identifier: str, folder: str, settings: Settings, as_json: bool) -> None:
    """Write it to DIR, as a Part 10 file; as it came, ID.raw, when its UIDs make no file meta information."""
    path = backend.quarantine_export(settings.load(), identifier, Path(folder))
    if as_json:
        output.write_json({"path": str(path)})
    else:
        output.write_facts({"written": str(path)})


@command.command("readmit")
@click.argument("identifier", metavar="ID")
@with_settings("data")
@json_option
def readmit(identifier: str, settings: Settings, as_json: bool) -> int:
    """Take it into the archive: a version kept aside becomes the current one, what was unparseable is tried again."""
    outcome = backend.quarantine_readmit(settings.load(), identifier)
    if as_json:
        output.write_json({"outcome": outcome})
    else:
        output.write_facts({"outcome": outcome})
    return exit_codes.OK


@command.command("drop")
@click.argument("identifier", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log beside who dropped it.")
@with_settings("data")
@json_option
def drop(identifier: str, reason: str, settings: Settings, as_json: bool) -> None:
    """Delete it for good; not while its study is on legal hold."""
    facts = backend.quarantine_drop(settings.load(), identifier, reason)
    if as_json:
        output.write_json(facts)
    else:
        output.write_facts({"dropped": facts["id"], "bytes": facts["bytes"]})


def _time(nanoseconds: object) -> str:
    return datetime.fromtimestamp(int(str(nanoseconds)) / 1e9, UTC).isoformat(timespec="seconds")
