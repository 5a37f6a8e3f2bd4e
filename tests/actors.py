"""Who does what in tests."""

from __future__ import annotations

from engine.access.principal import Kind, Principal


def actor(name: str = "test") -> Principal:
    """Somebody who is recorded under this name."""
    return Principal(Kind.JOB, name)
