"""`filmroom conflicts`: list studies whose instances disagree about their patient, study or series."""

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
@click.option("--values", is_flag=True, help="Also show the values, the effective one first (patient data).")
@with_settings()
def command(values: bool, settings: Settings) -> None:
    """List the studies and series whose instances disagree, and on which attributes.

    For each attribute, the first non-empty value that arrived counts. Use `filmroom correct` to set another value; that
    settles the conflict.
    """
    rows = corrections.conflicts(settings.load(), values=values)
    output.write_list(rows, COLUMNS, shown=_shown, empty="no instances disagree")


def _shown(row: Mapping[str, Any]) -> Mapping[str, object]:
    stated = row["attributes"]
    if not isinstance(stated, dict):
        return row
    return {**row, "attributes": [f"{name}: {' | '.join(values)}" for name, values in stated.items()]}
