"""`filmroom user`: users who log in over HTTP: add, change, disable, remove; links and sessions."""

from __future__ import annotations

from typing import TextIO

import click

from engine.accounts import links, passwords, sessions, users
from engine.accounts.records import User
from engine.cli import accounts, backend, exit_codes, options, output
from engine.cli.options import Settings, with_settings
from engine.cli.output import cut, whole, wrapped
from engine.errors import AccountsRefused

COLUMNS = (
    whole("name"),
    cut("full_name", "full name"),
    wrapped("roles"),
    whole("state"),
    wrapped("second_factor", "second factor"),
    whole("source"),
    whole("created"),
)
SESSION_COLUMNS = (whole("id"), whole("user"), whole("method"), whole("address"), whole("used"), whole("until"))

_name = click.argument("name")
_password_file = click.option(
    "--password-file", type=click.File(encoding="utf-8"), help="Read the password from a file (-: standard input)."
)


@options.group("user")
def command() -> None:
    """Manage the users who log in over HTTP. From the first one on, everybody has to (http.login)."""


@command.command("add", short_help="Add a user; print the link for the password.")
@_name
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role; may be repeated.")
@click.option("--full-name", default="", metavar="TEXT")
@click.option("--referrer", "referrers", multiple=True, metavar="NAME", help="Referring Physician's Name of the user.")
@click.option("--department", "departments", multiple=True, metavar="NAME", help="Department of the user.")
@click.option(
    "--certificate", "certificates", multiple=True, metavar="NAME", help="san:NAME or sha256:FINGERPRINT of the user."
)
@_password_file
@with_settings()
def add(
    name: str,
    roles: tuple[str, ...],
    full_name: str,
    referrers: tuple[str, ...],
    departments: tuple[str, ...],
    certificates: tuple[str, ...],
    password_file: TextIO | None,
    settings: Settings,
) -> None:
    """Add the user NAME, and print a link with which the user chooses a password within a day.

    With --password-file there is no link, and the user must change that password first.
    """
    config = settings.load()
    attributes = {"referrer": referrers, "department": departments}
    hashed = ""
    if password_file is not None:
        hashed = _hash(password_file.read().rstrip("\n"), name, config.accounts.password_length_min)
    user = User(
        name=name,
        full_name=full_name,
        roles=accounts.check_roles(config, roles),
        attributes={key: values for key, values in attributes.items() if values},
        certificates=certificates,
        password=hashed,
        must_change_password=bool(hashed),
        created_by=backend.operator().actor,
    )
    with accounts.opened(config) as database:
        user = users.add(database, user)
        link = ""
        if not hashed:
            token = links.make(database, user=user.name, by=backend.operator().actor)
            link = f"{accounts.root_of(config)}/#/welcome/{token}"
        accounts.record(f"user {user.name}: added with roles {', '.join(user.roles) or 'none'}")
    output.write_one({**accounts.user_row(user), "link": link or None}, {"user": user.name, "link": link or "-"})


@command.command("list", short_help="List the users.")
@with_settings()
def list_(settings: Settings) -> None:
    """List the users: roles, state, second factors."""
    with accounts.opened(settings.load()) as database:
        rows = [accounts.user_row(user) for user in users.listed(database)]
    output.write_list(rows, COLUMNS, empty="there are no users: nobody has to log in")


@command.command("roles", short_help="Set the roles of a user.")
@_name
@click.argument("roles", nargs=-1)
@with_settings()
def roles_(name: str, roles: tuple[str, ...], settings: Settings) -> None:
    """Give the user NAME these roles and no others. It acts at the user's next request."""
    config = settings.load()
    with accounts.opened(config) as database:
        user = users.change(database, name, roles=accounts.check_roles(config, roles))
        accounts.record(f"user {user.name}: roles {', '.join(user.roles) or 'none'}")
    output.write_one(accounts.user_row(user), {"user": user.name, "roles": ", ".join(user.roles)})


@command.command("disable", short_help="Keep a user out.")
@_name
@with_settings()
def disable(name: str, settings: Settings) -> None:
    """Keep the user NAME out, and end all sessions at once."""
    _set(settings, name, is_disabled=True)


