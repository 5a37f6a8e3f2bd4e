"""`filmroom rebuild-index`: rebuild the index from the log."""

from __future__ import annotations

from engine.cli import backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.command("rebuild-index")
@with_settings()
def command(settings: Settings) -> int:
    """Rebuild the index from the log. Stop the server first.

    The new index replaces the old one. Exit code 1: damage was found in the log; it is listed, the rest is indexed.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        facts, findings = backend.rebuild_index(config, progress)
    output.write_report(facts, findings=findings)
    return exit_codes.FAILED if findings else exit_codes.OK
