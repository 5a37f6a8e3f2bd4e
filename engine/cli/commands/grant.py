"""`filmroom grant`: single studies and patients for users and roles; emergency accesses."""

from __future__ import annotations

from datetime import datetime

import click

from engine.accounts import grants, users
from engine.accounts.records import GrantRow
from engine.audit import Alert
from engine.cli import accounts, backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (
    whole("id"),
    whole("to"),
    wrapped("what"),
    wrapped("actions"),
    whole("until"),
    whole("by"),
    wrapped("reason"),
)


@options.group("grant")
def command() -> None:
    """Grant single studies or patients to users and roles; list them and emergency accesses."""


@command.command("add", short_help="Grant studies or a patient.")
@click.argument("to", metavar="USER")
@click.option("--role", "is_role", is_flag=True, help="USER is the name of a role.")
@accounts.studies_option
@accounts.patient_option
@accounts.actions_option("What may be done; may be repeated.", default=("query", "retrieve"))
@click.option("--until", type=click.DateTime(), help="When it ends.  [when it is revoked]")
@options.reason_option
@with_settings()
def add(
    to: str,
    is_role: bool,
    studies: tuple[str, ...],
    patient: str | None,
    actions: tuple[str, ...],
    until: datetime | None,
    reason: str,
    settings: Settings,
) -> None:
    """Grant these studies, or a patient, to USER."""
    config = settings.load()
    if is_role:
        accounts.check_roles(config, (to,))
    row = GrantRow(
        holder_kind="role" if is_role else "user",
        holder=to if is_role else users.key_of(to),
        actions=tuple(sorted(set(actions))),
        studies=studies,
        patient=accounts.patient_of(patient),
        until=None if until is None else until.astimezone().timestamp(),
        by=backend.operator().actor,
        reason=reason,
    )
    accounts.check_studies(config, studies)
    with accounts.opened(config) as database:
        identifier = grants.add(database, row)
        for study in studies or ("",):
            accounts.record(f"grant {identifier} to {to}", study=study, alert=Alert.OBJECT, reason=reason)
    output.write_one(accounts.grant_row(identifier, row), {"id": identifier})


@command.command("list", short_help="List the grants.")
@click.option("--emergency", is_flag=True, help="Only emergency accesses.")
@with_settings()
def list_(emergency: bool, settings: Settings) -> None:
    """List the grants and emergency accesses, the newest first."""
    with accounts.opened(settings.load()) as database:
        rows = [
            accounts.grant_row(identifier, row)
            for identifier, row in grants.listed(database)
            if row.is_break_glass or not emergency
        ]
    output.write_list(rows, COLUMNS, empty="nothing is granted")


@command.command("revoke", short_help="End a grant.")
@click.argument("identifier", metavar="ID")
@with_settings()
def revoke(identifier: str, settings: Settings) -> int:
    """End the grant or emergency access ID at once."""
    with accounts.opened(settings.load()) as database:
        row = grants.revoke(database, identifier)
        if row is not None:
            accounts.record(f"grant {identifier} to {row.holder} revoked", alert=Alert.OBJECT)
    if row is None:
        output.complain("there is no such grant")
        return exit_codes.FAILED
    output.write_one({"revoked": identifier}, {"revoked": identifier})
    return exit_codes.OK
