"""The events of an association for its user: the indications and confirmations of PS3.8 chapter 7, as values.

P-DATA is not among them: messages bypass the association and go from `dimse.assembly` directly to their user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .pdu import AssociateAC, AssociateRJ, AssociateRQ


@dataclass(frozen=True, slots=True)
class AssociateRequested:
    """The peer proposes an association: answer with `accept` or `reject`."""

    rq: AssociateRQ


@dataclass(frozen=True, slots=True)
class AssociateAccepted:
    """The peer accepted the association that we requested."""

    ac: AssociateAC


@dataclass(frozen=True, slots=True)
class AssociateRejected:
    """The peer rejected the association that we requested; close the transport."""

    rj: AssociateRJ


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """The peer requests the release: answer with `respond_release` after our outstanding responses."""


@dataclass(frozen=True, slots=True)
class ReleaseConfirmed:
    """The peer confirmed the release that we requested."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """The association was aborted. Our own `abort` causes no event."""

    source: int
    """0 service user, 2 service provider (PS3.8 9.3.8)."""
    reason: int
    by_peer: bool
    """False: we aborted it, because of bytes from the peer."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The transport was lost during the association (A-P-ABORT)."""


Event: TypeAlias = (
    AssociateRequested
    | AssociateAccepted
    | AssociateRejected
    | ReleaseRequested
    | ReleaseConfirmed
    | Aborted
    | ConnectionClosed
)
