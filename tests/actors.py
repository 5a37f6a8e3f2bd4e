"""Actors for records and permissions in tests."""

from __future__ import annotations

from engine.access.principal import Kind, Principal


def actor(name: str = "test") -> Principal:
    """A principal that is recorded under this name."""
    return Principal(Kind.JOB, name)
