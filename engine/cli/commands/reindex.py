"""`filmroom reindex`: looks through what is stored for the [[attribute]] tables of the configuration."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.group("reindex", invoke_without_command=True)
@with_settings()
@click.pass_context
def command(ctx: click.Context, settings: Settings) -> int:
    """Look through everything that is stored for the extra attributes of the configuration, now.

    A running server does it by itself, slowly, when it has been started with other [[attribute]] tables. Beside it this
    only hurries; without one the tables of the configuration are taken over first. Exit code 1: something cannot be
    read, and keeps the attributes that it had.
    """
    if ctx.invoked_subcommand is not None:
        return exit_codes.OK
    with output.progress_bar("segments") as progress:
        done = backend.reindex(settings.load(), progress)
    output.write_one(done, title="reindex")
    return exit_codes.FAILED if done["unreadable"] else exit_codes.OK


@command.command("status", short_help="Show how far it is.")
@with_settings()
def status(settings: Settings) -> None:
    """Show how many extra attributes are in effect, and how much of the archive has been looked through for them."""
    output.write_one(backend.reindex_status(settings.load()), title="reindex")
