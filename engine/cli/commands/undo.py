"""`filmroom undo`: takes a merge, a move or a correction back."""

from __future__ import annotations

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, reason_option, with_settings


@options.command("undo")
@click.argument("number", metavar="NUMBER")
@reason_option
@with_settings()
def command(number: str, reason: str, settings: Settings) -> None:
    """Take back the correction of this NUMBER, as `filmroom corrections` lists it.

    All others stay in force, also later ones: what is seen then is what it would be had this one never been made.
    """
    done = corrections.undo(settings.load(), number, reason=reason)
    output.write_one(done)
