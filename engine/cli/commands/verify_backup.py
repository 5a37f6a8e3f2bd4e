"""`filmroom verify-backup`: every byte of a backup read again."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from engine.cli import copies, exit_codes, options, output
from engine.cli.options import at_option, lineage_option, rate_option


@options.command("verify-backup")
@click.argument("source", metavar="BACKUP", type=click.Path(file_okay=False))
@at_option
@lineage_option
@rate_option
def command(source: str, at: datetime | None, lineage: str | None, rate: int) -> int:
    """Read all of a BACKUP, or the state that --at and --lineage name, and compare every hash and every checksum.

    Exit code 1: something is damaged; it is named.
    """
    with output.progress_bar("bytes") as progress:
        report = copies.verify_backup(Path(source), at, lineage, rate, progress)
    findings = report["findings"]
    output.write_report(report, report["counts"], findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK
