"""`filmroom study`: moves studies to another patient. No stored byte changes, and it can be undone."""

from __future__ import annotations

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, reason_option, with_settings


@options.group("study")
def command() -> None:
    """Say whose a study is."""


@command.command("move", short_help="Make studies those of another patient.")
@click.argument("studies", metavar="UID...", nargs=-1, required=True)
@click.argument("patient", metavar="PATIENT")
@reason_option
@with_settings()
def move(studies: tuple[str, ...], patient: str, reason: str, settings: Settings) -> None:
    """Make the studies with these Study Instance UIDs those of PATIENT (ID or ID^^^ISSUER), who has others.

    They are found under that patient's name and data at once; the stored data sets stay as they came. To make a new
    patient of them: `filmroom patient split`. `filmroom undo` takes it back.
    """
    done = corrections.move(settings.load(), studies, patient, reason=reason)
    output.write_one(done)
