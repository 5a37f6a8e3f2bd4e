"""`filmroom rebuild-index`: the index made anew from the log."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("rebuild-index")
@with_settings("data")
@json_option
def command(settings: Settings, as_json: bool) -> int:
    """Make the index anew from the log. The server must not run.

    The old index is replaced. Exit code 1: something in the log is damaged; it is named, the rest is indexed.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        facts, findings = backend.rebuild_index(config, progress)
    if as_json:
        output.write_json({**facts, "findings": findings})
    else:
        for finding in findings:
            output.complain(finding)
        output.write_facts(facts)
    return exit_codes.FAILED if findings else exit_codes.OK
