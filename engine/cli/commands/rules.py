"""`filmroom rules`: list the receivers of rules and routes; try rules on past events; resume and resend."""

from __future__ import annotations

from datetime import datetime

import click

from engine.cli import options, output, rules
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("name"),
    whole("state"),
    whole("delivered"),
    whole("attempts"),
    whole("skipped"),
    whole("updated"),
    wrapped("error"),
)
TRIAL_COLUMNS = (
    whole("time"),
    whole("event"),
    whole("rule"),
    whole("action"),
    whole("to"),
    wrapped("study_instance_uid", "study"),
)


@options.group("rules")
def command() -> None:
    """List what [[rule]] and [[route]] tables do; try them on past events; resume and resend."""


@command.command("list", short_help="List the receivers and their progress.")
@with_settings()
def list_(settings: Settings) -> None:
    """List the receivers of rules and the routes: events delivered, set aside, and the error of the last attempt."""
    output.write_list(rules.listed(settings.load()), COLUMNS, empty="nothing has been delivered by a rule or a route")


@command.command("try", short_help="Show what rules would have done.")
@click.argument("name", metavar="[NAME]", default="")
@click.option("--since", metavar="TIME", type=click.DateTime(), help="Only later events.  [all that are kept]")
@with_settings()
def try_(name: str, since: datetime | None, settings: Settings) -> None:
    """Show what the rules and routes of the configuration would have done with past events. Nothing is sent.

    NAME: only this rule or route. The archive is asked as it is now.
    """
    rows = rules.trial(settings.load(), name=name, since_s=since.timestamp() if since is not None else 0.0)
    output.write_list(rows, TRIAL_COLUMNS, empty="no rule or route would have done anything")


@command.command("resume", short_help="Resume a receiver.")
@click.argument("name", metavar="NAME")
@with_settings()
def resume(name: str, settings: Settings) -> None:
    """Resume a parked or waiting receiver within a second. It continues where it stopped and skips no event."""
    rules.resume(settings.load(), name)
    output.write_one({"resumed": name})


@command.command("resend", short_help="Try once more what was set aside.")
@click.argument("name", metavar="NAME")
@with_settings()
def resend(name: str, settings: Settings) -> None:
    """Try once more, in order, what was set aside for a receiver by the policy skip."""
    rules.resend(settings.load(), name)
    output.write_one({"resent": name})
