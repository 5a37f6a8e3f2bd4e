"""`filmroom backup`: update a backup of the archive, with or without a running server."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import copies, exit_codes, options, output
from engine.cli.options import Settings, rate_option, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("created"),
    whole("lineage"),
    whole("segments"),
    whole("bytes", "size"),
    wrapped("error"),
)


@options.command("backup")
@click.argument("dest", metavar="DEST", type=click.Path(file_okay=False))
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Keep only the newest N states of this history.")
@click.option("--join", is_flag=True, help="Allow DEST to hold another history of this archive.")
@click.option("--list", "is_list", is_flag=True, help="List the states in DEST.")
@rate_option
@with_settings()
def command(dest: str, keep: int | None, join: bool, is_list: bool, rate: int, settings: Settings) -> int:
    """Update the backup in the folder DEST. Every run adds a state that can be restored.

    A state contains everything acknowledged before the run began. Only new data is copied. After an interruption, run
    it again to continue. Put DEST on another disk or machine. A restored archive, a promoted replica and a replica each
    have a history of their own; give each its own folder, or use --join. Exit code 1: the backup was refused, or it was
    written but part of the archive could not be read; that part is listed.
    """
    if is_list:
        output.write_list(copies.backup_states(Path(dest)), COLUMNS, empty="no state yet")
        return exit_codes.OK
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        report = copies.backup(config, Path(dest), keep, rate, progress, join=join)
    findings = report["findings"]
    output.write_report(report, findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK
