"""Legal holds: a study that is held is not deleted, by nobody and no rule, until the hold is released.

A hold is a record of the log as an instance is, so that it survives the loss of the index and is in every backup; the
latest record of a study counts. It may be set before anything of the study has arrived. Both directions go under
`locks.ledger`: a hold that has been answered holds, whatever is being deleted at the same time.

Not here: who is asked before a deletion (`deletion`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine import log
from engine.archive import locks
from engine.archive.ingest.entry import UNPLACED
from engine.archive.lifecycle.deletion import bounded, with_reserve
from engine.archive.lifecycle.ledger_copy import LedgerCopy, commit
from engine.index.format.entry import Hold
from engine.storage.record import Kind

if TYPE_CHECKING:
    from engine.archive.archive import Archive

logger = log.get("archive.holds")


def change(archive: Archive, study_instance_uids: Sequence[str], *, is_set: bool, by: str, reason: str) -> list[str]:
    """Sets or releases the holds of these studies; those for which that changed something.

    Durable and seen by every process when it returns. Raises StorageFull, StorageFailed or IndexError_.
    """

    def work() -> list[str]:
        with locks.ledger(archive.layout, archive.files):
            return _change(archive, study_instance_uids, is_set, by, reason)

    return with_reserve(archive, work)


def _change(archive: Archive, study_instance_uids: Sequence[str], is_set: bool, by: str, reason: str) -> list[str]:
    standing = {hold.study_instance_uid for hold in archive.index.holds()}
    wanted = [uid for uid in dict.fromkeys(study_instance_uids) if (uid.encode() in standing) != is_set]
    if not wanted:
        return []
    store = archive.ledger()
    now = time.time_ns()
    holds = []
    for uid in wanted:
        stamp = store.next_stamp(archive.index.hold_stamp(uid.encode()))
        hold = Hold(UNPLACED, stamp, uid.encode(), is_set, now, bounded(by), bounded(reason))
        hold.position = store.log.append(Kind.HOLD, 0, stamp, uid.encode(), hold.pack_meta(), [], 0, 0)
        holds.append(hold)
    commit(store.log, LedgerCopy(archive.layout, archive.files), holds)
    archive.index.apply([], holds=holds)
    store.seal_rolled()
    logger.info("hold set" if is_set else "hold released", studies=len(wanted), by=by)
    return wanted
