"""Legal holds: no person and no rule can delete a study on hold until the hold is released.

A hold is a record of the log, as an instance is, so it survives the loss of the index and is in every backup. The
latest record of a study counts. A hold may be set before any instance of the study has arrived. Setting and releasing
take the lock of the ledger: once a hold is answered, no concurrent deletion can miss it.

`deletion` checks the holds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine import log
from engine.access.principal import Principal
from engine.archive.ingest.entry import UNPLACED
from engine.archive.lifecycle.deletion import bounded
from engine.archive.lifecycle.recorded import changed
from engine.audit import Kind
from engine.index.format.entry import Hold

if TYPE_CHECKING:
    from engine.archive.parts import Parts

logger = log.get("archive.holds")


def change(
    parts: Parts, study_instance_uids: Sequence[str], *, is_set: bool, actor: Principal, reason: str
) -> list[str]:
    """Sets or releases the holds of these studies. Returns the studies whose hold has changed.

    Durable and visible to every process when it returns. Raises StorageFull, StorageFailed or IndexError_.
    """

    def work() -> list[str]:
        with parts.ledger.locked():
            return _change(parts, study_instance_uids, is_set, actor, reason)

    studies = parts.ledger.with_reserve(work)
    changed(parts.index, Kind.HELD if is_set else Kind.RELEASED, studies, actor=actor, reason=reason)
    return studies


def _change(parts: Parts, study_instance_uids: Sequence[str], is_set: bool, actor: Principal, reason: str) -> list[str]:
    standing = {hold.study_instance_uid for hold in parts.index.holds()}
    changing = [uid for uid in dict.fromkeys(study_instance_uids) if (uid.encode() in standing) != is_set]
    if not changing:
        return []
    now_ns = time.time_ns()
    parts.ledger.write(
        [
            Hold(
                UNPLACED,
                parts.ledger.next_stamp(parts.index.hold_stamp(uid.encode())),
                uid.encode(),
                is_set,
                now_ns,
                bounded(actor.actor),
                bounded(reason),
            )
            for uid in changing
        ]
    )
    logger.info("hold set" if is_set else "hold released", studies=len(changing), by=actor.actor)
    return changing
