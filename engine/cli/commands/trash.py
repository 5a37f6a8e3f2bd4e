"""`filmroom trash`: what was deleted and can be taken back: list, restore, empty."""

from __future__ import annotations

import click

from engine.cli import exit_codes, options, output, trash
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped

COLUMNS = (
    whole("number"),
    whole("since"),
    whole("until"),
    cut("patient"),
    whole("study_date", "study date"),
    cut("description"),
    whole("level"),
    whole("instances"),
    whole("bytes", "size"),
    whole("held"),
    cut("by"),
    wrapped("reason"),
)

_reason_option = click.option("--reason", metavar="TEXT", required=True, help="Why; recorded with your user name.")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@options.group("trash")
def command() -> None:
    """List deletions that can be taken back; restore from them, or make them final.

    The page and DICOMweb delete into the trash, and so does `filmroom delete --trash`. It empties itself after
    [deletion] trash_days.
    """


@command.command("list", short_help="List what is in the trash.")
@with_settings()
def list_(settings: Settings) -> None:
    """List what is in the trash, the latest first: of whom, since when, by whom, why and until when."""
    output.write_list(trash.list_all(settings.load()), COLUMNS, empty="the trash is empty")


@command.command("restore", short_help="Restore from the trash.")
@click.argument("numbers", metavar="NUMBER...", nargs=-1, required=True)
@click.option("--series", metavar="UID", default="", help="Only this series.")
@_reason_option
@with_settings()
def restore(numbers: tuple[str, ...], series: str, reason: str, settings: Settings) -> None:
    """Restore these entries, each as it was.

    Instances that were sent again meanwhile stay current; those from the trash become versions if they differ.
    """
    output.write_one(trash.restore(settings.load(), numbers, series=series, reason=reason))


@command.command("empty", short_help="Delete for good what is in the trash.")
@click.argument("numbers", metavar="[NUMBER]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything in the trash.")
@_reason_option
@_yes_option
@with_settings()
def empty(numbers: tuple[str, ...], everything: bool, reason: str, yes: bool, settings: Settings) -> int:
    """Delete these entries for good; compaction frees their space.

    If the study of a named entry is on legal hold, nothing is deleted; --all leaves such entries out.
    """
    if bool(numbers) == everything:
        raise click.UsageError("say what to delete for good: NUMBER of `filmroom trash list`, or --all")
    config = settings.load()
    what = "everything in the trash" if everything else f"{len(numbers)} entries of the trash"
    if not yes and not options.confirmed(f"Delete {what} for good?"):
        output.complain("nothing was deleted")
        return exit_codes.FAILED
    output.write_one(trash.empty(config, None if everything else numbers, reason=reason))
    return exit_codes.OK


@command.command("expire", short_help="Delete for good what is old enough.")
@_yes_option
@with_settings()
def expire(yes: bool, settings: Settings) -> int:
    """Delete for good what is in the trash for longer than [deletion] trash_days.

    A running server does this by itself, unless the clock seems to have jumped. Check the clock, then confirm it with
    this command.
    """
    config = settings.load()
    if not config.deletion.trash_days:
        output.complain("trash_days is 0: nothing in the trash has a time")
        return exit_codes.FAILED
    if not yes and not options.confirmed(f"Delete for good what is older than {config.deletion.trash_days:g} days?"):
        output.complain("nothing was deleted")
        return exit_codes.FAILED
    output.write_one(trash.expire(config))
    return exit_codes.OK
