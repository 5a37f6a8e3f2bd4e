"""`filmroom correct`: set attributes of a patient, a study or a series. Stored bytes never change."""

from __future__ import annotations

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, reason_option, with_settings


@options.command("correct")
@click.argument("keys", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.option("--patient", metavar="PATIENT", help="Patient ID, or ID^^^ISSUER: all studies, also future ones.")
@click.option("--study", metavar="UID", help="Study Instance UID; with --series, the study of that series.")
@click.option("--series", metavar="UID", help="Series Instance UID.")
@reason_option
@with_settings()
def command(
    keys: tuple[str, ...], patient: str | None, study: str | None, series: str | None, reason: str, settings: Settings
) -> None:
    """Set attributes of a patient, a study or a series, overriding those of its instances.

    KEY is a keyword or a tag; "KEY=" removes the value. Queries see the change at once. Stored data sets do not
    change. `filmroom corrections` lists corrections, `filmroom undo` reverses one.

    \b
      filmroom correct --patient 4711 PatientName='DOE^JANE' PatientBirthDate=19700101 --reason 'ADT was late'
      filmroom correct --study 1.2.3 AccessionNumber=A1 StudyDescription= --reason 'wrong order'
    """
    if (patient is None) == (study is None and series is None):
        raise click.UsageError("say what to correct: --patient, --study or --series")
    facts = corrections.correct(settings.load(), keys, patient=patient, study=study, series=series, reason=reason)
    output.write_one(facts)
