"""What every test of the web front starts from."""

from __future__ import annotations

import pytest

from engine.web import search


@pytest.fixture(autouse=True)
def matches_are_counted_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server gives up the count of a search after a millisecond; how far it came would depend on the machine."""
    monkeypatch.setattr(search, "COUNT_S", 60.0)
