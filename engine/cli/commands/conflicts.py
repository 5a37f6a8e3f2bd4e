"""`filmroom conflicts`: studies whose instances disagree about their patient, study or series."""

from __future__ import annotations

import click

from engine.cli import corrections, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("conflicts")
@click.option("--values", is_flag=True, help="Show what is stated, what counts first: patients' data.")
@with_settings("data")
@json_option
def command(values: bool, settings: Settings, as_json: bool) -> None:
    """List the studies and series whose instances disagree, and on which attributes.

    Of each attribute the value of the instance that came first counts, unless that is empty. `filmroom correct` settles
    it otherwise, and then it is no conflict any more.
    """
    rows = corrections.conflicts(settings.load(), values=values)
    if as_json:
        for row in rows:
            output.write_json(row)
        return
    columns = ("study_instance_uid", "series_instance_uid", "attributes")
    output.write_table(columns, [[_cell(row[column]) for column in columns] for row in rows])


def _cell(value: object) -> object:
    return [f"{name}: {' | '.join(said)}" for name, said in value.items()] if isinstance(value, dict) else value
