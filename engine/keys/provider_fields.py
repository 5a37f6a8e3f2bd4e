"""The settings of a key provider: texts by name, as they stand in keys.json."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import KeyStoreError


def setting(settings: Mapping[str, str], name: str, kind: str) -> str:
    """A setting that must be there. Raises KeyStoreError."""
    value = settings.get(name, "")
    if not value:
        raise KeyStoreError(f"the key provider {kind} needs the setting {name}")
    return value
