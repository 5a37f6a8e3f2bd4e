"""Counts and logs the results of instances that one sender sends, with any protocol.

The front converts the result to a status of its protocol, and does not count or log instances itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.archive.ingest.request import Outcome
from engine.errors import InstanceQuarantined, StorageFull, for_log
from engine.runtime.admission import Reason, full_comment

if TYPE_CHECKING:
    from engine.errors import EngineError
    from engine.log import Logger
    from engine.runtime.engine import Engine


class StoreRecorder:
    """Counts and logs for one sender. Used on the loop's thread."""

    def __init__(self, engine: Engine, logger: Logger, sender: str) -> None:
        """`sender`: the calling AE title or the user, as in metrics and log."""
        self._engine = engine
        self._log = logger
        self._sender = sender
        self._counters = engine.metrics.peer(sender)

    def stored(self, outcome: Outcome, sop_instance_uid: str, length: int) -> None:
        """Records an instance that is stored, now or before; `length`: of its data set, bytes."""
        self._counters.instances += 1
        self._counters.bytes += length
        if outcome is not Outcome.STORED:
            self._record_special(outcome, sop_instance_uid)

    def refused(self, error: EngineError, sop_instance_uid: str, status: int) -> None:
        """Records an instance that is not stored; `status`: the one sent to the sender."""
        counters = self._engine.metrics.counters
        self._counters.failures += 1
        counters["instances_refused"] += 1
        counters["instances_quarantined"] += isinstance(error, InstanceQuarantined)
        if isinstance(error, StorageFull):
            counters["stores_refused_storage_full"] += 1
            if full_comment(error) == Reason.DISK_RESERVE.comment:
                self._engine.admission.found_full()
        self._log.warning(
            "instance refused",
            calling=self._sender,
            sop_instance_uid=sop_instance_uid,
            status=f"{status:04X}",
            reason=for_log(error),
        )

    def _record_special(self, outcome: Outcome, sop_instance_uid: str) -> None:
        self._engine.metrics.counters[f"instances_{outcome.name.lower()}"] += 1
        if outcome is Outcome.DUPLICATE:
            return
        if outcome is Outcome.TRUNCATED:
            self._log.warning(
                "a truncated data set was stored", calling=self._sender, sop_instance_uid=sop_instance_uid
            )
            return
        self._log.warning(
            "different content for a known SOP Instance UID",
            calling=self._sender,
            sop_instance_uid=sop_instance_uid,
            outcome=outcome.name.lower(),
        )
