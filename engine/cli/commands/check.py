"""`filmroom check`: compare the log with the index."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.command("check")
@click.option("--payloads", is_flag=True, help="Also verify the checksum of every data set; reads everything.")
@with_settings()
def command(payloads: bool, settings: Settings) -> int:
    """Compare the log with the index, in both directions, and look for truncated data sets.

    Exit code 1: there are findings. Oddities, such as Pixel Data whose length contradicts its attributes, do not count.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        report = backend.check(config, payloads, progress)
    counts = backend.in_words(report.counts)
    findings = [str(finding) for finding in report.findings]
    oddities = [str(oddity) for oddity in report.oddities]
    output.write_report({"counts": counts}, counts, findings=findings, oddities=oddities)
    return exit_codes.FAILED if findings else exit_codes.OK
