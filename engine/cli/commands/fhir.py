"""`filmroom fhir`: keep a FHIR server up to date."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli import exit_codes, fhir, options, output
from engine.cli.options import Settings, with_settings


@options.group("fhir")
def command() -> None:
    """Bring what is stored here to servers of FHIR."""


@command.command("push", short_help="Bring the studies of a FHIR server up to date.")
@click.argument("url", metavar="URL")
@click.option("--dicomweb", metavar="URL", default="", help="Our DICOMweb, as clients of that server reach it.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file with a bearer token for that server.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="Authorities that its certificate is of.")
@click.option("--all", "is_whole", is_flag=True, help="Push every study, not only what has changed.")
@click.option("--r5", is_flag=True, help="Write R5.  [R4]")
@with_settings()
def push(
    url: str,
    dicomweb: str,
    token_file: Path | None,
    ca_file: Path | None,
    is_whole: bool,
    r5: bool,
    settings: Settings,
) -> int:
    """Write one ImagingStudy for each study to the FHIR server at URL, as https://ehr.example/fhir.

    The first run pushes every study, later ones what has changed since; so run it as often as you like. A study is
    found there by its UID (conditional update), so that none is written twice, and a deleted one is deleted there too.
    Ends with 1 if a study failed; the next run tries it again.
    """
    facts = fhir.push(
        settings.load(), url, dicomweb=dicomweb, token_file=token_file, ca_file=ca_file, is_whole=is_whole, r5=r5
    )
    if output.as_json():
        output.write_one(facts)
    else:
        output.write_facts(output.in_words(facts), title="FHIR server")
    return exit_codes.FAILED if facts["failed"] else exit_codes.OK
