"""`filmroom delete`: studies, series and instances out of the archive, the server running or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from engine.cli import deletion, exit_codes, options, output, query
from engine.cli.options import Settings, with_settings

PATIENTS_NAMED_MAX = 3
"""How many of those whose instances go the question names."""


@options.command("delete")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID.")
@click.option("--series", metavar="UID", multiple=True, help="Series Instance UID.")
@click.option("--instance", "instances", metavar="UID", multiple=True, help="SOP Instance UID.")
@click.option("--reason", metavar="TEXT", help="Why; it is recorded, with who you are.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_settings()
def command(
    keys: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    instances: tuple[str, ...],
    reason: str | None,
    dry_run: bool,
    yes: bool,
    settings: Settings,
) -> int:
    """Delete the studies, series or instances that are named, or that match KEY=VALUE as on find.

    They are gone at once for every query and retrieval that begins afterwards; compaction gives their space back.
    Nothing is deleted when a study among them is on legal hold, or when a UID that is named is not stored: it is said
    which. Exit code 1: that, or nothing matches.
    """
    wanted = query.named(keys, studies, series, instances)
    if not wanted:
        raise click.UsageError("say what to delete: --study, --series or --instance UID, or KEY=VALUE")
    if not reason and not dry_run:
        raise click.UsageError("say why: --reason TEXT is recorded with the deletion")
    config = settings.load()
    if dry_run or not yes:
        facts = deletion.delete(config, wanted, reason="", dry_run=True)
        if dry_run:
            _show(facts)
            return exit_codes.FAILED if facts["held"] or not facts["instances"] else exit_codes.OK
        goes = facts["instances"] and not facts["held"]
        if goes and not options.confirmed(_question(facts, deletion.patients_of(config, wanted))):
            output.complain("nothing was deleted")
            return exit_codes.FAILED
    facts = deletion.delete(config, wanted, reason=reason or "", dry_run=False)
    _show(facts)
    return exit_codes.OK if facts["instances"] else exit_codes.FAILED


def _question(facts: Mapping[str, Any], patients: Sequence[str]) -> str:
    who = ", ".join(patients[:PATIENTS_NAMED_MAX])
    more = len(patients) - PATIENTS_NAMED_MAX
    of = f" of {who}{f' and {more} more patients' if more > 0 else ''}" if who else ""
    counts = f"{facts['instances']} instances in {facts['studies']} studies ({output.bytes_text(facts['bytes'])})"
    return f"Delete {counts}{of}?"


def _show(facts: dict[str, object]) -> None:
    if not facts["instances"]:
        output.complain("nothing matches")
    output.write_one(facts)
