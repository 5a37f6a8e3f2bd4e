"""Sessions: begun by a log-in, found by their token, ended by the user, an administrator, or time.

A session that nobody uses for `idle_s` has ended. The time of its last use is written once in TOUCH_S, so that requests
write nothing.
"""

from __future__ import annotations

from time import time
from typing import Final

from msgspec.structs import replace

from engine.accounts import tokens, users
from engine.accounts.database import Database, Transaction
from engine.accounts.records import Session, User

TOUCH_S: Final = 60.0
PER_USER_MAX: Final = 50
"""Sessions of one user; the one that was used least recently ends when there is one more."""
AGENT_LENGTH_MAX: Final = 200


def begin(
    database: Database,
    user: User,
    *,
    method: str,
    lasts_s: float,
    address: str = "",
    agent: str = "",
    provider: str = "",
    provider_session: str = "",
    id_token: str = "",
) -> str:
    """Begins a session; returns its token, which is stored nowhere. Raises NoSuchAccount."""
    token, now = tokens.new_token(tokens.SESSION_BYTES), time()
    session = Session(
        user=users.key_of(user.name),
        method=method,
        created=now,
        used=now,
        until=now + lasts_s,
        address=address,
        agent=agent[:AGENT_LENGTH_MAX],
        provider=provider,
        provider_session=provider_session,
        id_token=id_token,
    )
    with database.write() as txn:
        users.of(database, txn, user.name)
        remove_ended(database, txn, now)
        rows = database.sessions.rows(txn)
        own = [(other.used, digest) for digest, other in rows if other.user == session.user]
        for _, digest in sorted(own)[: max(0, len(own) + 1 - PER_USER_MAX)]:
            database.sessions.delete(txn, digest)
        database.sessions.put(txn, tokens.digest_of(token), session)
    return token


def remove_ended(database: Database, txn: Transaction, now: float) -> None:
    """Removes the sessions that have ended by themselves."""
    for digest in [digest for digest, session in database.sessions.rows(txn) if session.until <= now]:
        database.sessions.delete(txn, digest)


def touch(database: Database, digest: bytes, now: float) -> None:
    """Records that a session was used."""
    with database.write() as txn:
        session = database.sessions.get(txn, digest)
        if session is not None:
            database.sessions.put(txn, digest, replace(session, used=max(session.used, now)))


def end(database: Database, digest: bytes) -> bool:
    """Ends a session; returns whether there was one."""
    with database.write() as txn:
        return database.sessions.delete(txn, digest)


def revoke(database: Database, identifier: str, user: str | None = None) -> bool:
    """Ends the session with this id, if it is one of this user; returns whether there was one."""
    prefix = tokens.prefix_of(identifier)
    if prefix is None:
        return False
    with database.write() as txn:
        for digest, session in database.sessions.rows(txn, prefix):
            if user is None or session.user == users.key_of(user):
                return database.sessions.delete(txn, digest)
    return False


def revoke_all(database: Database, user: str) -> int:
    """Ends all sessions of a user; returns how many there were."""
    with database.write() as txn:
        return users.end_sessions(database, txn, users.key_of(user))


def revoke_provider(database: Database, provider: str, provider_session: str) -> int:
    """Ends what began at a provider's session; returns how many there were."""
    with database.write() as txn:
        ended = [
            digest
            for digest, session in database.sessions.rows(txn)
            if (session.provider, session.provider_session) == (provider, provider_session)
        ]
        for digest in ended:
            database.sessions.delete(txn, digest)
    return len(ended)


def listed(database: Database, user: str | None = None) -> list[tuple[str, Session]]:
    """The ids and sessions of a user, or of all."""
    key = None if user is None else users.key_of(user)
    now = time()
    with database.read() as txn:
        return [
            (tokens.id_of(digest), session)
            for digest, session in database.sessions.rows(txn)
            if session.until > now and key in (None, session.user)
        ]
