"""Gives the studies of an older index the keys by which scopes find them, some in each step.

Until all have theirs, each study is tested against the scope, which takes longer and answers the same. A new or rebuilt
index has them from the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.archive.archive import Archive


class AccessKeysFill:
    """The fill of one archive; one thread."""

    def __init__(self, archive: Archive) -> None:
        self._index = archive.parts.index

    @property
    def is_complete(self) -> bool:
        """Whether every study has its keys."""
        return self._index.has_access_tags()

    def step(self) -> bool:
        """Does some studies. Returns whether there are more."""
        return not self.is_complete and self._index.fill_access_tags()
