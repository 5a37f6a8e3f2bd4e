"""The folder of a feed: DATA/feed, with its journal, state, epochs, named cursors, and the lock of its writer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.archive.layout import Layout


def directory_of(layout: Layout) -> str:
    """The folder of an archive's feed."""
    return str(layout.data / "feed")
