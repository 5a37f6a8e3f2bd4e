"""`filmroom share`: links with which people outside see single studies or one patient."""

from __future__ import annotations

from time import time
from typing import TextIO

import click

from engine.accounts import passwords, shares
from engine.accounts.records import Share
from engine.audit import Alert
from engine.cli import accounts, backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped

COLUMNS = (
    whole("id"),
    wrapped("what"),
    cut("recipient"),
    whole("may"),
    whole("until"),
    whole("uses"),
    whole("by"),
)


@options.group("share")
def command() -> None:
    """Make, list and revoke links for people outside."""


@command.command("add", short_help="Make a link; print it once.")
@accounts.studies_option
@click.option("--series", metavar="UID", multiple=True, help="Series Instance UID: this series and nothing else.")
@accounts.patient_option
@click.option("--days", type=float, default=14.0, show_default=True, help="It ends then.")
@click.option("--uses", type=click.IntRange(0), default=0, help="How often it may be opened.  [no limit]")
@click.option("--password-file", type=click.File(encoding="utf-8"), help="Read a password from a file (-: stdin).")
@click.option("--download", is_flag=True, help="Instances may be taken away as files.")
@click.option("--for", "recipient", default="", metavar="TEXT", help="Whom it is for.")
@with_settings()
def add(
    studies: tuple[str, ...],
    series: tuple[str, ...],
    patient: str | None,
    days: float,
    uses: int,
    password_file: TextIO | None,
    download: bool,
    recipient: str,
    settings: Settings,
) -> None:
    """Make a link for these studies, for single series, or for a patient. It is printed once, and stored nowhere."""
    config = settings.load()
    of_series = accounts.studies_of_series(config, series) if series else ()
    share = Share(
        studies=studies,
        series=of_series,
        patient=accounts.patient_of(patient),
        may_download=download,
        password="" if password_file is None else passwords.hash_of(password_file.read().rstrip("\n")),
        until=accounts.end_of(None, days),
        uses_max=uses,
        created=time(),
        by=backend.operator().actor,
        recipient=recipient,
    )
    accounts.check_studies(config, studies)
    with accounts.opened(config) as database:
        identifier, token = shares.add(database, share)
        for study in dict.fromkeys([*studies, *(study for study, _ in of_series)]) or ("",):
            accounts.record(f"share {identifier} for {recipient or 'anybody'}", study=study, alert=Alert.OBJECT)
    link = f"{accounts.root_of(config)}/s/{token}"
    output.write_one({**accounts.share_row(identifier, share), "link": link}, {"id": identifier, "link": link})


@command.command("list", short_help="List the links.")
@with_settings()
def list_(settings: Settings) -> None:
    """List the links: for what and whom, until when, and how often they were opened."""
    with accounts.opened(settings.load()) as database:
        rows = [accounts.share_row(*row) for row in shares.listed(database)]
    output.write_list(rows, COLUMNS, empty="nothing is shared")


@command.command("revoke", short_help="Revoke a link.")
@click.argument("identifier", metavar="ID")
@with_settings()
def revoke(identifier: str, settings: Settings) -> int:
    """End the link ID at once, for those too who have opened it."""
    with accounts.opened(settings.load()) as database:
        share = shares.revoke(database, identifier, backend.operator().actor)
        if share is not None:
            accounts.record(f"share {identifier} revoked", alert=Alert.OBJECT)
    if share is None:
        output.complain("there is no such link")
        return exit_codes.FAILED
    output.write_one({"revoked": identifier}, {"revoked": identifier})
    return exit_codes.OK
