"""Principal: the requester of an operation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The kind of principal."""

    PEER = "peer"
    """An application entity. Its title is what it says it is."""
    OPERATOR = "operator"
    """A person at the command line of this machine, known by the user account."""
    HTTP = "http"
    """A client of the HTTP port. It is not authenticated: only its address is known."""
    JOB = "job"
    """A background job of the server."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The user, peer or job that requests an operation.

    Rules look the [[peer]] of an application entity up by `name` each time, so that a reload of the configuration holds
    for associations that are open.
    """

    kind: Kind
    name: str
    """A received AE title, a user name, or the name of a job; "" for an HTTP client that is not authenticated."""
    address: str = ""
    """The network address that it comes from."""
    certificate_names: frozenset[str] | None = None
    """What its verified certificate says of it, in the form of a [[peer]]'s `certificates`: empty if it showed none;
    None without TLS."""
    roles: frozenset[str] = frozenset()
    """Roles from authentication. No rule reads them yet."""

    @property
    def actor(self) -> str:
        """The name that is recorded beside its changes.

        `cli:name` for an operator, `http:address` for a client of the HTTP port, else the name.
        """
        if self.kind is Kind.HTTP:
            return f"http:{self.name or self.address}"
        return f"cli:{self.name}" if self.kind is Kind.OPERATOR else self.name
