"""`filmroom undo`: takes a merge, a move or a correction back."""

from __future__ import annotations

import click

from engine.cli import corrections, output
from engine.cli.options import Settings, json_option, reason_option, with_settings


@click.command("undo")
@click.argument("number", metavar="NUMBER")
@reason_option
@with_settings("data")
@json_option
def command(number: str, reason: str, settings: Settings, as_json: bool) -> None:
    """Take back the correction of this NUMBER, as `filmroom corrections` lists it.

    All others stay in force, also later ones: what is seen then is what it would be had this one never been made.
    """
    done = corrections.undo(settings.load(), number, reason=reason)
    output.write_json(done) if as_json else output.write_facts(done)
