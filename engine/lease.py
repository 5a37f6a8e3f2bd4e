"""A lease: the right to do what only one process may do at a time, on one machine or on all nodes of an archive.

    free ──acquire──► held ──release, end of the process, or (where leases have terms) no renewal in time──► free
                       │
                       └─ check, renew ──► still held, or LeaseLost

A lease saves work; only a fence saves data. Whoever holds a lease may be stopped, and go on when another has it. So
what must not happen twice carries the epoch of its grant, and is refused by what stores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, eq=False)
class Grant:
    """A lease that was given to its holder once; another grant of the same name is another one."""

    name: str
    epoch: int
    """Higher for each holder of a lease that more than one node may have; 0 where only this machine knows it."""


class Leases(Protocol):
    """Gives leases by name. Thread-safe."""

    def acquire(self, name: str, term_s: float) -> Grant | None:
        """The lease, for a term; None if somebody has it. Raises StorageError, ClusterError."""

    def renew(self, grant: Grant, term_s: float) -> None:
        """Begins a new term. Raises LeaseLost, ClusterError."""

    def release(self, grant: Grant) -> None:
        """Gives the lease back; nothing if it is lost. Raises ClusterError."""

    def check(self, grant: Grant) -> None:
        """Raises LeaseLost unless the lease is still held; ClusterError."""
