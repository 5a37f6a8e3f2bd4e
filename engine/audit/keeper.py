"""What the supervisor does for the audit log, in one thread: signs checkpoints, and removes old events.

It signs every CHECKPOINT_S, if there is anything new, and once more at the end, when all other processes have ended.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine import guards, log
from engine.audit.checkpoint import Notary
from engine.audit.pruning import PASS_S, prune
from engine.errors import ConfigError, StorageError
from engine.storage.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.audit.settings import Audit

logger = log.get("audit.keeper")

CHECKPOINT_S: Final = 10.0


class AuditKeeper:
    """The thread. Start it when the archive is open."""

    def __init__(self, data: Path, settings: Callable[[], Audit]) -> None:
        """`settings`: returns those in force. Raises ConfigError, StorageError when there is no key to sign with."""
        self._data = data
        self._settings = settings
        self._files = Files()
        self._notary = Notary(data, settings().signing_key, self._files)
        self._stopping = threading.Event()
        self._pruned_at = time.monotonic()
        self._failure = ""
        self._signed_until = ""
        self._thread = guards.start("audit-keeper", self._run)

    def snapshot(self) -> dict[str, object]:
        """Its state, as plain data."""
        return {"signed_until": self._signed_until, "signing_failure": self._failure}

    def close(self) -> None:
        """Signs what is there, and ends the thread. Call it after the last event. Blocks."""
        self._stopping.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._stopping.wait(CHECKPOINT_S):
            self._look()

    def _look(self) -> None:
        try:
            checkpoint = self._notary.sign()
            if checkpoint is not None:
                self._signed_until = checkpoint.time
            if time.monotonic() - self._pruned_at > PASS_S:
                self._pruned_at = time.monotonic()
                prune(self._data, self._notary, self._settings().keep_days, self._files)
        except (StorageError, ConfigError, OSError) as error:
            if not self._failure:
                logger.error("the audit log cannot be signed", reason=str(error))
            self._failure = str(error)
        else:
            self._failure = ""
