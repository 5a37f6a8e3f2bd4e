"""`filmroom quarantine`: instances that stand apart, because others are current or because nobody could parse them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from engine.cli import exit_codes, options, output, quarantine, query
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped

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
    """Look at what was kept aside or could not be parsed; compare it, export it, take it in, or drop it."""


DIFFERENCES = (cut("element"), whole("vr", "VR"), whole("what"), cut("current"), cut("version"))
READMITTED = (whole("id"), whole("outcome"), wrapped("reason"))


def _choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose by query."""
    for name, parameter, of in (
        ("--instance", "instances", "SOP"), ("--series", "series", "Series"), ("--study", "studies", "Study")
    ):  # fmt: skip
        function = click.option(name, parameter, metavar="UID", multiple=True, help=f"{of} Instance UID.")(function)
    help_ = "Only versions with the same content as another one of their UID."
    return click.option("--same", is_flag=True, help=help_)(function)


def _sure(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--yes", is_flag=True, help="Do not ask.")(function)
    return click.option("--dry-run", is_flag=True, help="Only list what it would be.")(function)


@command.command("list", short_help="List what is in it.")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@_choosing
@with_settings()
def list_(
    keys: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    instances: tuple[str, ...],
    same: bool,
    settings: Settings,
) -> None:
    """List what is in quarantine, or what of it belongs to what is named or matches KEY=VALUE as on find.

    Shows nothing of what is in the data sets.
    """
    wanted = query.named(keys, studies, series, instances)
    rows = quarantine.listed(settings.load(), wanted, same=same)
    output.write_list(rows, COLUMNS, empty="nothing matches" if wanted or same else "the quarantine is empty")


@command.command("diff", short_help="Show how one differs from the current one.")
@click.argument("identifier", metavar="ID")
@with_settings()
def diff(identifier: str, settings: Settings) -> int:
    """Show which elements of a version are others than those of the current instance, with both values.

    How a data set is written (transfer syntax, lengths, padding) is no difference. Compressed pixels are decoded where
    both sides lose nothing. Exit code 1: they differ.
    """
    rows = quarantine.differences(settings.load(), identifier)
    output.write_list(rows, DIFFERENCES, empty="both have the same content")
    return exit_codes.FAILED if any(row["what"] != "same pixels" for row in rows) else exit_codes.OK


@command.command("export", short_help="Write one to a folder.")
@click.argument("identifier", metavar="ID")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@with_settings()
def export(identifier: str, folder: str, settings: Settings) -> None:
    """Write it to DIR, as a Part 10 file; as it came, ID.raw, when its UIDs make no file meta information."""
    path = quarantine.export(settings.load(), identifier, Path(folder))
    output.write_one({"path": str(path)}, {"written": str(path)})


@command.command("readmit", short_help="Take some into the archive.")
@click.argument("which", metavar="[ID | KEY=VALUE]...", nargs=-1)
@_choosing
@_sure
@with_settings()
def readmit(
    which: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    instances: tuple[str, ...],
    same: bool,
    dry_run: bool,
    yes: bool,
    settings: Settings,
) -> int:
    """Take into the archive: a version kept aside becomes the current one, what was unparseable is tried again.

    One by its ID, or, after a question, all that belongs to what is named or matches KEY=VALUE as on find.
    """
    config = settings.load()
    wanted, ids = _wanted(which, studies, series, instances, same)
    if len(ids) == 1 and not dry_run:
        output.write_one({"outcome": quarantine.readmit(config, ids[0])})
        return exit_codes.OK
    if dry_run or not yes:
        code = _look(list(quarantine.listed(config, wanted, ids, same=same)), "Take in", dry_run)
        if code is not None:
            return code
    rows = list(quarantine.readmit_all(config, wanted, ids, same=same))
    output.write_list(rows, READMITTED, empty="nothing matches")
    return exit_codes.OK if rows and all(row["outcome"] != "refused" for row in rows) else exit_codes.FAILED


@command.command("drop", short_help="Delete some for good.")
@click.argument("which", metavar="[ID | KEY=VALUE]...", nargs=-1)
@_choosing
@_sure
@click.option("--reason", default="", metavar="TEXT", help="Kept in the log beside who dropped it.")
@with_settings()
def drop(
    which: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    instances: tuple[str, ...],
    same: bool,
    dry_run: bool,
    yes: bool,
    reason: str,
    settings: Settings,
) -> int:
    """Delete for good; nothing while a study among them is on legal hold.

    One by its ID, or, after a question, all that belongs to what is named or matches KEY=VALUE as on find; with --same
    only versions that say what another one of their UID says.
    """
    config = settings.load()
    wanted, ids = _wanted(which, studies, series, instances, same)
    if len(ids) == 1 and not dry_run:
        facts = quarantine.drop(config, ids[0], reason)
        output.write_one(facts, {"dropped": facts["id"], "bytes": facts["bytes"]})
        return exit_codes.OK
    if dry_run or not yes:
        code = _look(list(quarantine.listed(config, wanted, ids, same=same)), "Delete", dry_run)
        if code is not None:
            return code
    rows = quarantine.drop_all(config, wanted, ids, reason, same=same)
    output.write_list(rows, COLUMNS, empty="nothing matches")
    return exit_codes.OK if rows else exit_codes.FAILED


# Inside ------------------------------------------------------------------------------------------


def _wanted(
    which: Sequence[str], studies: Sequence[str], series: Sequence[str], instances: Sequence[str], same: bool
) -> tuple[list[query.Keys], list[str]]:
    """Queries, and ids. Raises UsageError when neither is there, or both are."""
    ids = [text for text in which if "=" not in text]
    wanted = query.named([text for text in which if "=" in text], studies, series, instances)
    if ids and (wanted or same):
        raise click.UsageError("say either IDs or what they belong to, not both")
    if not (ids or wanted or same):
        raise click.UsageError("say which: an ID, --study, --series or --instance UID, KEY=VALUE, or --same")
    return wanted, ids


def _look(rows: list[dict[str, Any]], doing: str, dry_run: bool) -> int | None:
    """Lists or asks; the exit code if that is all."""
    if dry_run:
        output.write_list(rows, COLUMNS, empty="nothing matches")
    elif not rows:
        output.complain("nothing matches")
    if dry_run or not rows:
        return exit_codes.OK if rows else exit_codes.FAILED
    size = output.bytes_text(sum(row["bytes"] for row in rows))
    if not options.confirmed(f"{doing} {len(rows)} of the quarantine ({size})?"):
        output.complain("nothing was changed")
        return exit_codes.FAILED
    return None
