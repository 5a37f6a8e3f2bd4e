"""`filmroom commitments`: storage commitment reports that wait for their peers; try them now, or drop them."""

from __future__ import annotations

import click

from engine.cli import backend, output
from engine.cli.options import Settings, json_option, with_settings


@click.group("commitments")
def command() -> None:
    """Look at the storage commitment reports that no peer has taken yet; have them sent now, or drop them."""


@command.command("list")
@with_settings("data")
@json_option
def list_(settings: Settings, as_json: bool) -> None:
    """List what waits, with the attempts so far and why the last one failed."""
    rows = backend.commitments(settings.load())
    if as_json:
        output.write_json(rows)
        return
    columns = ("id", "calling AE title", "transaction UID", "instances", "received", "attempts", "next", "error")
    output.write_table(columns, [tuple(row.values()) for row in rows])


@command.command("retry")
@click.argument("identifiers", metavar="[ID]...", nargs=-1)
@with_settings("data")
@json_option
def retry(identifiers: tuple[str, ...], settings: Settings, as_json: bool) -> None:
    """Have these reports, or all, sent within a second when a server runs, else when it starts."""
    count = backend.commitments_retry(settings.load(), list(identifiers))
    if as_json:
        output.write_json({"retried": count})
    else:
        output.write_facts({"retried": count})


@command.command("drop")
@click.argument("identifier", metavar="ID")
@with_settings("data")
@json_option
def drop(identifier: str, settings: Settings, as_json: bool) -> None:
    """Forget one: its peer gets no report and has to ask again."""
    backend.commitment_drop(settings.load(), identifier)
    if as_json:
        output.write_json({"dropped": identifier})
    else:
        output.write_facts({"dropped": identifier})
