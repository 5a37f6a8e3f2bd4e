"""Sends what is stored to a peer, by C-STORE or by STOW-RS, whichever the peer has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from engine.exchange.dicomweb import connected
from engine.exchange.stow import StowDestination
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
    is_taken: Callable[[str], None] = lambda uid: None,
) -> None:
    """As `services.stored_scu.send_stored`. Raises AssociationFailed, ConfigError."""
    if not peer.url:
        await send_stored(resources, peer, selection, report, progress, retries=retries, is_taken=is_taken)
        return
    async with connected(peer, resources.config) as client:
        await send_stored(
            resources,
            peer,
            selection,
            report,
            progress,
            retries=retries,
            is_taken=is_taken,
            open_destination=partial(StowDestination, resources, client, peer),
        )
