"""`filmroom quarantine`: instances kept beside the current ones, and data that could not be parsed."""

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
    """List quarantined versions and unparseable data; compare, export, readmit or drop them."""


DIFFERENCES = (cut("element"), whole("vr", "VR"), whole("what"), cut("current"), cut("version"))
READMITTED = (whole("id"), whole("outcome"), wrapped("reason"))


def _choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that select by query."""
    for name, parameter, of in (
        ("--instance", "instances", "SOP"), ("--series", "series", "Series"), ("--study", "studies", "Study")
    ):  # fmt: skip
        function = click.option(name, parameter, metavar="UID", multiple=True, help=f"{of} Instance UID.")(function)
    help_ = "Only versions with the same content as another of their UID."
    return click.option("--same", is_flag=True, help=help_)(function)


def _sure(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--yes", is_flag=True, help="Do not ask.")(function)
    return click.option("--dry-run", is_flag=True, help="Only list what would be changed.")(function)


@command.command("list", short_help="List the entries.")
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
    """List the quarantine: all entries, or those of the named or matching studies (KEY=VALUE as in find).

    Shows no content of the data sets.
    """
    queries = query.named(keys, studies, series, instances)
    rows = quarantine.listed(settings.load(), queries, same=same)
    output.write_list(rows, COLUMNS, empty="nothing matches" if queries or same else "the quarantine is empty")


@command.command("diff", short_help="Compare a version with the current one.")
@click.argument("identifier", metavar="ID")
@with_settings()
def diff(identifier: str, settings: Settings) -> int:
    """List the elements in which a version differs from the current instance, with both values.

    Encoding (transfer syntax, lengths, padding) does not count as a difference. Compressed pixels are decoded if both
    sides are lossless. Exit code 1: they differ.
    """
    rows = quarantine.differences(settings.load(), identifier)
    output.write_list(rows, DIFFERENCES, empty="both have the same content")
    return exit_codes.FAILED if any(row["what"] != "same pixels" for row in rows) else exit_codes.OK


@command.command("export", short_help="Write an entry to a folder.")
@click.argument("identifier", metavar="ID")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@with_settings()
def export(identifier: str, folder: str, settings: Settings) -> None:
    """Write an entry to DIR as a Part 10 file; as ID.raw if its UIDs allow no file meta information."""
    path = quarantine.export(settings.load(), identifier, Path(folder))
    output.write_one({"path": str(path)}, {"written": str(path)})


@command.command("readmit", short_help="Readmit entries to the archive.")
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
    """Readmit entries: a version becomes the current instance; unparseable data is parsed again.

    Give an ID, or select all entries of the named or matching studies (KEY=VALUE as in find); then you are asked first.
    """
    config = settings.load()
    queries, ids = _queries_and_ids(which, studies, series, instances, same)
    if len(ids) == 1 and not dry_run:
        output.write_one({"outcome": quarantine.readmit(config, ids[0])})
        return exit_codes.OK
    if dry_run or not yes:
        code = _look(list(quarantine.listed(config, queries, ids, same=same)), "Readmit", dry_run)
        if code is not None:
            return code
    rows = list(quarantine.readmit_all(config, queries, ids, same=same))
    output.write_list(rows, READMITTED, empty="nothing matches")
    return exit_codes.OK if rows and all(row["outcome"] != "refused" for row in rows) else exit_codes.FAILED


@command.command("drop", short_help="Delete entries permanently.")
@click.argument("which", metavar="[ID | KEY=VALUE]...", nargs=-1)
@_choosing
@_sure
@click.option("--reason", default="", metavar="TEXT", help="Why; recorded with your user name.")
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
    """Delete entries permanently. If one of their studies is on legal hold, nothing is deleted.

    Give an ID, or select all entries of the named or matching studies (KEY=VALUE as in find); then you are asked first.
    With --same, only versions with the same content as another of their UID.
    """
    config = settings.load()
    queries, ids = _queries_and_ids(which, studies, series, instances, same)
    if len(ids) == 1 and not dry_run:
        facts = quarantine.drop(config, ids[0], reason)
        output.write_one(facts, {"dropped": facts["id"], "bytes": facts["bytes"]})
        return exit_codes.OK
    if dry_run or not yes:
        code = _look(list(quarantine.listed(config, queries, ids, same=same)), "Delete", dry_run)
        if code is not None:
            return code
    rows = quarantine.drop_all(config, queries, ids, reason, same=same)
    output.write_list(rows, COLUMNS, empty="nothing matches")
    return exit_codes.OK if rows else exit_codes.FAILED


# Inside ------------------------------------------------------------------------------------------


def _queries_and_ids(
    which: Sequence[str], studies: Sequence[str], series: Sequence[str], instances: Sequence[str], same: bool
) -> tuple[list[query.Keys], list[str]]:
    """Separates queries from ids. Raises UsageError if there are none, or both."""
    ids = [text for text in which if "=" not in text]
    queries = query.named([text for text in which if "=" in text], studies, series, instances)
    if ids and (queries or same):
        raise click.UsageError("give either IDs or a selection, not both")
    if not (ids or queries or same):
        raise click.UsageError("say which: an ID, --study, --series or --instance UID, KEY=VALUE, or --same")
    return queries, ids


def _look(rows: list[dict[str, Any]], doing: str, dry_run: bool) -> int | None:
    """Lists the rows or asks for confirmation; returns the exit code if the command ends here."""
    if dry_run:
        output.write_list(rows, COLUMNS, empty="nothing matches")
    elif not rows:
        output.complain("nothing matches")
    if dry_run or not rows:
        return exit_codes.OK if rows else exit_codes.FAILED
    size = output.bytes_text(sum(row["bytes"] for row in rows))
    if not options.confirmed(f"{doing} {len(rows)} quarantine entries ({size})?"):
        output.complain("nothing was changed")
        return exit_codes.FAILED
    return None
