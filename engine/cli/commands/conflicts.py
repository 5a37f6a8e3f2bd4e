"""`filmroom conflicts`: studies whose instances disagree about their patient, study or series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("study_instance_uid", "study"),
    whole("series_instance_uid", "series"),
    wrapped("attributes"),
)


@options.command("conflicts")
@click.option("--values", is_flag=True, help="Show what is stated, what counts first: patients' data.")
@with_settings()
def command(values: bool, settings: Settings) -> None:
    """List the studies and series whose instances disagree, and on which attributes.

    Of each attribute the value of the instance that came first counts, unless that is empty. `filmroom correct` settles
    it otherwise, and then it is no conflict any more.
    """
    rows = corrections.conflicts(settings.load(), values=values)
    output.write_list(rows, COLUMNS, shown=_shown, empty="no instances disagree")


def _shown(row: Mapping[str, Any]) -> Mapping[str, object]:
    stated = row["attributes"]
    if not isinstance(stated, dict):
        return row
    return {**row, "attributes": [f"{name}: {' | '.join(said)}" for name, said in stated.items()]}
