"""`filmroom promote`: a replica becomes an archive."""

from __future__ import annotations

import click

from engine.cli import copies, output
from engine.cli.options import Settings, json_option, with_settings


@click.command("promote")
@with_settings("data")
@json_option
def command(settings: Settings, as_json: bool) -> None:
    """Make the replica in --data an archive that takes instances; it replicates nothing any more.

    Refused while a replication writes to it or a process has it open. Make sure that the source is really gone: from
    here on both would be the archive.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        facts = copies.promote(config, progress)
    if as_json:
        output.write_json(facts)
    else:
        output.write_facts(facts)
