"""`filmroom access`: who may see what, and why or why not."""

from __future__ import annotations

import click

from engine.cli import access, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

EXPLANATION = (whole("action"), whole("allowed"), wrapped("why"))
REPORT = (whole("who"), whole("kind"), wrapped("roles"), wrapped("may"), wrapped("scope", "studies"), whole("grants"))


@options.group("access")
def command() -> None:
    """Show who may see what, and why or why not."""


@command.command("explain", short_help="Why a user may see a study, or not.")
@click.argument("user", metavar="USER")
@click.argument("study", metavar="STUDY")
@with_settings()
def explain(user: str, study: str, settings: Settings) -> None:
    """Show for each action whether USER may perform it on STUDY (Study Instance UID), and the rule that decides.

    It reads the rules and the attributes of the study as they are now.
    """
    output.write_list(access.explanation(settings.load(), user, study), EXPLANATION, empty="nothing may be done")


@command.command("report", short_help="Who may see what.")
@with_settings()
def report(settings: Settings) -> None:
    """List all users and configured peers with their roles, actions and studies.

    The column studies says which studies queries return; for those who may not query, which ones they may retrieve.
    """
    output.write_list(access.report(settings.load()), REPORT, empty="there are no users and no peers")
