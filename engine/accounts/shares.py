"""Shares: a link with which somebody outside sees a study, a series or a patient, for a time.

    /s/TOKEN    the link; whoever has it, and its password if it has one, gets a session with the rights of the share

A revoked share ends its sessions at once, and stays in the list.
"""

from __future__ import annotations

from time import time
from typing import Final

from msgspec.structs import replace

from engine.access import Action, Grant, Holder, Patient
from engine.accounts import sessions, tokens
from engine.accounts.database import Database
from engine.accounts.records import Session, Share
from engine.errors import AccountsRefused, NoSuchAccount

LASTS_S_MAX: Final = 366 * 86_400.0
KEPT_S: Final = 400 * 86_400.0
"""A share stays listed so long after its end."""
SHARES_MAX: Final = 100_000
ACTIONS: Final = frozenset({Action.QUERY, Action.RETRIEVE})


def add(database: Database, share: Share) -> tuple[str, str]:
    """Makes a share; returns its id and its token, which is stored nowhere. Raises AccountsRefused."""
    now = time()
    if not (share.studies or share.series) and share.patient is None:
        raise AccountsRefused("a share names a study, a series, or a patient")
    if share.series and (share.studies or share.patient is not None):
        raise AccountsRefused("a share of series has no studies and no patient beside them")
    if not now < share.until <= now + LASTS_S_MAX:
        raise AccountsRefused("a share ends in the future, and within a year")
    token = tokens.new_token(tokens.LINK_BYTES)
    digest = tokens.digest_of(token)
    with database.write() as txn:
        ended = [key for key, other in database.shares.rows(txn) if other.until + KEPT_S < now]
        for key in ended:
            database.shares.delete(txn, key)
        if database.shares.count(txn) >= SHARES_MAX:
            raise AccountsRefused(f"there are {SHARES_MAX} shares already")
        database.shares.put(txn, digest, share)
        database.note_rights(txn)
    return tokens.id_of(digest), token


def is_open(share: Share, now: float) -> bool:
    """Whether it has not ended. How often it was opened does not matter to who is inside."""
    return not share.revoked and now < share.until


def show(database: Database, token: str) -> Share:
    """The share of a token. Raises NoSuchAccount for one that has ended, was revoked or used up, or never was."""
    with database.read() as txn:
        share = database.shares.get(txn, tokens.digest_of(token))
    if share is None or not is_open(share, time()) or (share.uses_max and share.uses >= share.uses_max):
        raise NoSuchAccount("this link has ended, or never was")
    return share


def open_session(database: Database, token: str, *, lasts_s: float, address: str, agent: str) -> str:
    """Counts a use, and begins a session; returns its token. Raises NoSuchAccount."""
    digest, now = tokens.digest_of(token), time()
    session_token = tokens.new_token(tokens.SESSION_BYTES)
    with database.write() as txn:
        share = database.shares.get(txn, digest)
        if share is None or not is_open(share, now) or (share.uses_max and share.uses >= share.uses_max):
            raise NoSuchAccount("this link has ended, or never was")
        sessions.remove_ended(database, txn, now)
        session = Session(
            user="",
            method="share",
            created=now,
            used=now,
            until=min(now + lasts_s, share.until),
            share=tokens.id_of(digest),
            address=address,
            agent=agent[: sessions.AGENT_LENGTH_MAX],
        )
        database.shares.put(txn, digest, replace(share, uses=share.uses + 1, used=now))
        database.sessions.put(txn, tokens.digest_of(session_token), session)
    return session_token


def listed(database: Database, owner: str | None = None) -> list[tuple[str, Share]]:
    """The ids and shares of the user with this key, or of all, the newest first."""
    with database.read() as txn:
        rows = [
            (tokens.id_of(digest), share) for digest, share in database.shares.rows(txn) if owner in (None, share.owner)
        ]
    return sorted(rows, key=lambda pair: -pair[1].created)


def revoke(database: Database, identifier: str, by: str, owner: str | None = None) -> Share | None:
    """Ends the share with this id, if this user made it, and all its sessions; returns it. None: there is none."""
    prefix = tokens.prefix_of(identifier)
    with database.write() as txn:
        row = None if prefix is None else database.shares.find(txn, prefix)
        if row is None or (owner is not None and row[1].owner != owner):
            return None
        digest, share = row
        if not share.revoked:
            share = replace(share, revoked=time(), revoked_by=by)
            database.shares.put(txn, digest, share)
            database.note_rights(txn)
        visits = [key for key, session in database.sessions.rows(txn) if session.share == identifier]
        for key in visits:
            database.sessions.delete(txn, key)
    return share


def grant_of(identifier: str, share: Share) -> Grant:
    """What it lets its visitors see."""
    return Grant(
        id=identifier,
        holder_kind=Holder.SHARE,
        holder=identifier,
        actions=ACTIONS,
        study_instance_uids=frozenset(share.studies) | {study for study, _ in share.series},
        series=frozenset(share.series),
        patient=None if share.patient is None else Patient(*share.patient),
        until_s=share.until,
        by=share.by,
    )
