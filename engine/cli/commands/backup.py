"""`filmroom backup`: what is new in the log to another place, the server running or not."""

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
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Remove all own states but the newest N then.")
@click.option("--join", is_flag=True, help="Also where DEST holds another history of this archive only.")
@click.option("--list", "is_list", is_flag=True, help="Show the states that DEST holds, and end.")
@rate_option
@with_settings()
def command(dest: str, keep: int | None, join: bool, is_list: bool, rate: int, settings: Settings) -> int:
    """Bring the backup in the folder DEST up to now; every run adds a state that can be restored.

    Everything acknowledged before it began is in it. Only what is new is copied, so it costs what was stored since the
    last time. Interrupted, it goes on where it was when it is run again. DEST belongs on another disk or machine.
    An archive that was restored, a promoted replica and a replica each begin a history of their own, which needs a
    folder of its own, or --join. Exit code 1: refused; or the state was written, and something of the archive could not
    be read; it is named.
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
