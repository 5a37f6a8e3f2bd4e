"""`filmroom verify-backup`: read a backup and verify every byte."""

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
    """Read a BACKUP, or the state selected by --at and --lineage, and verify every hash and checksum.

    Exit code 1: damage was found; it is listed.
    """
    with output.progress_bar("bytes") as progress:
        report = copies.verify_backup(Path(source), at, lineage, rate, progress)
    findings = report["findings"]
    output.write_report(report, report["counts"], findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK
