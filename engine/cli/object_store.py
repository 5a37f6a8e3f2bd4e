"""The part of `backend` for the object store. Nothing here writes to the terminal."""

from __future__ import annotations

from typing import Any

from engine.config import Config
from engine.errors import ConfigError


def check(config: Config) -> tuple[list[dict[str, Any]], bool]:
    """The checks of the configured store, and whether one has failed. Raises ConfigError."""
    from engine.objects import checks
    from engine.objects.client import ObjectClient

    if not config.object_store.url:
        raise ConfigError("no object store is configured: set url in [object_store]")
    found = checks.check(ObjectClient(config.object_store), "check")
    return [{"check": item.name, "result": item.result, "text": item.text} for item in found], checks.has_failed(found)
