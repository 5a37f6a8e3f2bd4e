"""Leases (`engine.lease`) of all nodes: rows in PostgreSQL, by its clock.

Epochs come from one sequence, so a grant has a higher one than any before it, of any name; a row may go when its lease
is released. A lease is not freed when the connection of its holder ends: a node that PostgreSQL cannot hear may still
be at work. Who ends in order releases it, and others wait out the term of one that died.
"""

from __future__ import annotations

import uuid

from engine.cluster.database import Database
from engine.errors import LeaseLost
from engine.lease import Grant

_OURS = "archive = %s and name = %s and epoch = %s"


class ClusterLeases:
    """The leases of an archive, for one holder. Thread-safe."""

    def __init__(self, database: Database, archive: uuid.UUID, holder: str) -> None:
        """`holder` is shown to people."""
        self._database = database
        self._archive = archive
        self._holder = holder

    def acquire(self, name: str, term_s: float) -> Grant | None:
        """The lease, for a term; None if somebody has it. Raises ClusterUnreachable; UnknownOutcome: it may be ours
        without our knowing its epoch, and is free after the term."""
        rows = self._database.change(
            "select filmroom.lease_acquire(%s, %s, %s, %s)", [self._archive, name, self._holder, float(term_s)]
        )
        epoch = rows[0][0]
        return None if epoch is None else Grant(name, epoch)

    def renew(self, grant: Grant, term_s: float) -> None:
        """Begins a new term, also of a lease that is over if nobody has taken it. Raises LeaseLost,
        ClusterUnreachable, UnknownOutcome (renew again)."""
        rows = self._database.change(
            f"update filmroom.leases set until = filmroom.term(%s) where {_OURS} returning 1",
            [float(term_s), self._archive, grant.name, grant.epoch],
        )
        if not rows:
            raise LeaseLost(f"the lease {grant.name} is lost: another node may have it")

    def release(self, grant: Grant) -> None:
        """Gives the lease back; nothing if it is lost. Raises ClusterUnreachable, UnknownOutcome (again is nothing)."""
        self._database.change(f"delete from filmroom.leases where {_OURS}", [self._archive, grant.name, grant.epoch])

    def check(self, grant: Grant) -> None:
        """Raises LeaseLost unless the lease is still held; ClusterUnreachable."""
        rows = self._database.ask(
            f"select 1 from filmroom.leases where {_OURS} and until > clock_timestamp()",
            [self._archive, grant.name, grant.epoch],
        )
        if not rows:
            raise LeaseLost(f"the lease {grant.name} is lost: its term is over, or it was released")
