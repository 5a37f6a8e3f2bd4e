"""Changes the managed peers while the server runs: a client of a front asks its worker, and that asks here.

    title, table ──► checked like a [[peer]] of the file ──► DATA/peers.toml ──► configuration of all processes
                     wrong: "invalid"; in the user's file: "conflict"; nothing to remove: "absent"

One change at a time. The answer comes when every worker has the new configuration, or is late. Associations go on; a
reload of the configuration reads the same file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine import log
from engine.config import managed_peers
from engine.errors import ConfigError, EngineError, for_log
from engine.titles import names

if TYPE_CHECKING:
    from engine.config import Config, Origin, Peer

logger = log.get("server.peers")


class PeerChanges:
    """Used on the supervisor's loop."""

    def __init__(
        self,
        current: Callable[[], tuple[Config, Mapping[str, Origin]]],
        save: Callable[[str], Awaitable[None]],
        apply: Callable[[Config, dict[str, Origin]], Awaitable[None]],
    ) -> None:
        """`current`: the configuration in force and its origins; `save` writes the file of managed peers."""
        self._current = current
        self._save = save
        self._apply = apply
        self._turn = asyncio.Lock()

    async def change(
        self, title: str, table: Mapping[str, object] | None, *, actor: str, reason: str
    ) -> dict[str, object]:
        """Adds or replaces the peer with that title, or removes it (`table` is None).

        Answers {"ok": true, "is_new": …}, or {"ok": false, "kind": …, "error": …}.
        """
        async with self._turn:
            try:
                return await self._change(title, table, actor, reason)
            except ConfigError as error:
                return {"ok": False, "kind": "invalid", "error": str(error)}
            except EngineError as error:
                logger.error("a change of a peer was not saved", aet=title, error=for_log(error))
                return {"ok": False, "kind": "failed", "error": str(error)}

    async def _change(
        self, title: str, table: Mapping[str, object] | None, actor: str, reason: str
    ) -> dict[str, object]:
        config, origins = self._current()
        own = [peer for peer in config.peers if origins.get(f"peer.{peer.aet}") != managed_peers.ORIGIN]
        managed = managed_peers.read(config.data)
        before = next((peer for peer in managed if names((peer.aet,), title)), None)
        if any(names((peer.aet,), title) for peer in own) and (table is not None or before is None):
            text = f"{title} is a [[peer]] of the configuration file: change it there, then run `filmroom reload`"
            return {"ok": False, "kind": "conflict", "error": text}
        if table is None and before is None:
            return {"ok": False, "kind": "absent", "error": f"there is no peer {title}"}
        after = managed_peers.parse({**table, "aet": title}) if table is not None else None
        kept = [peer for peer in managed if peer is not before]
        if after is not None and len(kept) >= managed_peers.PEERS_MAX:
            raise ConfigError(f"there are {managed_peers.PEERS_MAX} peers already")
        peers = [*kept, after] if after is not None else kept
        text, changed = managed_peers.text_of(peers), managed_peers.with_peers(config, own, peers)
        await self._save(text)
        plain = {key: origin for key, origin in origins.items() if not key.startswith("peer.")}
        await self._apply(changed, {**plain, **managed_peers.origins_of(own, peers)})
        change = "removed" if after is None else "added" if before is None else "changed"
        logger.info(f"peer {change}", aet=title, by=actor, reason=reason, changed=_differences(before, after))
        return {"ok": True, "is_new": before is None}


def _differences(before: Peer | None, after: Peer | None) -> dict[str, Any]:
    """What a change changes: key → value before and after."""
    peer = after or before
    assert peer is not None
    fields = [name for name in peer.__struct_fields__ if name != "aet"]
    values = {name: (getattr(before, name, None), getattr(after, name, None)) for name in fields}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}
