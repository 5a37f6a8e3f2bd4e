"""`filmroom promote`: turn a replica into an archive."""

from __future__ import annotations

from engine.cli import copies, options, output
from engine.cli.options import Settings, with_settings


@options.command("promote")
@with_settings()
def command(settings: Settings) -> None:
    """Turn the replica in --data into an archive that accepts instances; its replication ends.

    Refused while a replication writes to it or a process has it open. First make sure that the source is gone:
    otherwise there are two archives that diverge.
    """
    config = settings.load()
    with output.progress_bar() as progress:
        facts = copies.promote(config, progress)
    output.write_one(facts)
