"""`filmroom check`: the log against the index, both ways."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.command("check")
@click.option("--payloads", is_flag=True, help="Compare every stored data set with its checksum too: reads everything.")
@with_settings()
def command(payloads: bool, settings: Settings) -> int:
    """Compare the log with the index, both ways, and see whether each data set is all there.

    Exit code 1: there are findings. Oddities, as Pixel Data of another length than its attributes say, are none.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        report = backend.check(config, payloads, progress)
    counts = backend.in_words(report.counts)
    findings = [str(finding) for finding in report.findings]
    oddities = [str(oddity) for oddity in report.oddities]
    output.write_report({"counts": counts}, counts, findings=findings, oddities=oddities)
    return exit_codes.FAILED if findings else exit_codes.OK
