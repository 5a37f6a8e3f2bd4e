"""`filmroom patient`: merge or split patients, and undo merges of messages. Stored bytes never change."""

from __future__ import annotations

import click

from engine.cli import corrections, merges, options, output
from engine.cli.options import Settings, reason_option, with_settings
from engine.cli.output import whole, wrapped

MERGES = (
    whole("number"),
    whole("time"),
    whole("prior"),
    whole("survivor"),
    whole("by"),
    whole("undone_by", "undone by"),
    wrapped("reason"),
)


@options.group("patient")
def command() -> None:
    """Merge two patients, or split one.

    Write a patient as ID, or as ID^^^ISSUER if two issuers use the same ID (ID^^^ means no issuer). The change applies
    to queries and retrievals at once. Stored data sets do not change. `filmroom undo` reverses it.
    """


@command.command("merge", short_help="Assign all studies of one patient to another.")
@click.argument("source", metavar="FROM")
@click.argument("into", metavar="INTO")
@click.option("--in-advance", is_flag=True, help="Also if FROM or INTO has no stored study yet.")
@reason_option
@with_settings()
def merge(source: str, into: str, in_advance: bool, reason: str, settings: Settings) -> None:
    """Assign all studies of FROM, present and future, to INTO, under the name and data of INTO."""
    facts = corrections.merge(settings.load(), source, into, in_advance=in_advance, reason=reason)
    output.write_one(facts)


@command.command("split", short_help="Assign studies to a new patient.")
@click.argument("new", metavar="NEW")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--study", "studies", metavar="UID", multiple=True, required=True, help="Study Instance UID.")
@reason_option
@with_settings()
def split(new: str, keys: tuple[str, ...], studies: tuple[str, ...], reason: str, settings: Settings) -> None:
    """Assign studies of one patient to NEW, a patient that does not exist yet.

    The other patient attributes of the studies stay, except those you give: PatientName='DOE^JANE'.
    """
    facts = corrections.split(settings.load(), studies, new, keys, reason=reason)
    output.write_one(facts)


@command.command("merges", short_help="List the merges that messages have said.")
@with_settings()
def merges_command(settings: Settings) -> None:
    """List the merges of patients that HL7 messages have said, the latest first, and who has undone them."""
    output.write_list(merges.listed(settings.load()), MERGES, empty="no message has merged patients")


@command.command("unmerge", short_help="Undo a merge that a message has said.")
@click.argument("number", type=click.IntRange(min=1), metavar="NUMBER")
@reason_option
@with_settings()
def unmerge(number: int, reason: str, settings: Settings) -> None:
    """Undo the merge NUMBER of `filmroom patient merges`.

    The prior patient is back, with the orders, visits and studies that were theirs. Studies and orders that came after
    the merge under the surviving identifier stay there: move them with `filmroom study move`. The message does not
    merge again when it is replayed; a new message does.
    """
    output.write_one(merges.undo(settings.load(), number, reason=reason))
