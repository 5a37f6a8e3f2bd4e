"""`filmroom commitments`: storage commitment reports that wait for their peers; try them now, or drop them."""

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
    """Look at the storage commitment reports that no peer has taken yet; have them sent now, or drop them."""


@command.command("list", short_help="List what waits, and why.")
@with_settings()
def list_(settings: Settings) -> None:
    """List what waits, with the attempts so far and why the last one failed."""
    output.write_list(commitments.listed(settings.load()), COLUMNS, empty="no report waits")


@command.command("retry", short_help="Send reports now.")
@click.argument("identifiers", metavar="[ID]...", nargs=-1)
@with_settings()
def retry(identifiers: tuple[str, ...], settings: Settings) -> None:
    """Have these reports, or all, sent within a second when a server runs, else when it starts."""
    count = commitments.retry(settings.load(), list(identifiers))
    output.write_one({"retried": count})


@command.command("drop", short_help="Forget one.")
@click.argument("identifier", metavar="ID")
@with_settings()
def drop(identifier: str, settings: Settings) -> None:
    """Forget one: its peer gets no report and has to ask again."""
    commitments.drop(settings.load(), identifier)
    output.write_one({"dropped": identifier})
