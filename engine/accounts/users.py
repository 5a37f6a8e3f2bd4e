"""Users: their names, roles and state."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from time import time
from typing import Final

from msgspec.structs import replace

from engine.accounts.database import Database, Transaction
from engine.accounts.records import User
from engine.errors import AccountsConflict, AccountsRefused, NoSuchAccount

NAME_LENGTH_MAX: Final = 128
KEY_BYTES_MAX: Final = 400
_NAME: Final = re.compile(r"[^\s/\\:,\"'<>]+")


def key_of(name: str) -> str:
    """The name by which rows refer to a user: names that differ in case or form only are one name."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name[: NAME_LENGTH_MAX + 1]).casefold())


def row_of(key: str) -> bytes:
    """The row of a user with this key. No user has a key that is too long for LMDB."""
    return key.encode("utf-8", "replace")[: KEY_BYTES_MAX + 1]


def check_name(name: str) -> str:
    """The name. Raises AccountsRefused for one that cannot be a user's."""
    if not (0 < len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name) and name.isprintable()) or (
        len(row_of(key_of(name))) > KEY_BYTES_MAX
    ):
        raise AccountsRefused(
            f"a user name has 1 to {NAME_LENGTH_MAX} letters, digits and signs, without spaces, quotes and / \\ : , < >"
        )
    return name


def add(database: Database, user: User) -> User:
    """Adds a user. Raises AccountsConflict if the name is taken."""
    check_name(user.name)
    user = replace(user, created=user.created or time(), roles=_sorted(user.roles))
    with database.write() as txn:
        if database.users.get(txn, row_of(key_of(user.name))) is not None:
            raise AccountsConflict(f"there is a user {user.name} already")
        database.users.put(txn, row_of(key_of(user.name)), user)
    return user


def get(database: Database, name: str) -> User:
    """A user. Raises NoSuchAccount."""
    with database.read() as txn:
        return of(database, txn, name)


def of(database: Database, txn: Transaction, name: str) -> User:
    """A user, within a transaction. Raises NoSuchAccount."""
    user = database.users.get(txn, row_of(key_of(name)))
    if user is None:
        raise NoSuchAccount(f"there is no user {name}")
    return user


def listed(database: Database) -> list[User]:
    """All users, by name."""
    with database.read() as txn:
        return [user for _, user in database.users.rows(txn)]


def change(database: Database, name: str, **fields: object) -> User:
    """Changes fields of a user. Raises NoSuchAccount."""
    if "roles" in fields:
        fields["roles"] = _sorted(fields["roles"])  # type: ignore[arg-type]
    with database.write() as txn:
        user = replace(of(database, txn, name), **fields)
        database.users.put(txn, row_of(key_of(name)), user)
        if user.is_disabled:
            end_sessions(database, txn, key_of(name))
    return user


def with_password(user: User, password_hash: str, now: float) -> User:
    """The user with a new password."""
    return replace(user, password=password_hash, password_set=now, must_change_password=False)


def set_password(database: Database, name: str, password_hash: str, *, kept_session: bytes = b"") -> User:
    """Sets a password, and ends all sessions but one. Raises NoSuchAccount."""
    with database.write() as txn:
        user = with_password(of(database, txn, name), password_hash, time())
        database.users.put(txn, row_of(key_of(name)), user)
        end_sessions(database, txn, key_of(name), kept=kept_session)
    return user


def remove(database: Database, name: str) -> None:
    """Removes a user with sessions, keys, links and grants: another one of that name later has none of them.

    What the user did and shared keeps the name. Raises NoSuchAccount.
    """
    with database.write() as txn:
        of(database, txn, name)
        database.users.delete(txn, row_of(key_of(name)))
        end_sessions(database, txn, key_of(name))
        own_keys = [digest for digest, key in database.keys.rows(txn) if key.user == key_of(name)]
        for digest in own_keys:
            database.keys.delete(txn, digest)
        own_links = [
            digest for digest, link in database.links.rows(txn) if link.user and key_of(link.user) == key_of(name)
        ]
        for digest in own_links:
            database.links.delete(txn, digest)
        own_grants = [
            identifier
            for identifier, grant in database.grants.rows(txn)
            if (grant.holder_kind, grant.holder) == ("user", key_of(name))
        ]
        for identifier in own_grants:
            grant = database.grants.get(txn, identifier)
            if grant is not None and grant.is_break_glass:  # stays for review
                ended = replace(grant, until=min(time(), grant.until or 0.0))
                database.grants.put(txn, identifier, ended)
            else:
                database.grants.delete(txn, identifier)
        database.note_rights(txn)


def end_sessions(database: Database, txn: Transaction, key: str, *, kept: bytes = b"") -> int:
    """Ends the sessions of a user, all but `kept`; returns how many there were."""
    ended = [
        digest for digest, session in database.sessions.rows(txn) if key and session.user == key and digest != kept
    ]
    for digest in ended:
        database.sessions.delete(txn, digest)
    return len(ended)


def _sorted(roles: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(roles)))
