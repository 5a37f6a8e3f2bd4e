"""`filmroom quarantine`: instances that stand apart, because others are current or because nobody could parse them."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("id"),
    whole("kind"),
    whole("received"),
    whole("calling_ae_title", "AE title"),
    whole("bytes", "size"),
    whole("sop_instance_uid", "SOP instance"),
    wrapped("reason"),
)


@options.group("quarantine")
def command() -> None:
    """Look at what was kept aside or could not be parsed; export it, take it in, or drop it."""


@command.command("list", short_help="List what is in it.")
@with_settings()
def list_(settings: Settings) -> None:
    """List what is in quarantine. Shows nothing of what is in the data sets."""
    output.write_list(backend.quarantined(settings.load()), COLUMNS, empty="the quarantine is empty")


@command.command("export", short_help="Write one to a folder.")
@click.argument("identifier", metavar="ID")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@with_settings()
def export(identifier: str, folder: str, settings: Settings) -> None:
    """Write it to DIR, as a Part 10 file; as it came, ID.raw, when its UIDs make no file meta information."""
    path = backend.quarantine_export(settings.load(), identifier, Path(folder))
    output.write_one({"path": str(path)}, {"written": str(path)})


@command.command("readmit", short_help="Take one into the archive.")
@click.argument("identifier", metavar="ID")
@with_settings()
def readmit(identifier: str, settings: Settings) -> int:
    """Take it into the archive: a version kept aside becomes the current one, what was unparseable is tried again."""
    outcome = backend.quarantine_readmit(settings.load(), identifier)
    output.write_one({"outcome": outcome})
    return exit_codes.OK


@command.command("drop", short_help="Delete one for good.")
@click.argument("identifier", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log beside who dropped it.")
@with_settings()
def drop(identifier: str, reason: str, settings: Settings) -> None:
    """Delete it for good; not while its study is on legal hold."""
    facts = backend.quarantine_drop(settings.load(), identifier, reason)
    output.write_one(facts, {"dropped": facts["id"], "bytes": facts["bytes"]})
