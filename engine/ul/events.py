"""What an association tells its user: the indications and confirmations of PS3.8 chapter 7, as values.

P-DATA is not among them: messages go past the association, from `dimse.assembly` straight to their user.
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
    """The peer took the association that we requested."""

    ac: AssociateAC


@dataclass(frozen=True, slots=True)
class AssociateRejected:
    """The peer refused the association that we requested; the transport is to be closed."""

    rj: AssociateRJ


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """The peer wants an orderly end: answer with `respond_release` once our own answers are sent."""


@dataclass(frozen=True, slots=True)
class ReleaseConfirmed:
    """The peer agreed to the release that we requested."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """The association is over at once. Our own `abort` is not reported back."""

    source: int
    """0 service user, 2 service provider (PS3.8 9.3.8)."""
    reason: int
    by_peer: bool
    """False: we aborted it, because of what the peer sent."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The transport went away under a living association (A-P-ABORT)."""


Event: TypeAlias = (
    AssociateRequested
    | AssociateAccepted
    | AssociateRejected
    | ReleaseRequested
    | ReleaseConfirmed
    | Aborted
    | ConnectionClosed
)
