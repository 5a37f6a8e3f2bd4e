"""Identifiers of what is handed over: the same each time, so that a receiver recognizes what it has already."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.runtime.engine import Engine


def uid_of(engine: Engine, destination: str, place: str) -> str:
    """The UID of what a destination gets for the event at a place of its source."""
    return f"2.25.{uuid.UUID(bytes=_digest(engine, destination, place)[:16], version=5).int}"


def control_id_of(engine: Engine, destination: str, place: str) -> str:
    """The same as a message control id (MSH-10): at most 20 characters."""
    return f"FR{_digest(engine, destination, place).hex()[:18]}".upper()


def _digest(engine: Engine, destination: str, place: str) -> bytes:
    text = "\0".join((engine.archive.identity, destination, place))
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
