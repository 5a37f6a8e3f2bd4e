"""`filmroom reindex`: looks through what is stored for the [[attribute]] tables of the configuration."""

from __future__ import annotations

from typing import Any

import click

from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, json_option, with_settings


@click.group("reindex", invoke_without_command=True)
@with_settings("data")
@json_option
@click.pass_context
def command(ctx: click.Context, settings: Settings, as_json: bool) -> int:
    """Look through everything that is stored for the extra attributes of the configuration, now.

    A running server does it by itself, slowly, when it has been started with other [[attribute]] tables. Beside it this
    only hurries; without one the tables of the configuration are taken over first. Exit code 1: something cannot be
    read, and keeps the attributes that it had.
    """
    if ctx.invoked_subcommand is not None:
        return exit_codes.OK
    with output.progress_bar("segments") as progress:
        done = backend.reindex(settings.load(), progress)
    _write(done, as_json)
    return exit_codes.FAILED if done["unreadable"] else exit_codes.OK


@command.command("status")
@with_settings("data")
@json_option
def status(settings: Settings, as_json: bool) -> None:
    """Show how many extra attributes are in effect, and how much of the archive has been looked through for them."""
    _write(backend.reindex_status(settings.load()), as_json)


def _write(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.write_json(facts)
    else:
        output.write_facts({name.replace("_", " "): value for name, value in facts.items()}, title="reindex")
