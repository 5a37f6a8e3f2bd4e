"""The interface through which a front reaches other archives, whatever their protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.config import Peer


class Outbound(Protocol):
    """The connections of one process to other archives."""

    async def echo(self, peer: Peer) -> dict[str, object]:
        """Verifies that a peer answers, and returns how long that took. Raises AssociationFailed."""

    def stats(self) -> dict[str, object]:
        """Its state, as plain data."""

    def close(self) -> None:
        """Starts no further jobs and interrupts those in progress, which continue at the next start."""
