"""Grants: single studies or patients for a user or a role, for a time; emergency access is a grant to oneself."""

from __future__ import annotations

import secrets
from time import time
from typing import Final

from msgspec.structs import replace

from engine.access import Action, Grant, Holder, Patient
from engine.accounts import users
from engine.accounts.database import Database
from engine.accounts.records import GrantRow
from engine.errors import AccountsRefused

BREAK_GLASS_ACTIONS: Final = ("query", "retrieve")
BREAK_GLASS_S_MAX: Final = 8 * 3600.0
"""An emergency is over then, or somebody grants the patient."""
REASON_LENGTH_MIN: Final = 5
REASON_LENGTH_MAX: Final = 1000
KEPT_S: Final = 400 * 86_400.0
"""An emergency access stays listed for review so long after it has ended; other grants go when they have."""
GRANTS_MAX: Final = 100_000
BY_TITLE: Final = {action.title: action for action in Action}


def add(database: Database, row: GrantRow) -> str:
    """Adds a grant; returns its id. Raises AccountsError."""
    if not row.studies and row.patient is None:
        raise AccountsRefused("a grant names studies, or a patient")
    if unknown := sorted(set(row.actions) - set(BY_TITLE)):
        raise AccountsRefused(f"{unknown[0][:64]!r} is no action")
    identifier, now = secrets.token_bytes(12), time()
    with database.write() as txn:
        if row.holder_kind == Holder.USER.value:
            users.of(database, txn, row.holder)
        ended = [
            key
            for key, other in database.grants.rows(txn)
            if other.until is not None and other.until + (KEPT_S if other.is_break_glass else 0.0) < now
        ]
        for key in ended:
            database.grants.delete(txn, key)
        if database.grants.count(txn) >= GRANTS_MAX:
            raise AccountsRefused(f"there are {GRANTS_MAX} grants already")
        database.grants.put(txn, identifier, replace(row, created=now))
        database.note_rights(txn)
    return identifier.hex()


def check_emergency(reason: str, lasts_s: float) -> None:
    """Raises AccountsRefused for an emergency access without a reason, or that lasts too long."""
    if not REASON_LENGTH_MIN <= len(reason.strip()) <= REASON_LENGTH_MAX:
        raise AccountsRefused("an emergency access needs a reason, in some words")
    if not 0 < lasts_s <= BREAK_GLASS_S_MAX:
        raise AccountsRefused("an emergency access ends within eight hours")


def break_glass(
    database: Database,
    user: str,
    *,
    studies: tuple[str, ...],
    patient: tuple[str, str] | None,
    reason: str,
    lasts_s: float,
    by: str,
) -> str:
    """Gives a user a study or patient in an emergency; returns the grant's id. Raises AccountsRefused."""
    check_emergency(reason, lasts_s)
    row = GrantRow(
        holder_kind=Holder.USER.value,
        holder=users.key_of(user),
        actions=BREAK_GLASS_ACTIONS,
        studies=studies,
        patient=patient,
        until=time() + lasts_s,
        by=by,
        reason=reason.strip(),
        is_break_glass=True,
    )
    return add(database, row)


def listed(database: Database) -> list[tuple[str, GrantRow]]:
    """The ids and grants, the newest first."""
    with database.read() as txn:
        rows = [(key.hex(), row) for key, row in database.grants.rows(txn)]
    return sorted(rows, key=lambda pair: -pair[1].created)


def revoke(database: Database, identifier: str) -> GrantRow | None:
    """Ends a grant at once; returns what it was. An emergency access stays in the list."""
    key, now = _key(identifier), time()
    with database.write() as txn:
        row = database.grants.get(txn, key)
        if row is None:
            return None
        if row.is_break_glass:
            ended = now if row.until is None else min(now, row.until)
            database.grants.put(txn, key, replace(row, until=ended))
        else:
            database.grants.delete(txn, key)
        database.note_rights(txn)
    return row


def review(database: Database, identifier: str, by: str) -> bool:
    """Notes that somebody has looked at an emergency access; returns whether there is one."""
    key = _key(identifier)
    with database.write() as txn:
        row = database.grants.get(txn, key)
        if row is None or not row.is_break_glass:
            return False
        database.grants.put(txn, key, replace(row, reviewed_by=by, reviewed=time()))
    return True


def grant_of(identifier: str, row: GrantRow) -> Grant:
    """The row as `engine.access` knows it."""
    return Grant(
        id=identifier,
        holder_kind=Holder(row.holder_kind),
        holder=row.holder,
        actions=frozenset(BY_TITLE[name] for name in row.actions if name in BY_TITLE),
        study_instance_uids=frozenset(row.studies),
        patient=None if row.patient is None else Patient(*row.patient),
        until_s=row.until,
        by=row.by,
        reason=row.reason,
        is_break_glass=row.is_break_glass,
    )


def _key(identifier: str) -> bytes:
    try:
        return bytes.fromhex(identifier) if len(identifier) == 24 else b""
    except ValueError:
        return b""
