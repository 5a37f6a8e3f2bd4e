"""LogHealth: whether one writer's log may still write. A failed write or sync is final for the log that saw it.

    usable ──fail──► failed     the state of the disk is unknown; recovery judges it after a restart
       └────close──► closed

Shared by the log, its segment factory and its streamed records.
"""

from __future__ import annotations

from typing import NoReturn

from engine.errors import StorageError, StorageFailed


class LogHealth:
    """The state of one log. Thread-safe: each field changes once."""

    __slots__ = ("failure", "is_closed", "is_over")

    def __init__(self) -> None:
        self.failure: StorageFailed | None = None
        """The first I/O error."""
        self.is_closed = False
        self.is_over = False
        """Failed or closed: an append checks only this."""

    def fail(self, error: StorageError) -> None:
        """Ends the log because of an I/O error. Only the first one counts."""
        if self.failure is None:
            self.failure = error if isinstance(error, StorageFailed) else StorageFailed(str(error))
        self.is_over = True

    def close(self) -> None:
        """Closes the log, at its owner's request."""
        self.is_closed = True
        self.is_over = True

    def check(self) -> None:
        """Raises StorageFailed once the log has failed, StorageError once it is closed."""
        if self.is_over:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raises what `check` raises. Call it only once the log has failed or is closed."""
        if self.failure is not None:
            raise StorageFailed(f"this log has failed before: {self.failure}") from self.failure
        raise StorageError("this log is closed")
