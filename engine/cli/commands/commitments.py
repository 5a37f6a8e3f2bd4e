"""`filmroom commitments`: list undelivered storage commitment reports; retry or drop them."""

from __future__ import annotations

import click

from engine.cli import commitments, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("id"),
    whole("calling_ae_title", "AE title"),
    whole("received"),
    whole("instances"),
    whole("attempts"),
    whole("next_attempt", "next"),
    whole("transaction_uid", "transaction UID"),
    wrapped("error"),
)


@options.group("commitments")
def command() -> None:
    """List storage commitment reports that are not delivered yet; retry or drop them."""


@command.command("list", short_help="List waiting reports.")
@with_settings()
def list_(settings: Settings) -> None:
    """List waiting reports, with the number of attempts and the last error."""
    output.write_list(commitments.listed(settings.load()), COLUMNS, empty="no report waits")


@command.command("retry", short_help="Send reports now.")
@click.argument("identifiers", metavar="[ID]...", nargs=-1)
@with_settings()
def retry(identifiers: tuple[str, ...], settings: Settings) -> None:
    """Send these reports, or all: within a second if a server runs, otherwise when it starts."""
    count = commitments.retry(settings.load(), list(identifiers))
    output.write_one({"retried": count})


@command.command("drop", short_help="Drop a report.")
@click.argument("identifier", metavar="ID")
@with_settings()
def drop(identifier: str, settings: Settings) -> None:
    """Drop a report. The peer does not receive it and must request commitment again."""
    commitments.drop(settings.load(), identifier)
    output.write_one({"dropped": identifier})