@command.command("enable", short_help="Let a disabled user in again.")
@_name
@with_settings()
def enable(name: str, settings: Settings) -> None:
    """Let the user NAME log in again."""
    _set(settings, name, is_disabled=False)


@command.command("password", short_help="Set the password of a user.")
@_name
@_password_file
@with_settings()
def password(name: str, password_file: TextIO | None, settings: Settings) -> None:
    """Set a password for the user NAME, who must change it at the next log-in, and end all sessions."""
    config = settings.load()
    if password_file is not None:
        text = password_file.read().rstrip("\n")
    else:
        text = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    hashed = _hash(text, name, config.accounts.password_length_min)
    with accounts.opened(config) as database:
        users.set_password(database, name, hashed)
        users.change(database, name, must_change_password=True)
        accounts.record(f"user {name}: password set")
    output.write_one({"user": name}, {"user": name})


@command.command("reset-second-factor", short_help="Switch the second factor of a user off.")
@_name
@with_settings()
def reset_second_factor(name: str, settings: Settings) -> None:
    """Switch the codes of the user NAME off, and remove all passkeys: the device is lost."""
    with accounts.opened(settings.load()) as database:
        users.change(database, name, totp_secret="", totp_used=0, recovery_codes=(), passkeys=())
        accounts.record(f"user {name}: second factor switched off")
    output.write_one({"user": name}, {"user": name})


@command.command("link", short_help="Make a link for a new password, or for the first administrator.")
@click.argument("name", required=False)
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="Roles of a user who does not exist yet.")
@with_settings()
def link(name: str | None, roles: tuple[str, ...], settings: Settings) -> None:
    """Print a link with which the user NAME chooses a new password. It works once, within a day.

    Without NAME, whoever follows it makes a user with these roles, or an administrator who may do everything.
    """
    config = settings.load()
    chosen = () if name else accounts.check_roles(config, roles) or links.FIRST_ROLES
    with accounts.opened(config) as database:
        token = links.make(database, user=name or "", roles=chosen, by=backend.operator().actor)
        accounts.record(f"a link for {f'user {name}' if name else 'a new user'} was made")
    address = f"{accounts.root_of(config)}/#/welcome/{token}"
    output.write_one({"link": address}, {"link": address})


@command.command("remove", short_help="Remove a user.")
@_name
@with_settings()
def remove(name: str, settings: Settings) -> None:
    """Remove the user NAME with sessions, keys and grants. What the user did stays under that name."""
    with accounts.opened(settings.load()) as database:
        users.remove(database, name)
        accounts.record(f"user {name}: removed")
    output.write_one({"removed": name}, {"removed": name})


@command.command("sessions", short_help="List the sessions.")
@click.argument("name", required=False)
@with_settings()
def sessions_(name: str | None, settings: Settings) -> None:
    """List the sessions of the user NAME, or of all."""
    with accounts.opened(settings.load()) as database:
        rows = [accounts.session_row(*row) for row in sessions.listed(database, name)]
    output.write_list(rows, SESSION_COLUMNS, empty="there are no sessions")


@command.command("revoke", short_help="End sessions.")
@_name
@click.option("--session", "identifier", metavar="ID", help="Only this session.")
@with_settings()
def revoke(name: str, identifier: str | None, settings: Settings) -> int:
    """End all sessions of the user NAME at once, or one of them."""
    with accounts.opened(settings.load()) as database:
        if identifier is not None:
            ended = int(sessions.revoke(database, identifier, name))
        else:
            ended = sessions.revoke_all(database, name)
        accounts.record(f"user {name}: {ended} sessions ended")
    output.write_one({"ended": ended}, {"ended": ended})
    return exit_codes.OK if ended else exit_codes.FAILED


def _set(settings: Settings, name: str, *, is_disabled: bool) -> None:
    with accounts.opened(settings.load()) as database:
        user = users.change(database, name, is_disabled=is_disabled)
        accounts.record(f"user {name}: {'disabled' if is_disabled else 'enabled'}")
    output.write_one(accounts.user_row(user), {"user": user.name, "state": accounts.user_row(user)["state"]})


def _hash(text: str, name: str, length_min: int) -> str:
    if not text:
        raise AccountsRefused("the password is empty")
    passwords.check_rules(text, name, length_min)
    return passwords.hash_of(text)
