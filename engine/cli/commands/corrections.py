"""`filmroom corrections`: list merges, moves, corrections and undos: when, by whom and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("number"),
    whole("made"),
    whole("operation"),
    whole("level"),
    whole("by"),
    whole("undone_by", "undone by"),
    whole("undoes"),
    wrapped("names", "whose"),
    wrapped("reason"),
    wrapped("sets"),
)


@options.command("corrections")
@click.option("--values", is_flag=True, help="Also show the values (patient data).")
@with_settings()
def command(values: bool, settings: Settings) -> None:
    """List every merge, move, correction and undo, the earliest first. Pass a number to `filmroom undo`."""
    rows = corrections.listed(settings.load(), values=values)
    output.write_list(rows, COLUMNS, shown=_shown, empty="nothing was corrected")


def _shown(row: Mapping[str, Any]) -> Mapping[str, object]:
    sets = row["sets"]
    return {**row, "sets": [f"{name}={text}" for name, text in sets.items()]} if isinstance(sets, dict) else row
