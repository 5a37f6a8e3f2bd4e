"""`filmroom workitem`: the workitems (UPS) that systems share: list, show, cancel."""

from __future__ import annotations

import click

from engine.cli import options, output, workitem
from engine.cli.commands.worklist import pairs
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("SOPInstanceUID", "uid"),
    whole("ProcedureStepState", "state"),
    whole("ScheduledProcedureStepStartDateTime", "start"),
    whole("ScheduledProcedureStepPriority", "priority"),
    wrapped("ProcedureStepLabel", "label"),
    wrapped("WorklistLabel", "worklist"),
    wrapped("PatientName", "patient"),
    whole("PatientID", "id"),
)


@options.group("workitem")
def command() -> None:
    """Show and cancel workitems (UPS)."""


@command.command("list", short_help="List workitems.")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, metavar="N", help="At most N."
)
@with_settings()
def list_(keys: tuple[str, ...], limit: int, settings: Settings) -> None:
    """List the workitems that match KEY=VALUE.

    For example ProcedureStepState=SCHEDULED WorklistLabel=AI*
    """
    output.write_list(workitem.listed(settings.load(), pairs(keys), limit), COLUMNS, empty="no workitems")


@command.command("show", short_help="Show a workitem.")
@click.argument("uid", metavar="UID")
@with_settings()
def show(uid: str, settings: Settings) -> None:
    """Show all attributes of a workitem, but the Transaction UID of its performer."""
    output.write_one(workitem.one(settings.load(), uid))


@command.command("cancel", short_help="Cancel a workitem.")
@click.argument("uid", metavar="UID")
@click.option("--reason", metavar="TEXT", default="", help="Why, for those who watch it.")
@with_settings()
def cancel(uid: str, reason: str, settings: Settings) -> None:
    """Cancel a workitem that nobody performs yet; else ask its performer to cancel it."""
    output.write_one(workitem.cancel(settings.load(), uid, reason))
