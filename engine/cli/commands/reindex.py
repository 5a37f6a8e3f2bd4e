"""`filmroom reindex`: index the extra attributes ([[attribute]] tables) of stored instances."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.group("reindex", invoke_without_command=True)
@with_settings()
@click.pass_context
def command(ctx: click.Context, settings: Settings) -> int:
    """Index the configured extra attributes ([[attribute]] tables) of all stored instances now.

    A server that is started with changed [[attribute]] tables does this by itself, slowly; beside it, this command
    speeds it up. Without a server, the command applies the configured tables first. Exit code 1: an instance cannot
    be read and keeps its previous attributes.
    """
    if ctx.invoked_subcommand is not None:
        return exit_codes.OK
    with output.progress_bar("segments") as progress:
        facts = backend.reindex(settings.load(), progress)
    output.write_one(facts, title="reindex")
    return exit_codes.FAILED if facts["unreadable"] else exit_codes.OK


@command.command("status", short_help="Show the progress.")
@with_settings()
def status(settings: Settings) -> None:
    """Show the number of extra attributes in effect, and how much of the archive has been indexed for them."""
    output.write_one(backend.reindex_status(settings.load()), title="reindex")
