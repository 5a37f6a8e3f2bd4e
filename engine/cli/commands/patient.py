"""`filmroom patient`: merges two patients into one, splits one in two. No stored byte changes, and it can be undone."""

from __future__ import annotations

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, reason_option, with_settings


@options.group("patient")
def command() -> None:
    """Say which studies are one patient's.

    A patient is written ID, or ID^^^ISSUER where two issuers gave one ID (ID^^^ for the one without an issuer).
    Queries and retrievals see it at once; the stored data sets stay as they came. `filmroom undo` takes it back.
    """


@command.command("merge", short_help="Make all studies of one patient another's.")
@click.argument("source", metavar="FROM")
@click.argument("into", metavar="INTO")
@click.option("--in-advance", is_flag=True, help="Also if no study of FROM or INTO is stored yet.")
@reason_option
@with_settings()
def merge(source: str, into: str, in_advance: bool, reason: str, settings: Settings) -> None:
    """Make all studies of FROM, now and in future, those of INTO, with the name and the data that INTO has."""
    done = corrections.merge(settings.load(), source, into, in_advance=in_advance, reason=reason)
    output.write_one(done)


@command.command("split", short_help="Make studies those of a new patient.")
@click.argument("new", metavar="NEW")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--study", "studies", metavar="UID", multiple=True, required=True, help="Study Instance UID.")
@reason_option
@with_settings()
def split(new: str, keys: tuple[str, ...], studies: tuple[str, ...], reason: str, settings: Settings) -> None:
    """Make studies of one patient those of NEW, a patient that is not known yet.

    What the studies say besides ID and issuer stays, but for attributes that are given: PatientName='DOE^JANE'.
    """
    done = corrections.split(settings.load(), studies, new, keys, reason=reason)
    output.write_one(done)
