"""`filmroom webhooks`: the machines that the change feed is delivered to; try a parked one again."""

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
    """Look at the machines of the [[webhook]] tables that the change feed is delivered to; resume a parked one."""


@command.command("list", short_help="List them, and how far each is.")
@with_settings()
def list_(settings: Settings) -> None:
    """List them: how many events each has taken, the cursor behind the last one, and why the last attempt failed."""
    output.write_list(backend.webhooks(settings.load()), COLUMNS, empty="nothing is delivered to a webhook")


@command.command("resume", short_help="Try one again at once.")
@click.argument("name", metavar="NAME")
@with_settings()
def resume(name: str, settings: Settings) -> None:
    """Have a parked or waiting one tried again within a second, where it stopped: nothing is left out."""
    backend.webhook_resume(settings.load(), name)
    output.write_one({"resumed": name})
