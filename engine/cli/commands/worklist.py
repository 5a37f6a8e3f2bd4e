"""`filmroom worklist`: what modalities have to do; add, import and cancel entries; why a list is empty."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from engine.cli import exit_codes, options, output, worklist
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped
from engine.dicom import keywords, tags

COLUMNS = (
    whole("ScheduledProcedureStepStartDate", "date"),
    whole("ScheduledProcedureStepStartTime", "time"),
    whole("ScheduledStationAETitle", "station"),
    whole("Modality", "modality"),
    wrapped("PatientName", "patient"),
    whole("PatientID", "id"),
    whole("AccessionNumber", "accession"),
    wrapped("RequestedProcedureDescription", "procedure"),
    whole("ScheduledProcedureStepStatus", "status"),
)
KEY_COLUMNS = (
    whole("keyword", "key"),
    wrapped("value"),
    whole("entries", "alone"),
    whole("without_it", "without it"),
    wrapped("others_have", "these have"),
)


_STATUSES = {"A7": "there were more entries than the limit", "A9": "the query was wrong, see the log", "FE": "canceled"}
"""The beginning of a status of its last answer (PS3.4 K.4.1.1.4)."""


@options.group("worklist")
def command() -> None:
    """Show and change the modality worklist."""


def pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """The keywords and values of KEYWORD=VALUE. Raises click.UsageError."""
    found = []
    for text in texts:
        name, mark, value = text.partition("=")
        tag = keywords.tag_of(name)
        if not mark or tag is None:
            nearest = keywords.nearest(name)
            hint = f"; did you mean {nearest}?" if nearest and mark else ""
            raise click.UsageError(f"{text!r} is no KEYWORD=VALUE{hint}")
        found.append((tags.keyword_of(tag), value))
    return found


@command.command("list", short_help="List entries.")
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--all", "all_states", is_flag=True, help="Also steps that are hidden: started, completed, canceled.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, metavar="N", help="At most N."
)
@with_settings()
def list_(keys: tuple[str, ...], all_states: bool, limit: int, settings: Settings) -> None:
    """List the scheduled steps that match KEY=VALUE, as a modality would ask for them.

    For example ScheduledStationAETitle=CT1 ScheduledProcedureStepStartDate=20261201-
    """
    found = worklist.entries(settings.load(), pairs(keys), all_states=all_states, limit=limit)
    output.write_list(found, COLUMNS, empty="nothing is scheduled")


@command.command("add", short_help="Add or change an entry.")
@click.argument("values", metavar="KEYWORD=VALUE...", nargs=-1, required=True)
@with_settings()
def add(values: tuple[str, ...], settings: Settings) -> None:
    """Add an entry, or change the one with this accession number and step.

    It needs a PatientID. Without a date it is for now; without AccessionNumber and StudyInstanceUID it gets them.
    For example PatientID=4711 PatientName=Doe^Jane Modality=CT ScheduledStationAETitle=CT1
    """
    facts = worklist.add(settings.load(), dict(pairs(values)))
    for warning in facts["warnings"]:
        output.complain(warning)
    output.write_one(facts, {name: value for name, value in facts.items() if value})


@command.command("import", short_help="Add entries from files.")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@with_settings()
def import_(paths: tuple[Path, ...], settings: Settings) -> int:
    """Add the entries of files as DCMTK's dump2dcm makes them for wlmscpfs: one data set each, in folders *.wl."""
    files = worklist.files_below(paths)
    failed = 0
    warnings: Counter[str] = Counter()
    for path, why, remarks in worklist.import_files(settings.load(), files):
        warnings.update(remarks)
        if why:
            failed += 1
            output.complain(f"{path}: {why}")
    for warning, count in warnings.items():
        output.complain(warning if count == 1 else f"{warning} ({count} times)")
    output.write_one({"files": len(files), "failed": failed})
    return exit_codes.FAILED if failed or not files else exit_codes.OK


@command.command("cancel", short_help="Cancel an order, or one of its steps.")
@click.argument("accession", metavar="ACCESSION")
@click.option("--step", "step_id", metavar="ID", default="", help="Only this scheduled procedure step.")
@with_settings()
def cancel(accession: str, step_id: str, settings: Settings) -> None:
    """Cancel the order with this accession number: its steps are on no worklist any more."""
    output.write_one(worklist.cancel(settings.load(), accession, step_id))


@command.command("why", short_help="Explain why a list is empty.")
@click.argument("aet", metavar="AET")
@with_settings()
def why(aet: str, settings: Settings) -> None:
    """Explain what a station's last query found, key by key: what each key leaves alone, and what is without it."""
    if not 0 < len(aet.encode()) <= 16:
        raise click.UsageError("an AE title has 1 to 16 characters")
    facts = worklist.why(settings.load(), aet)
    if output.as_json():
        output.write_json(facts)
        return
    keys = facts.pop("keys")
    facts["asked"] = facts["asked"] or f"never: this is what a query for the station {aet} would find"
    facts["status"] = f"{facts['status']} {_STATUSES.get(facts['status'][:2], '')}".strip()
    facts["hidden"] = [f"{count} {state}" for state, count in facts["hidden"].items()]
    output.write_facts(output.in_words(facts))
    output.write_line("")
    for key in keys:
        key["others_have"] = [value or "(none)" for value in key["others_have"]]
    output.write_table(KEY_COLUMNS, [[key[column.name] for column in KEY_COLUMNS] for key in keys])
