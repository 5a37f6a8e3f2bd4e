"""Principal: the requester of an operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """The kind of principal."""

    PEER = "peer"
    """An application entity. Its title is what it says it is."""
    OPERATOR = "operator"
    """A person at the command line of this machine, known by the user account."""
    HTTP = "http"
    """A client of the HTTP port: a user, a key or a share, or anybody where no login is needed."""
    JOB = "job"
    """A background job of the server."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The user, peer or job that requests an operation.

    It says who somebody is, not what they may do: rules look the [[peer]] of an application entity, and the roles and
    grants of a user, up by name each time, so that a change holds for open associations and sessions too.
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
    """Roles that the credential itself states, as a token of an identity provider does. A `Directory` decides whether
    they count."""
    session: str = ""
    """The id of the session, API key, token or share that proves it; "": it has shown none."""
    share: str = ""
    """The id of the share that it uses; "": it is no share."""
    user: str = ""
    """The user that the user identity of an association proves. A user of the HTTP port is its `name`."""
    claimed_user: str = ""
    """The user that a trusted peer claims, for the audit alone: it proves nothing and grants nothing."""
    until_s: float | None = None
    """When its credential ends by itself, in Unix seconds; None: a `Directory` knows."""
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """What the credential states of it beside roles: referrer names, the patient of a SMART launch."""

    @property
    def actor(self) -> str:
        """The name that is recorded beside its changes.

        `cli:name` for an operator, `http:address` for a client of the HTTP port, else the name.
        """
        if self.kind is Kind.HTTP:
            return f"http:{self.name or self.address}"
        return f"cli:{self.name}" if self.kind is Kind.OPERATOR else self.name
