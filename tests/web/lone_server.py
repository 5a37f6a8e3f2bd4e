"""A supervisor's answers to the one worker in the test's process: what a front asks for beside statistics."""

from __future__ import annotations

from typing import Any

from engine.config import Config, Origin, managed_peers
from engine.runtime.engine import Engine
from engine.server.peer_changes import PeerChanges


class Link:
    """A supervisor with one worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changes = PeerChanges(lambda: (engine.config, engine.origins), self._save, self._apply)  # type: ignore[arg-type,return-value]

    async def ask(self, topic: str, **fields: Any) -> dict[str, Any]:
        if topic == "peers":
            return {"workers": [{"peers": self._engine.sightings.snapshot()}, {}]}
        if topic == "change_peer":
            return await self._changes.change(**fields)
        if topic == "replay":
            number = fields["number"]
            if number == 77:
                return {"ok": False, "error": "the journal has no message 77"}
            return {"ok": True, "number": number, "result": "unchanged", "changes": [], "warnings": [], "reason": ""}
        engine = self._engine
        return {"time": 0.0, "workers": [engine.stats()], "archive": engine.archive.stats()}

    async def _save(self, text: str) -> None:
        self._engine.archive.save_file(managed_peers.FILE, text.encode())

    async def _apply(self, config: Config, origins: dict[str, Origin]) -> None:
        self._engine.configure(config)
        self._engine.origins = origins
