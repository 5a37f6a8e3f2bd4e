"""`filmroom compact`: gives the space of what was deleted or replaced back now, the server running or not."""

from __future__ import annotations

import click

from engine.cli import deletion, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.command("compact")
@click.option("--all", "everything", is_flag=True, help="Whatever has a dead byte in it, as fast as the disk goes.")
@with_settings()
def command(everything: bool, settings: Settings) -> int:
    """Rewrite segments of which [compaction] dead_share_min is dead, join small ones, remove what is wholly dead.

    Storing and retrieving go on meanwhile. Exit code 1: a segment holds a damaged record and was left as it is.
    """
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        facts = deletion.compact(config, everything, progress)
    output.write_one(facts)
    return exit_codes.FAILED if facts["left_alone"] else exit_codes.OK
