"""Examines who can come in over HTTP: whether a login is needed, administrators' second factors, identity providers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from engine.access import Action
from engine.access.networks import LOOPBACK, is_in_any
from engine.access.roles import roles_of
from engine.accounts import database, users
from engine.accounts.records import User
from engine.config import Config
from engine.doctor.finding import Finding, fault, good, warning
from engine.errors import AccountsError, IdentityRefused, IdentityUnavailable
from engine.identity.provider import Provider
from engine.identity.settings import Oidc

TIMEOUT_S = 5.0
"""For each answer of a provider: the page waits for the findings."""
NAMES_MAX = 10

_SUBJECT = "security"


def users_of(config: Config) -> list[User]:
    """The users of an archive that this process has not open. Raises AccountsError."""
    folder = config.data / database.FOLDER
    if not (folder / database.FILE).exists():
        return []
    accounts = database.Database(folder, read_only=True)
    try:
        return users.listed(accounts)
    finally:
        accounts.close()


def examine(config: Config, known_users: Sequence[User] | None) -> Iterator[Finding]:
    """`known_users`: of this archive; None: they are read from its folder."""
    if config.http.enabled:
        try:
            present = users_of(config) if known_users is None else known_users
        except AccountsError as error:
            yield fault("accounts", str(error), "restore DATA/accounts from a backup")
        else:
            yield from _login(config, present)
            yield from _administrators(config, present)
    for settings in config.oidc:
        yield _provider(settings)


def _login(config: Config, present: Sequence[User]) -> Iterator[Finding]:
    http = config.http
    is_needed = http.login == "required" or (http.login == "auto" and bool(present or config.oidc))
    foreign = [network for network in http.open_to if not is_in_any(network.partition("/")[0], LOOPBACK)]
    if is_needed:
        yield good(_SUBJECT, "HTTP clients must log in")
    elif foreign:
        advice = 'make an administrator, and set http.login = "required"'
        yield fault(_SUBJECT, f"HTTP clients of {', '.join(foreign)} may do everything without a login", advice)
    else:
        yield good(_SUBJECT, "HTTP clients need no login, and are this machine's only")


def _administrators(config: Config, present: Sequence[User]) -> Iterator[Finding]:
    known = roles_of(config.roles)
    administering = {name for name, role in known.items() if Action.ADMINISTER in role.actions}
    bare = [
        user.name
        for user in present
        if user.password
        and not user.is_disabled
        and not user.has_second_factor
        and not administering.isdisjoint(user.roles)
    ]
    if bare:
        names = ", ".join(bare[:NAMES_MAX]) + (f" and {len(bare) - NAMES_MAX} more" if len(bare) > NAMES_MAX else "")
        advice = "let each set up an authenticator app on the page, below the own name"
        yield warning(_SUBJECT, f"a password alone opens the account of an administrator: {names}", advice)


def _provider(settings: Oidc) -> Finding:
    subject = f"identity provider {settings.name}"
    if "account" in settings.audiences:
        advice = "give the client of the API an audience of its own at the provider"
        return warning(subject, 'audiences has "account", which the tokens of every client of Keycloak have', advice)
    try:
        count = asyncio.run(Provider(replace(settings, timeout_s=min(settings.timeout_s, TIMEOUT_S))).check())
    except (IdentityUnavailable, IdentityRefused) as error:
        return fault(subject, str(error), "nobody can log in with it, and its tokens end within the hour")
    if not count:
        return fault(subject, "none of its keys can be used", "see that it signs with RSA (2048) or elliptic keys")
    return good(subject, f"answers, with {count} keys")
