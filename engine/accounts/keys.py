"""API keys: for programs that act for a user, with at most that user's rights.

fr_…    the beginning of every key, by which people and scanners of secrets recognize one
"""

from __future__ import annotations

from time import time
from typing import Final

from engine.accounts import tokens, users
from engine.accounts.database import Database
from engine.accounts.records import Key
from engine.errors import AccountsRefused

PREFIX: Final = "fr_"
TOKEN_BYTES: Final = 32
PER_USER_MAX: Final = 100
NAME_LENGTH_MAX: Final = 100
LASTS_S_MAX: Final = 5 * 366 * 86_400


def add(database: Database, key: Key, user: str) -> tuple[str, str]:
    """Makes a key for a user; returns its id and the key itself, which is stored nowhere. Raises AccountsError."""
    if not (0 < len(key.name) <= NAME_LENGTH_MAX and key.name.isprintable()):
        raise AccountsRefused(f"a key has a name of 1 to {NAME_LENGTH_MAX} printable characters: what it is for")
    if not time() < key.until <= time() + LASTS_S_MAX:
        raise AccountsRefused("a key ends in the future, and within five years")
    token = PREFIX + tokens.new_token(TOKEN_BYTES)
    with database.write() as txn:
        others = sorted(set(key.roles) - set(users.of(database, txn, user).roles))
        if others:
            raise AccountsRefused(f"{user} does not have the role {others[0]}: a key has rights of its user only")
        own = sum(1 for _, other in database.keys.rows(txn) if other.user == key.user)
        if own >= PER_USER_MAX:
            raise AccountsRefused(f"this user has {PER_USER_MAX} keys already")
        database.keys.put(txn, tokens.digest_of(token), key)
    return tokens.id_of(tokens.digest_of(token)), token


def listed(database: Database, user: str | None = None) -> list[tuple[str, Key]]:
    """The ids and keys of a user, or of all."""
    key = None if user is None else users.key_of(user)
    with database.read() as txn:
        return [(tokens.id_of(digest), row) for digest, row in database.keys.rows(txn) if key in (None, row.user)]


def revoke(database: Database, identifier: str, user: str | None = None) -> bool:
    """Removes the key with this id, if it is one of this user; returns whether there was one."""
    prefix = tokens.prefix_of(identifier)
    if prefix is None:
        return False
    with database.write() as txn:
        row = database.keys.find(txn, prefix)
        if row is None or (user is not None and row[1].user != users.key_of(user)):
            return False
        return database.keys.delete(txn, row[0])
