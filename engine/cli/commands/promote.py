"""`filmroom promote`: a replica becomes an archive."""

from __future__ import annotations

from engine.cli import copies, options, output
from engine.cli.options import Settings, with_settings


@options.command("promote")
@with_settings()
def command(settings: Settings) -> None:
    """Make the replica in --data an archive that takes instances; it replicates nothing any more.

    Refused while a replication writes to it or a process has it open. Make sure that the source is really gone: from
    here on both would be the archive.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        facts = copies.promote(config, progress)
    output.write_one(facts)
