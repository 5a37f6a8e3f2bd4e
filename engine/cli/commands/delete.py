"""`filmroom delete`: delete studies, series and instances, with or without a running server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from engine.cli import deletion, exit_codes, options, output, query
from engine.cli.options import Settings, with_settings

PATIENTS_NAMED_MAX = 3
"""How many patients the confirmation question names."""


@options.command("delete")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--study", "studies", metavar="UID", multiple=True, help="Study Instance UID.")
@click.option("--series", metavar="UID", multiple=True, help="Series Instance UID.")
@click.option("--instance", "instances", metavar="UID", multiple=True, help="SOP Instance UID.")
@click.option("--reason", metavar="TEXT", help="Why; recorded with your user name.")
@click.option("--trash", "into_trash", is_flag=True, help="Into the trash, from which it can be restored.")
@click.option("--shred", "must_shred", is_flag=True, help="Only if no copy can be read afterwards.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_settings()
def command(
    keys: tuple[str, ...],
    studies: tuple[str, ...],
    series: tuple[str, ...],
    instances: tuple[str, ...],
    reason: str | None,
    into_trash: bool,
    must_shred: bool,
    dry_run: bool,
    yes: bool,
    settings: Settings,
) -> int:
    """Delete the named studies, series or instances, or those that match KEY=VALUE as in find.

    Queries and retrievals that begin afterwards no longer see them. This is final, and compaction frees their space;
    with --trash, `filmroom trash restore` brings them back, until [deletion] trash_days are over. If one of the
    studies is on legal hold, or a named UID is not stored, nothing is deleted and the cause is named. Exit code 1:
    nothing was deleted.

    Where studies have keys of their own ([encryption] study_keys), the keys of a study of which nothing is left are
    destroyed too, and "shredded" names it: its copies in backups, replicas and old segments can no longer be read.
    --shred refuses to delete what would stay readable there. Backups made with their own copy of the keys keep it.
    """
    queries = query.named(keys, studies, series, instances)
    if not queries:
        raise click.UsageError("say what to delete: --study, --series or --instance UID, or KEY=VALUE")
    if not reason and not dry_run:
        raise click.UsageError("say why: --reason TEXT is recorded with the deletion")
    if must_shred and (into_trash or series or instances):
        raise click.UsageError("--shred is for whole studies, and for good: without --trash, --series and --instance")
    config = settings.load()
    if dry_run or not yes:
        facts = deletion.delete(config, queries, reason="", dry_run=True)
        if dry_run:
            _show(facts)
            return exit_codes.FAILED if facts["held"] or not facts["instances"] else exit_codes.OK
        may_delete = facts["instances"] and not facts["held"]
        if may_delete and not options.confirmed(_question(facts, deletion.patients_of(config, queries), into_trash)):
            output.complain("nothing was deleted")
            return exit_codes.FAILED
    facts = deletion.delete(
        config, queries, reason=reason or "", dry_run=False, into_trash=into_trash, must_shred=must_shred
    )
    _show(facts)
    return exit_codes.OK if facts["instances"] else exit_codes.FAILED


def _question(facts: Mapping[str, Any], patients: Sequence[str], into_trash: bool) -> str:
    who = ", ".join(patients[:PATIENTS_NAMED_MAX])
    more = len(patients) - PATIENTS_NAMED_MAX
    of = f" of {who}{f' and {more} more patients' if more > 0 else ''}" if who else ""
    counts = f"{facts['instances']} instances in {facts['studies']} studies ({output.bytes_text(facts['bytes'])})"
    return f"Move {counts}{of} into the trash?" if into_trash else f"Delete {counts}{of} for good?"


def _show(facts: dict[str, object]) -> None:
    if not facts["instances"]:
        output.complain("nothing matches")
    output.write_one(facts)
