"""`filmroom webhooks`: list the webhooks of the change feed; resume a parked one."""

from __future__ import annotations

import click

from engine.cli import backend, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("name"),
    whole("state"),
    whole("delivered"),
    whole("attempts"),
    whole("updated"),
    whole("cursor"),
    wrapped("error"),
)


@options.group("webhooks")
def command() -> None:
    """List the [[webhook]] deliveries of the change feed; resume a parked one."""


@command.command("list", short_help="List the webhooks and their progress.")
@with_settings()
def list_(settings: Settings) -> None:
    """List the webhooks: events delivered, cursor after the last one, and the error of the last attempt."""
    output.write_list(backend.webhooks(settings.load()), COLUMNS, empty="there are no webhooks")


@command.command("resume", short_help="Resume a webhook.")
@click.argument("name", metavar="NAME")
@with_settings()
def resume(name: str, settings: Settings) -> None:
    """Resume a parked or waiting webhook within a second. It continues where it stopped and skips no event."""
    backend.webhook_resume(settings.load(), name)
    output.write_one({"resumed": name})
