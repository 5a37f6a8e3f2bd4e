"""What the supervisor does for the audit log, in two threads: it signs, removes old events, and sends to the collector.

It signs every CHECKPOINT_S, if there is anything new, and once more at the end, when all other processes have ended.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine import guards, log
from engine.audit.checkpoint import Notary
from engine.audit.pruning import PASS_S, note_pass, prune, until_pass_s
from engine.audit.sender import Sender
from engine.errors import ConfigError, StorageError, for_log
from engine.storage.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.audit_settings import Audit

logger = log.get("audit.keeper")

CHECKPOINT_S: Final = 10.0
LOOK_S: Final = 0.5
"""How often it looks for events to send."""
SEND_AT_END_S: Final = 3.0


class AuditKeeper:
    """The threads. Start them when the archive is open."""

    def __init__(self, data: Path, settings: Callable[[], Audit], aet: str, *, is_replica: bool) -> None:
        """`settings`: returns those in force. `is_replica`: a source ships its log here.

        Raises ConfigError, StorageError when there is no key to sign with.
        """
        self._data = data
        self._settings = settings
        self._files = Files()
        self._notary = Notary(data, settings().signing_key, self._files)
        self._stopping = threading.Event()
        self._prunes_at = time.monotonic() + until_pass_s(data, time.time())
        self._failure = ""
        self._signed_until = ""
        self._aet = aet
        self._is_replica = is_replica
        self._sender: Sender | None = None
        self._threads = [guards.start("audit-keeper", self._run), guards.start("audit-sender", self._send)]

    def snapshot(self) -> dict[str, object]:
        """Its state, as plain data."""
        collector = self._sender.snapshot() if self._sender is not None else None
        return {"signed_until": self._signed_until, "signing_failure": self._failure, "collector": collector}

    def close(self) -> None:
        """Signs what is there, and ends the thread. Call it after the last event. Blocks."""
        self._stopping.set()
        self._threads[0].join()
        self._look()
        self._threads[1].join(SEND_AT_END_S)  # it may wait for a collector that does not answer

    def _run(self) -> None:
        while not self._stopping.wait(CHECKPOINT_S):
            self._look()

    def _send(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.is_set() and not self._threads[0].is_alive()
            sender = self._sender
            if sender is not None and sender.settings != self._settings():
                sender.close()
                sender = self._sender = None
            if sender is None and self._settings().collector:
                sender = self._sender = Sender(self._data, self._settings(), self._aet)
            while sender is not None and sender.step() and not is_last:
                pass
            if not is_last:
                threading.Event().wait(LOOK_S)
        if self._sender is not None:
            self._sender.close()

    def _look(self) -> None:
        try:
            checkpoint = self._notary.sign()
            if checkpoint is not None:
                self._signed_until = checkpoint.time
            if time.monotonic() >= self._prunes_at:
                self._prunes_at = time.monotonic() + PASS_S
                keep_days = self._settings().keep_days
                prune(self._data, self._notary, keep_days, self._files, with_sources=not self._is_replica)
                note_pass(self._data, time.time())
        except (StorageError, ConfigError, OSError) as error:
            if not self._failure:
                logger.error("the audit log cannot be signed", reason=for_log(error))
            self._failure = str(error)
        else:
            self._failure = ""
