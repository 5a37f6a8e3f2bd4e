"""Sends stored instances to a peer, by STOW-RS if it has a url, else by C-STORE."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from engine.exchange.dicomweb import connected
from engine.exchange.stow import StowDestination
from engine.services.coercion import Coercer
from engine.services.stored_scu import StoredReport, send_stored

if TYPE_CHECKING:
    from engine.archive.selection import Selection
    from engine.config import Peer
    from engine.services.destination import Resources

Progress = Callable[[str, int, int], None]


async def send(
    resources: Resources,
    peer: Peer,
    selection: Selection,
    report: StoredReport,
    progress: Progress,
    *,
    retries: int = 1,
    on_sent: Callable[[str], None] = lambda uid: None,
) -> None:
    """Like `services.stored_scu.send_stored`. Raises AssociationFailed, ConfigError."""
    if not peer.url:
        await send_stored(resources, peer, selection, report, progress, retries=retries, on_sent=on_sent)
        return
    coercer = Coercer(resources.archive, resources.config, peer.aet, await resources.supplies(peer.aet))
    async with connected(peer, resources.config) as client:
        await send_stored(
            resources,
            peer,
            selection,
            report,
            progress,
            retries=retries,
            on_sent=on_sent,
            open_destination=partial(StowDestination, resources, client, coercer),
        )
