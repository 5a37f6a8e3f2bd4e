"""What a front asks of whoever reaches other archives: it knows neither how nor by which protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.config import Peer


class Outbound(Protocol):
    """Other archives, as one process reaches them."""

    async def echo(self, peer: Peer) -> dict[str, object]:
        """Asks whether a peer answers; how long that took. Raises AssociationFailed."""

    def stats(self) -> dict[str, object]:
        """What it does, as plain data."""

    def close(self) -> None:
        """Begins nothing more, and ends what is under way: it goes on at the next start."""
