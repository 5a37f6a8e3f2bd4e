"""`filmroom compact`: gives the space of what was deleted or replaced back now, the server running or not."""

from __future__ import annotations

import click

from engine.cli import backend, exit_codes, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("compact")
@click.option("--all", "everything", is_flag=True, help="Whatever has a dead byte in it, as fast as the disk goes.")
@with_settings("data")
@json_option
def command(everything: bool, settings: Settings, as_json: bool) -> int:
    """Rewrite segments of which [compaction] dead_share_min is dead, join small ones, remove what is wholly dead.

    Storing and retrieving go on meanwhile. Exit code 1: a segment holds a damaged record and was left as it is.
    """
    config = settings.load()
    with output.progress_bar("bytes") as progress:
        facts = backend.compact(config, everything, progress)
    if as_json:
        output.write_json(facts)
    else:
        output.write_facts(facts)
    return exit_codes.FAILED if facts["left_alone"] else exit_codes.OK
