"""`filmroom study`: the state of studies; move them to another patient, which changes no stored bytes."""

from __future__ import annotations

import click

from engine.cli import backend, corrections, exit_codes, options, output
from engine.cli.options import Settings, reason_option, with_settings
from engine.cli.output import whole

STATES = (whole("study_instance_uid", "study"), whole("state"), whole("reason"), whole("since"))


@options.group("study")
def command() -> None:
    """Move studies to another patient, and show whether they are complete."""


@command.command("state", short_help="Show whether studies are arriving, quiet, complete or reopened.")
@click.argument("studies", metavar="UID...", nargs=-1, required=True)
@with_settings()
def state(studies: tuple[str, ...], settings: Settings) -> int:
    """Show whether studies (Study Instance UIDs) are arriving, quiet, complete or reopened, why, and since when.

    A study is complete when no instance has come for [feed] study_complete_s, or when it is quiet and all instances
    that its performed procedure steps (MPPS) list are here. Another instance reopens it.

    Exit code 1: one is not stored.
    """
    states = backend.study_states(settings.load(), studies)
    output.write_list(states, STATES)
    is_missing = any(each["state"] == backend.NOT_STORED for each in states)
    return exit_codes.FAILED if is_missing else exit_codes.OK


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
