"""`filmroom correct`: sets attributes of a patient, a study or a series. No stored byte changes."""

from __future__ import annotations

import click

from engine.cli import corrections, options, output
from engine.cli.options import Settings, reason_option, with_settings


@options.command("correct")
@click.argument("keys", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.option("--patient", metavar="PATIENT", help="Patient ID, or ID^^^ISSUER: all studies, later ones too.")
@click.option("--study", metavar="UID", help="Study Instance UID; with --series, the study that it is in.")
@click.option("--series", metavar="UID", help="Series Instance UID.")
@reason_option
@with_settings()
def command(
    keys: tuple[str, ...], patient: str | None, study: str | None, series: str | None, reason: str, settings: Settings
) -> None:
    """Set attributes of a patient, a study or a series, whatever its instances say.

    KEY is a keyword or a tag; "KEY=" takes the value away. Queries see it at once; the stored data sets stay as they
    came. `filmroom corrections` lists what was set, `filmroom undo` takes it back.

    \b
      filmroom correct --patient 4711 PatientName='DOE^JANE' PatientBirthDate=19700101 --reason 'ADT was late'
      filmroom correct --study 1.2.3 AccessionNumber=A1 StudyDescription= --reason 'wrong order'
    """
    if (patient is None) == (study is None and series is None):
        raise click.UsageError("say of what: --patient, or --study, or --series")
    done = corrections.correct(settings.load(), keys, patient=patient, study=study, series=series, reason=reason)
    output.write_one(done)
