"""Verifies another archive, by C-ECHO or by a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.net import client

if TYPE_CHECKING:
    from engine.config import Config, Peer


async def echo(peer: Peer, config: Config) -> dict[str, object]:
    """The durations of its parts. Raises AssociationFailed."""
    if peer.url:
        # Import only where needed: aiohttp takes a tenth of a second.
        from engine.exchange import dicomweb

        return await dicomweb.echo(peer, config)
    times = await client.echo(peer, config)
    return {"association_ms": round(times.association_s * 1000, 3), "echo_ms": round(times.echo_s * 1000, 3)}
