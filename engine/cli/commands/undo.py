"""`filmroom undo`: undo a merge, a move or a correction."""

from __future__ import annotations

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, reason_option, with_settings


@options.command("undo")
@click.argument("number", metavar="NUMBER")
@reason_option
@with_settings()
def command(number: str, reason: str, settings: Settings) -> None:
    """Undo the correction with this NUMBER, as listed by `filmroom corrections`.

    All other corrections stay in force, also later ones, as if this one had never been made.
    """
    facts = corrections.undo(settings.load(), number, reason=reason)
    output.write_one(facts)
