"""Memory for received instances that are not written yet, of the fronts that have no pool of their own.

It only counts. When the budget is used up, a front pauses reading until one of its instances has been written; if none
is being written, it writes the incomplete instance as a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config import Config


class IngestBudget:
    """The budget of one worker. For the loop's thread."""

    def __init__(self, config: Callable[[], Config]) -> None:
        """`config`: returns the current configuration."""
        self._config = config
        self.taken_bytes = 0
        """Bytes in use. A front adds the bytes that it takes and subtracts those that it frees."""

    @property
    def is_used_up(self) -> bool:
        """Whether more bytes are in use than limits.ingest_bytes_max."""
        return self.taken_bytes > self._config().limits.ingest_bytes_max
