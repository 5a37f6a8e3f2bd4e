"""`filmroom key`: API keys, with which programs act for a user over HTTP."""

from __future__ import annotations

from time import time

import click

from engine.accounts import keys, users
from engine.accounts.records import Key
from engine.cli import accounts, backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import whole, wrapped

COLUMNS = (whole("id"), whole("user"), wrapped("name"), wrapped("roles"), wrapped("actions"), whole("until"))


@options.group("key")
def command() -> None:
    """Make, list and revoke API keys."""


@command.command("add", short_help="Make a key; print it once.")
@click.argument("user")
@click.argument("name")
@click.option("--days", type=float, default=365.0, show_default=True, help="It ends then.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="Only this role of the user; may be repeated.")
@accounts.actions_option("Only this action; may be repeated.")
@with_settings()
def add(
    user: str, name: str, days: float, roles: tuple[str, ...], actions: tuple[str, ...], settings: Settings
) -> None:
    """Make a key called NAME with at most the rights of USER. It is printed once, and stored nowhere."""
    config = settings.load()
    key = Key(
        user=users.key_of(user),
        name=name,
        until=accounts.end_of(None, days),
        created=time(),
        created_by=backend.operator().actor,
        roles=accounts.check_roles(config, roles),
        actions=actions,
    )
    with accounts.opened(config) as database:
        identifier, token = keys.add(database, key, user)
        accounts.record(f"user {user}: API key {identifier} made")
    output.write_one({**accounts.key_row(identifier, key), "key": token}, {"id": identifier, "key": token})


@command.command("list", short_help="List the keys.")
@click.argument("user", required=False)
@with_settings()
def list_(user: str | None, settings: Settings) -> None:
    """List the keys of USER, or of all."""
    with accounts.opened(settings.load()) as database:
        rows = [accounts.key_row(*row) for row in keys.listed(database, user)]
    output.write_list(rows, COLUMNS, empty="there are no keys")


@command.command("revoke", short_help="Revoke a key.")
@click.argument("identifier", metavar="ID")
@with_settings()
def revoke(identifier: str, settings: Settings) -> int:
    """End the key ID at once."""
    with accounts.opened(settings.load()) as database:
        is_revoked = keys.revoke(database, identifier)
        if is_revoked:
            accounts.record(f"API key {identifier} revoked")
    if not is_revoked:
        output.complain("there is no such key")
        return exit_codes.FAILED
    output.write_one({"revoked": identifier}, {"revoked": identifier})
    return exit_codes.OK
