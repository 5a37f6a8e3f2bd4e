"""`filmroom audit`: who did what with whose data: search, follow, export and verify the audit log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.audit.event import Kind
from engine.audit.search import Condition
from engine.audit.verify_process import facts_of
from engine.cli import audit, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped
from engine.time_prefix import time_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = (
    whole("time"),
    whole("kind"),
    cut("who"),
    cut("address"),
    cut("patient"),
    whole("study"),
    whole("count"),
    cut("peer"),
    wrapped("detail"),
)


def _time(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The beginning of a time in UTC, as records have it."""
    try:
        return time_prefix(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


_since_option = click.option(
    "--since", metavar="TIME", default="", callback=_time, help="Not before: 2026-01-05, or 2026-01-05T14:03 UTC."
)
_until_option = click.option("--until", metavar="TIME", default="", callback=_time, help="Before this time.")


@options.group("audit")
def command() -> None:
    """Search, follow, export and verify the audit log.

    It records who stored, saw, sent, changed and deleted what, and has patient data. Reading it is recorded too.
    """


@command.command("search", short_help="Find events.")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    metavar="KIND",
    help=f"Only these events: {', '.join(kind.value for kind in Kind)}.",
)
@click.option("--user", metavar="NAME", default="", help="A user, AE title or address.")
@click.option("--patient", metavar="ID", default="", help="A Patient ID.")
@click.option("--study", metavar="UID", default="", help="A Study Instance UID.")
@click.option("--text", default="", help="Text somewhere in the event.")
@click.option("--failures", is_flag=True, help="Only what did not succeed.")
@_since_option
@_until_option
@click.option("-n", "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N events.")
@with_settings()
def search(
    kind: str | None,
    user: str,
    patient: str,
    study: str,
    text: str,
    failures: bool,
    since: str,
    until: str,
    limit: int | None,
    settings: Settings,
) -> None:
    """Find events, the newest first.

    \b
      filmroom audit search --patient 4711 --since 2026-01-01
      filmroom audit search --kind deleted --json
    """
    condition = Condition(
        kind=kind or "",
        user=user,
        patient=patient,
        study=study,
        text=text,
        since=since,
        until=until,
        outcome="failure" if failures else "",
    )
    output.write_list(audit.search(settings.load(), condition, limit), COLUMNS, _row, "no event matches")


@command.command("tail", short_help="Show the latest events, and those that come.")
@click.option("-n", "--lines", "count", type=click.IntRange(min=1, max=10_000), default=20, help="So many at first.")
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come.")
@with_settings()
def tail(count: int, follow: bool, settings: Settings) -> None:
    """Show the latest events, the newest last. Every event is a line of JSON."""
    for event in audit.tail(settings.load(), count, follow=follow):
        output.write_json(event)


@command.command("export", short_help="Write all records with their hashes.")
@_since_option
@_until_option
@with_settings()
def export(since: str, until: str, settings: Settings) -> None:
    """Write all records to standard output, one a line: the chain, the hash, and the event in JSON.

    Each hash is the SHA-256 of the hash before (32 bytes) and the JSON, so that another program can verify it. A line
    {"before":N} has the hash before record N, where a chain begins or a time left records out; it is missing where
    old records were removed. The hash before the first record of a chain is SHA-256("filmroom audit chain NAME").

    Then come the checkpoints: "checkpoints", the Ed25519 signature in base64, and what it signs in JSON: how far each
    chain had come, with the hash of its last record. DATA/audit/verify-key.pem has the key.

    In a promoted replica, chains of its source are LINEAGE/CHAIN.
    """
    write = sys.stdout.buffer.write
    for line in audit.export(settings.load(), since, until):
        write(line + b"\n")
    sys.stdout.buffer.flush()


@command.command("verify", short_help="Look for changes in the audit log.")
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own copy of DATA/audit/verify-key.pem: a forger would replace the one beside the log.",
)
@click.option(
    "--anchor",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file in which the collector keeps our messages: shows a log that was rolled back.",
)
@with_settings()
def verify(key: Path | None, anchor: Path | None, settings: Settings) -> int:
    """Look for changed, missing, reordered and cut records, missing chains, forged checkpoints, and clocks set back.

    Exit code 6 when something is damaged. A clock that was set back is reported, and is no damage by itself.
    """
    report = audit.verify(settings.load(), key, anchor)
    facts = facts_of(report)
    problems = facts.pop("problems")
    shown = {name.replace("_", " "): value for name, value in facts.items()}
    if facts["problems_count"] == len(problems):
        del shown["problems count"]  # else the list was cut
    output.write_report(facts, shown, problems=problems)
    return exit_codes.OK if report.is_whole else exit_codes.TAMPERED


def _row(event: Mapping[str, Any]) -> Mapping[str, object]:
    """An event as a row for people."""
    who, patient = event["who"], event.get("patient", {})
    detail = " ".join(str(event[name]) for name in ("action", "query", "reason", "detail", "alert") if name in event)
    return {
        "time": event["t"][:19] + "Z",
        "kind": event["kind"] + (" failed" if event.get("outcome") else ""),
        "who": who.get("name", "") or who["kind"],
        "address": who.get("address", ""),
        "patient": " ".join(filter(None, (patient.get("id"), patient.get("name")))),
        "study": event.get("study", ""),
        "count": event.get("count", ""),
        "peer": event.get("peer", ""),
        "detail": detail,
    }
