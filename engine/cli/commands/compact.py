"""`filmroom compact`: free the space of deleted and replaced records, with or without a running server."""

from __future__ import annotations

import click

from engine.cli import deletion, exit_codes, options, output
from engine.cli.options import Settings, with_settings


@options.command("compact")
@click.option("--all", "everything", is_flag=True, help="Rewrite every segment with a dead byte, at full disk speed.")
@with_settings()
def command(everything: bool, settings: Settings) -> int:
    """Free the space of deleted and replaced instances.

    Rewrites segments of which at least [compaction] dead_share_min is dead, joins small ones and removes dead ones.
    Storing and retrieving continue meanwhile. Exit code 1: a segment with a damaged record was left unchanged.
    """
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        facts = deletion.compact(config, everything, progress)
    output.write_one(facts)
    return exit_codes.FAILED if facts["left_alone"] else exit_codes.OK
