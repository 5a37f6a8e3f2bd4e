"""What a connection of a stream can do: one request after the other, each with an outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from perf.bench.recorder import Outcome


class Operation(Protocol):
    """One connection. After an error it is closed, and a new one is made."""

    def request(self) -> Outcome:
        """Sends one request and reads its answer. Raises PerfError or OSError if the connection is lost."""

    def close(self) -> None:
        """Ends it in good order. Raises nothing."""


Opener = Callable[[], Operation]
"""Opens a connection. Raises PerfError or OSError with the reason."""
