"""`filmroom restore`: restore an archive from a backup."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from engine.cli import copies, exit_codes, options, output
from engine.cli.options import Settings, at_option, lineage_option, rate_option, with_settings


@options.command("restore")
@click.argument("source", metavar="BACKUP", type=click.Path(file_okay=False))
@at_option
@lineage_option
@click.option("--salvage", is_flag=True, help="Restore what is readable in a damaged backup.")
@click.option(
    "--destroyed-keys",
    type=click.Path(exists=True, path_type=Path),
    help="A later study.keys, or a folder with it: what was shredded there stays unreadable.",
)
@rate_option
@with_settings()
def command(
    source: str,
    at: datetime | None,
    lineage: str | None,
    salvage: bool,
    destroyed_keys: Path | None,
    rate: int,
    settings: Settings,
) -> int:
    """Restore an archive into --data from a BACKUP: its newest state, or the newest up to --at.

    `filmroom backup BACKUP --list` lists the states. If there are several histories, select one with --lineage. --data
    must not exist or be empty. Every byte is verified against its hash; then the archive is recovered, indexed and
    checked. After an interruption, run it again. Exit code 1: the archive was restored, with the findings listed.

    Studies that were shredded before the last run of `filmroom backup` into this folder stay unreadable. For those
    that were shredded since, name the archive's study.keys, or its data directory, with --destroyed-keys.
    """
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        report = copies.restore(
            Path(source),
            config.data,
            at,
            lineage,
            salvage=salvage,
            destroyed_keys=destroyed_keys,
            bytes_per_s=rate,
            progress=progress,
        )
    findings = report["findings"]
    output.write_report(report, findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK
