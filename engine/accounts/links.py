"""Links that work once: `/#/welcome/TOKEN` makes a user, or gives one a new password.

The first administrator of an archive comes by such a link. Only its digest is stored, and it ends after a day.
"""

from __future__ import annotations

from time import time
from typing import Final

from engine.accounts import tokens, users
from engine.accounts.database import Database
from engine.accounts.records import Link, User
from engine.errors import AccountsRefused, NoSuchAccount

LASTS_S: Final = 86_400.0
FIRST_ROLES: Final = ("admin", "full")
"""Of the first administrator: one person runs a small archive."""


def make(database: Database, *, user: str = "", roles: tuple[str, ...] = (), by: str = "") -> str:
    """A link for this user, or for a new one with these roles; returns its token. Raises NoSuchAccount."""
    token, now = tokens.new_token(tokens.LINK_BYTES), time()
    link = Link(user=user, roles=roles, until=now + LASTS_S, created_by=by)
    with database.write() as txn:
        if user:
            users.of(database, txn, user)
        old = [
            digest for digest, other in database.links.rows(txn) if other.until <= now or (user and other.user == user)
        ]
        for digest in old:
            database.links.delete(txn, digest)
        database.links.put(txn, tokens.digest_of(token), link)
    return token


def show(database: Database, token: str) -> Link:
    """The link of a token. Raises NoSuchAccount for one that was used, has ended, or never was."""
    with database.read() as txn:
        link = database.links.get(txn, tokens.digest_of(token))
    if link is None or link.until <= time():
        raise NoSuchAccount("this link was used, or has ended: ask for another one")
    return link


def follow(database: Database, token: str, name: str, password_hash: str) -> User:
    """Uses a link: makes its user, or sets the password. Raises AccountsError; the link then still works."""
    digest, now = tokens.digest_of(token), time()
    with database.write() as txn:
        link = database.links.get(txn, digest)
        if link is None or link.until <= now:
            raise NoSuchAccount("this link was used, or has ended: ask for another one")
        if link.user:
            user = users.with_password(users.of(database, txn, link.user), password_hash, now)
            users.end_sessions(database, txn, users.key_of(link.user))
        else:
            users.check_name(name)
            if database.users.get(txn, users.row_of(users.key_of(name))) is not None:
                raise AccountsRefused("this name is taken: choose another one")
            user = User(
                name=name,
                roles=tuple(sorted(set(link.roles))),
                password=password_hash,
                password_set=now,
                created=now,
                created_by=link.created_by,
            )
        database.users.put(txn, users.row_of(users.key_of(user.name)), user)
        database.links.delete(txn, digest)
    return user
