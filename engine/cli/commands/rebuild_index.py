"""`filmroom rebuild-index`: the index made anew from the log."""

from __future__ import annotations

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.command("rebuild-index")
@with_settings()
def command(settings: Settings) -> int:
    """Make the index anew from the log. The server must not run.

    The old index is replaced. Exit code 1: something in the log is damaged; it is named, the rest is indexed.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        facts, findings = backend.rebuild_index(config, progress)
    output.write_report(facts, findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK
