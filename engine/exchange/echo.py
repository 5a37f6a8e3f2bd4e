"""Whether another archive answers, by C-ECHO or by a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.net import client

if TYPE_CHECKING:
    from engine.config import Config, Peer


async def echo(peer: Peer, config: Config) -> dict[str, object]:
    """How long its parts took. Raises AssociationFailed."""
    if peer.url:
        # Only where it is used: aiohttp takes a tenth of a second.
        from engine.exchange import dicomweb

        return await dicomweb.echo(peer, config)
    took = await client.echo(peer, config)
    return {"association_ms": round(took.association_s * 1000, 3), "echo_ms": round(took.echo_s * 1000, 3)}
