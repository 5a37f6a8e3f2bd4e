"""Deletes studies, series and instances: one tombstone for each, durable and visible to every process when answered.

    choose the instances    those that the query names now; later arrivals stay
    check legal holds       all or nothing: DeletionRefused names the number of studies on hold
    append → sync → apply   in one index transaction: from then on no process finds them
    running retrievals      finish from the segments that they have pinned

This is final; `trash` deletes so that it can be taken back. The bytes stay in their segments until a compaction. A
tombstone records actor, time, reason and all SOP Instance UIDs: a rebuild from the log gives the same result, and
tombstones are an audit trail. A deletion includes all versions of those UIDs, also those kept aside and in the trash.
It locks the ledger, so no hold is set in between. On a full disk the reserve file makes room.

The front end checks permissions; `retention` decides which studies are due.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from engine import log
from engine.access.principal import Principal
from engine.archive.ingest.entry import UNPLACED
from engine.archive.lifecycle import shredding
from engine.archive.lifecycle.recorded import destroying
from engine.audit import Kind
from engine.errors import DeletionRefused
from engine.index.format.entry import Tombstone
from engine.index.format.types import Instance, InstanceIdentifiers, Level
from engine.storage.record import META_BYTES_MAX

if TYPE_CHECKING:
    from engine.archive.parts import Parts

logger = log.get("archive.deletion")

TEXT_BYTES_MAX = 1024
"""Limit for the recorded actor and for the recorded reason, each."""

UIDS_BYTES_MAX = META_BYTES_MAX - 8 * TEXT_BYTES_MAX
"""UIDs in one tombstone, with four bytes for the length of each; more take several tombstones of one stamp."""


@dataclass(slots=True)
class Deletion:
    """The result of a deletion, or of a dry run."""

    studies: int = 0
    """Number of studies that lost an instance."""
    series: int = 0
    instances: int = 0
    bytes: int = 0
    """Bytes of their data sets: compaction frees about as many."""
    held: list[str] = field(default_factory=list)
    """Study Instance UIDs on legal hold; only in the result of a dry run."""
    trash: list[str] = field(default_factory=list)
    """The numbers of the entries in the trash that it has made; none if it is final."""
    dry_run: bool = False
    shredded: list[str] = field(default_factory=list)
    """Studies whose keys were destroyed: no copy of them can be read any more."""

    def refuse_held(self) -> None:
        """Raises DeletionRefused when one of the studies is on legal hold."""
        if not self.held:
            return
        examples = ", ".join(self.held[:3]) + (", …" if len(self.held) > 3 else "")
        raise DeletionRefused(
            f"{len(self.held)} of {max(self.studies, len(self.held))} studies are on legal hold: {examples};"
            " nothing was deleted",
            self.held,
        )

    @classmethod
    def of(cls, instances: Sequence[InstanceIdentifiers], *, dry_run: bool = False) -> Deletion:
        """The counts of these instances."""
        return cls(
            len({instance.study_instance_uid for instance in instances}),
            len({(instance.study_instance_uid, instance.series_instance_uid) for instance in instances}),
            len(instances),
            sum([instance.payload_length for instance in instances]),
            dry_run=dry_run,
        )


def delete(
    parts: Parts,
    choose: Callable[[], Sequence[InstanceIdentifiers]],
    *,
    level: Level,
    actor: Principal,
    reason: str,
    dry_run: bool = False,
    must_shred: bool = False,
) -> Deletion:
    """Deletes the instances that `choose` returns. Calls it under the lock of the ledger.

    Then the keys of studies of which nothing is left are destroyed (`shredding`); `must_shred`: refuse what is
    encrypted otherwise, where nothing would become unreadable.

    `level`: of the request, with one tombstone for each study, series or instance (PATIENT: each study).
    Raises DeletionRefused when one of the studies is on hold, and AuditUnavailable when the deletion cannot be
    recorded: nothing is deleted then. After StorageFull,
    StorageFailed, IndexError_ or the death of the process the tombstones may be in the log; they then take effect at
    the next start.
    """
    names: dict[str, None] = {}

    def work() -> Deletion:
        with parts.ledger.locked():
            chosen = choose()
            if not dry_run and shredding.is_on(parts):
                names.update(dict.fromkeys(instance.study_instance_uid for instance in chosen))
            if must_shred:
                shredding.refuse_shared(parts, chosen)
            return _delete(parts, chosen, level, actor, reason, dry_run)

    deletion = parts.ledger.with_reserve(work)
    deletion.shredded = shredding.after_deletion(parts, names, actor=actor, reason=reason)
    return deletion


class Selected(NamedTuple):
    """What a deletion is about to delete."""

    deletion: Deletion
    instances: Sequence[InstanceIdentifiers]
    newest_stamp: int
    """The highest stamp of these instances and their kept versions."""


def select(parts: Parts, instances: Sequence[InstanceIdentifiers], *, dry_run: bool) -> Selected:
    """Counts instances that are to be deleted. Call it while the ledger is locked.

    Raises DeletionRefused when one of the studies is on hold, unless it is a dry run.
    """
    deletion = Deletion.of(instances, dry_run=dry_run)
    versions = [
        InstanceIdentifiers.of(version)
        for version in kept_aside_with(parts, [instance.sop_instance_uid for instance in instances])
    ]
    studies = {instance.study_instance_uid for instance in (*instances, *versions)}
    held_uids = {hold.study_instance_uid.decode("utf-8", "replace") for hold in parts.index.holds()}
    deletion.held = sorted(studies & held_uids)
    if not dry_run:
        deletion.refuse_held()
    newest_stamp = max([instance.stamp for instance in (*instances, *versions)], default=0)
    return Selected(deletion, instances, newest_stamp)


def _delete(
    parts: Parts, chosen: Sequence[InstanceIdentifiers], level: Level, actor: Principal, reason: str, dry_run: bool
) -> Deletion:
    deletion, instances, newest_stamp = select(parts, chosen, dry_run=dry_run)
    if dry_run or not instances:
        return deletion
    if level <= Level.STUDY:
        shredding.retire(parts, {instance.study_instance_uid for instance in instances})
    with destroying(parts.index, Kind.DELETED, instances, level, actor=actor, reason=reason):
        write_tombstones(parts, _grouped(instances, level), level, after=newest_stamp, actor=actor, reason=reason)
    logger.info(
        "deleted",
        level=level.name.lower(),
        studies=deletion.studies,
        instances=deletion.instances,
        bytes=deletion.bytes,
        by=actor.actor,
    )
    return deletion


def kept_aside_with(parts: Parts, sop_instance_uids: Sequence[bytes]) -> list[Instance]:
    """The versions kept aside under these UIDs: they are deleted too."""
    index = parts.index
    count = index.version_count()
    if not count:
        return []
    if count <= len(sop_instance_uids):
        uids = set(sop_instance_uids)
        return [version for version in index.kept_versions() if version.sop_instance_uid.encode() in uids]
    return [version for uid in sop_instance_uids for version in index.versions(uid)]


def write_tombstones(
    parts: Parts,
    groups: Iterable[tuple[bytes, Sequence[bytes]]],
    level: Level,
    *,
    after: int,
    actor: Principal,
    reason: str,
    target_stamp: int = 0,
) -> None:
    """Writes a tombstone for each (UID, SOP Instance UIDs), durable and visible. Call it while the ledger is locked.

    `after`: the highest stamp of the records to delete. Raises StorageFull, StorageFailed or IndexError_.
    """
    stamp = parts.ledger.next_stamp(after)
    deleted_ns = time.time_ns()
    tombstones = []
    for uid, sop_instance_uids in groups:
        for part in uid_parts(sop_instance_uids):
            tombstone = Tombstone(
                UNPLACED, stamp, level, uid, part, target_stamp, deleted_ns, bounded(actor.actor), bounded(reason)
            )
            tombstones.append(tombstone)
    parts.ledger.write(tombstones)


class Drop(NamedTuple):
    """One record to delete."""

    sop_instance_uid: bytes
    stamp: int
    reason: str


def write_drops(parts: Parts, drops: Sequence[Drop], *, actor: Principal) -> None:
    """Writes a tombstone for each of these records, synced together. Call it while the ledger is locked.

    Raises StorageFull, StorageFailed or IndexError_.
    """
    if not drops:
        return
    stamp = parts.ledger.next_stamp(max(drop.stamp for drop in drops))
    now_ns = time.time_ns()
    parts.ledger.write(
        [
            Tombstone(
                UNPLACED, stamp, Level.IMAGE, uid, (uid,), target_stamp, now_ns, bounded(actor.actor), bounded(reason)
            )
            for uid, target_stamp, reason in drops
        ],
    )


def bounded(text: str) -> bytes:
    """A text cut to TEXT_BYTES_MAX, at the end of a character."""
    return text.encode("utf-8", "replace")[:TEXT_BYTES_MAX].decode("utf-8", "ignore").encode()


def _grouped(instances: Sequence[InstanceIdentifiers], level: Level) -> list[tuple[bytes, list[bytes]]]:
    if level == Level.IMAGE:
        return [(instance.sop_instance_uid, [instance.sop_instance_uid]) for instance in instances]
    groups: dict[str, list[bytes]] = {}
    for instance in instances:
        uid = instance.series_instance_uid if level == Level.SERIES else instance.study_instance_uid
        groups.setdefault(uid, []).append(instance.sop_instance_uid)
    return [(uid.encode(), uids) for uid, uids in groups.items()]


def uid_parts(uids: Sequence[bytes]) -> Iterable[tuple[bytes, ...]]:
    """The UIDs in groups that each fit into one record."""
    part: list[bytes] = []
    length = 0
    for uid in uids:
        if length + len(uid) + 4 > UIDS_BYTES_MAX:
            yield tuple(part)
            part, length = [], 0
        part.append(uid)
        length += len(uid) + 4
    yield tuple(part)
