"""`filmroom check`: the log against the index, both ways."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("check")
@click.option("--payloads", is_flag=True, help="Compare every stored data set with its checksum too: reads everything.")
@with_settings("data")
@json_option
def command(payloads: bool, settings: Settings, as_json: bool) -> int:
    """Compare the log with the index, both ways. Exit code 1: there are findings."""
    config = settings.load()
    with output.progress_bar() as progress:
        report = backend.check(config, payloads, progress)
    findings = [str(finding) for finding in report.findings]
    if as_json:
        output.write_json({"findings": findings, "counts": report.counts})
    else:
        for finding in findings:
            output.complain(finding)
        output.write_facts({**report.counts, "findings": len(findings)})
    return exit_codes.FAILED if findings else exit_codes.OK
