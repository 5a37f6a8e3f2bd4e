"""`filmroom study`: move studies to another patient. Stored bytes never change; undo is possible."""

from __future__ import annotations

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, reason_option, with_settings


@options.group("study")
def command() -> None:
    """Move studies to another patient."""


@command.command("move", short_help="Assign studies to another patient.")
@click.argument("studies", metavar="UID...", nargs=-1, required=True)
@click.argument("patient", metavar="PATIENT")
@reason_option
@with_settings()
def move(studies: tuple[str, ...], patient: str, reason: str, settings: Settings) -> None:
    """Assign studies (Study Instance UIDs) to PATIENT (ID or ID^^^ISSUER), who must have other studies.

    Queries find them under that patient's name and data at once. Stored data sets do not change. To assign studies to
    a new patient, use `filmroom patient split`. `filmroom undo` reverses the move.
    """
    facts = corrections.move(settings.load(), studies, patient, reason=reason)
    output.write_one(facts)
