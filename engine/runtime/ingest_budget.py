"""Memory for instances on their way in that are not written yet, of the fronts that have no pool of their own.

Nobody waits here. A front that finds it used up reads on when something it has handed over was written; where it has
handed nothing over, it writes what it holds as a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config import Config


class IngestBudget:
    """One worker's. Used on the loop's thread."""

    def __init__(self, config: Callable[[], Config]) -> None:
        """`config`: the one in force."""
        self._config = config
        self.taken_bytes = 0
        """What is held at the moment; whoever takes or gives back says so here."""

    @property
    def is_used_up(self) -> bool:
        """Whether more is held than limits.ingest_bytes_max."""
        return self.taken_bytes > self._config().limits.ingest_bytes_max
