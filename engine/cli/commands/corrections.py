"""`filmroom corrections`: what was merged, moved, corrected and undone, when, by whom and why."""

from __future__ import annotations

import click

from engine.cli import corrections, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("corrections")
@click.option("--values", is_flag=True, help="Show what attributes are set to: patients' data.")
@with_settings("data")
@json_option
def command(values: bool, settings: Settings, as_json: bool) -> None:
    """List every merge, move, correction and undo, the earliest first; the number is what `filmroom undo` takes."""
    rows = corrections.listed(settings.load(), values=values)
    if as_json:
        for row in rows:
            output.write_json(row)
        return
    columns = ("number", "made", "operation", "level", "names", "sets", "undone_by", "undoes", "by", "reason")
    output.write_table(columns, [[_cell(row[column]) for column in columns] for row in rows])


def _cell(value: object) -> object:
    return [f"{name}={text}" for name, text in value.items()] if isinstance(value, dict) else value
