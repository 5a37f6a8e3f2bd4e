"""`filmroom changes`: show the change feed, event by event."""

from __future__ import annotations

import click

from engine.cli import backend, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("time"),
    whole("action"),
    whole("study_instance_uid", "study"),
    whole("sop_instance_uid", "instance"),
    wrapped("calling_ae_title", "from"),
    whole("cursor"),
)


@options.command("changes")
@click.option("--since", metavar="CURSOR", help="Only events after this cursor.  [all that are kept]")
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N events.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more events until Ctrl-C.")
@with_settings()
def command(since: str | None, limit: int | None, follow: bool, settings: Settings) -> None:
    """Show what happened to the archive: stored, deleted, corrected, held, quiet, complete, replicated.

    A running server writes the feed and keeps it for [feed] keep_days. Each event has a cursor; pass it as --since to
    continue after that event. --json shows all fields of an event.
    """
    rows = backend.changes(settings.load(), since=since, limit=limit, follow=follow)
    output.write_list(rows, COLUMNS, empty="nothing has happened")
