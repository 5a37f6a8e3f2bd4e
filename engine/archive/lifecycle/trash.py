"""The trash: a deletion that can be taken back. What is in it is gone for everybody, and its bytes stay.

    put        one entry for each study; everything that a deletion would delete, and refused where one would be
    restore    all of an entry, or one of its series; what came meanwhile stays current, see `index.apply.versions`
    empty      one entry or all: what they keep is deleted for good, and compaction frees the space. Refused while the
               study is on legal hold
    expire     empties the entries that are older than the setting, unless the clock has jumped (`retention_clock`)

Each is one or more TRASH records of the ledger, written under its lock: two people cannot restore and empty the same
instances. An entry's number is the stamp of its records. A restart, a rebuild, a backup and a replica have the same
trash. The front ends check permissions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine import log
from engine.access.principal import Principal
from engine.archive.ingest.entry import UNPLACED
from engine.archive.lifecycle import retention_clock, shredding
from engine.archive.lifecycle.deletion import Deletion, Selected, bounded, select, uid_parts
from engine.archive.lifecycle.recorded import changed, destroying
from engine.audit import Kind
from engine.dicom import tags
from engine.errors import DeletionRefused, NotInTrash
from engine.index.catalog import TrashEntry
from engine.index.format.statements import blob_of
from engine.index.format.trash_record import TrashOperation, TrashRecord
from engine.index.format.types import Instance, InstanceIdentifiers, Level, Query

if TYPE_CHECKING:
    from engine.archive.parts import Parts

logger = log.get("archive.trash")

DAY_NS = retention_clock.DAY_NS

GAP_DAYS_MAX = 30.0
"""After a longer pause the clock is not trusted; as in a retention rule."""

ENTRIES_AT_ONCE = 100
"""Entries that are read at a time."""

SHOWN = (
    tags.PatientName,
    tags.PatientID,
    tags.StudyDate,
    tags.AccessionNumber,
    tags.StudyDescription,
    tags.ModalitiesInStudy,
)
"""The attributes that an entry keeps of its study, so that people recognise it."""

SHOWN_SERIES = (tags.SeriesNumber, tags.SeriesDescription, tags.Modality)
"""The same of a series that was put by itself."""


@dataclass(slots=True)
class Settled:
    """The result of emptying entries, or of restoring one."""

    entries: int = 0
    instances: int = 0
    bytes: int = 0
    """Length of their data sets."""
    held: int = 0
    """Entries that stay because their study is on legal hold."""
    studies: list[str] = field(default_factory=list)
    """The studies that were restored, or of which something was deleted."""
    shredded: list[str] = field(default_factory=list)
    """Studies whose keys were destroyed: no copy of them can be read any more."""

    def add(self, other: Settled) -> None:
        """Adds the counts of another result."""
        self.entries += other.entries
        self.instances += other.instances
        self.bytes += other.bytes
        self.held += other.held

    def count(self, instances: Sequence[Instance]) -> None:
        """Counts an entry with these instances, kept versions included."""
        self.entries += 1
        self.instances += len({instance.sop_instance_uid for instance in instances})
        self.bytes += sum(instance.position.payload_length for instance in instances)


def put(
    parts: Parts,
    choose: Callable[[], Sequence[InstanceIdentifiers]],
    *,
    level: Level,
    actor: Principal,
    reason: str,
    dry_run: bool = False,
) -> Deletion:
    """Puts the instances that `choose` returns into the trash. Takes and raises what `deletion.delete` does."""

    def work() -> Deletion:
        with parts.ledger.locked():
            selected = select(parts, choose(), dry_run=dry_run)
            if not dry_run and selected.instances:
                if level <= Level.STUDY:
                    shredding.retire(parts, {instance.study_instance_uid for instance in selected.instances})
                records = [record for group in _studies(parts, selected, level, actor, reason) for record in group]
                with destroying(parts.index, Kind.TRASHED, selected.instances, level, actor=actor, reason=reason):
                    parts.ledger.write(records)
                selected.deletion.trash = list(dict.fromkeys(str(record.stamp) for record in records))
            return selected.deletion

    deletion = parts.ledger.with_reserve(work)
    if deletion.trash:
        logger.info(
            "put into the trash",
            level=level.name.lower(),
            studies=deletion.studies,
            instances=deletion.instances,
            bytes=deletion.bytes,
            by=actor.actor,
        )
    return deletion


def restore(parts: Parts, number: str, *, series_instance_uid: str = "", actor: Principal, reason: str) -> Settled:
    """Restores an entry, or one series of it.

    Raises NotInTrash, StorageFull, StorageFailed or IndexError_.
    """

    def work() -> Settled:
        with parts.ledger.locked():
            entry = _entry(parts, number)
            instances = [
                instance
                for instance in parts.index.in_trash(entry)
                if not series_instance_uid or instance.series_instance_uid == series_instance_uid
            ]
            if not instances:
                raise NotInTrash(f"entry {number} has no instance of series {series_instance_uid}")
            _settle(parts, [(entry, instances)], TrashOperation.RESTORE, actor, reason)
            restored = Settled()
            restored.count(instances)
            restored.studies = [_study(entry)]
            return restored

    restored = parts.ledger.with_reserve(work)
    changed(parts.index, Kind.RESTORED, restored.studies, actor=actor, reason=reason)
    logger.info("restored from the trash", entry=number, instances=restored.instances, by=actor.actor)
    return restored


def empty(parts: Parts, numbers: Sequence[str] | None, *, actor: Principal, reason: str) -> Settled:
    """Empties these entries, all or none; None: all entries but those of studies on legal hold.

    Raises NotInTrash, DeletionRefused (a study is on legal hold), StorageFull, StorageFailed or IndexError_.
    """
    if numbers is None:
        return _empty_before(parts, 0, actor, reason, lambda: False)

    def work() -> Settled:
        with parts.ledger.locked():
            entries = [_entry(parts, number) for number in dict.fromkeys(numbers)]
            held = sorted(_study(entry) for entry in entries if parts.index.is_held(entry.put.study_instance_uid))
            if held:
                raise DeletionRefused(f"study {held[0]} is on legal hold; the trash was not emptied of anything", held)
            return _emptied(parts, entries, actor, reason)

    return _over(parts, parts.ledger.with_reserve(work), actor, reason)


def expire(
    parts: Parts,
    days: float,
    now_ns: int,
    *,
    actor: Principal,
    is_stopping: Callable[[], bool] = lambda: False,
    is_confirmed: bool = False,
) -> Settled:
    """Empties the entries that are older than these days, but those of studies on legal hold.

    Raises RetentionRefused, before it empties anything, if the clock is implausible and the caller has not confirmed
    it; StorageFull, StorageFailed or IndexError_.
    """
    before_ns = now_ns - round(days * DAY_NS)
    if not any(entry.put.made_ns < before_ns for entry in entries(parts)):
        return Settled()
    if not is_confirmed:
        retention_clock.check_clock(parts, GAP_DAYS_MAX, now_ns)
    retention_clock.note(parts, now_ns, is_confirmed=is_confirmed)
    return _empty_before(parts, before_ns, actor, "its time in the trash is over", is_stopping)


def entries(parts: Parts, before_stamp: int = 0) -> Iterator[TrashEntry]:
    """Every entry with a lower stamp (0: all), the latest first; page by page."""
    while page := parts.index.trash_entries(before_stamp, ENTRIES_AT_ONCE):
        yield from page
        before_stamp = page[-1].stamp


def _empty_before(
    parts: Parts, before_ns: int, actor: Principal, reason: str, is_stopping: Callable[[], bool]
) -> Settled:
    total = Settled()
    before_stamp = 0
    while not is_stopping() and (page := parts.index.trash_entries(before_stamp, ENTRIES_AT_ONCE)):
        before_stamp = page[-1].stamp
        for entry in page:
            if is_stopping():
                break
            if not before_ns or entry.put.made_ns < before_ns:
                _add_emptied(parts, total, entry.stamp, actor, reason)
    return _over(parts, total, actor, reason)


def _add_emptied(parts: Parts, total: Settled, stamp: int, actor: Principal, reason: str) -> None:
    """Empties one entry, in a transaction of its own, and counts it."""

    def work() -> Settled:
        with parts.ledger.locked():
            # Read it again: somebody may have restored it, or put the study on hold.
            entry = parts.index.trash_entry(stamp)
            if entry is None:
                return Settled()
            if parts.index.is_held(entry.put.study_instance_uid):
                return Settled(held=1)
            return _emptied(parts, [entry], actor, reason)

    emptied = parts.ledger.with_reserve(work)
    total.add(emptied)
    total.studies += emptied.studies


def _emptied(parts: Parts, entries: Sequence[TrashEntry], actor: Principal, reason: str) -> Settled:
    emptied = Settled()
    pairs = [(entry, list(parts.index.in_trash(entry))) for entry in entries]
    names = [InstanceIdentifiers.of(instance) for _, instances in pairs for instance in instances]
    with destroying(parts.index, Kind.DELETED, names, Level.STUDY, actor=actor, reason=reason):
        _settle(parts, pairs, TrashOperation.EMPTY, actor, reason)
    for entry, instances in pairs:
        emptied.count(instances)
        emptied.studies.append(_study(entry))
    return emptied


def _over(parts: Parts, emptied: Settled, actor: Principal, reason: str) -> Settled:
    """Shreds what was emptied out of the trash."""
    emptied.shredded = shredding.after_deletion(parts, emptied.studies, actor=actor, reason=reason)
    if emptied.entries:
        logger.info("trash emptied", entries=emptied.entries, instances=emptied.instances, by=actor.actor)
    return emptied


def _entry(parts: Parts, number: str) -> TrashEntry:
    """Raises NotInTrash."""
    is_number = number.isascii() and number.isdecimal() and len(number) <= 20
    entry = parts.index.trash_entry(int(number)) if is_number else None
    if entry is None:
        raise NotInTrash("the trash has no such entry: it was restored or emptied, or never there")
    return entry


def _study(entry: TrashEntry) -> str:
    return entry.put.study_instance_uid.decode("utf-8", "replace")


# records -------------------------------------------------------------------------------------------


def _settle(
    parts: Parts,
    pairs: Iterable[tuple[TrashEntry, Sequence[Instance]]],
    operation: TrashOperation,
    actor: Principal,
    reason: str,
) -> None:
    """Writes the records that restore or empty these instances of these entries, all or none."""
    records: list[TrashRecord] = []
    for entry, instances in pairs:
        uids = list(dict.fromkeys(instance.sop_instance_uid.encode() for instance in instances))
        newest = max((parts.index.current_and_newest_stamp(uid)[1] for uid in uids), default=0)
        study_uid = entry.put.study_instance_uid
        record = TrashRecord(
            UNPLACED,
            parts.ledger.next_stamp(max(newest, entry.stamp)),
            operation,
            entry.put.level,
            study_uid,
            study_uid,
            (),
            entry.stamp,
            made_ns=time.time_ns(),
            by=bounded(actor.actor),
            reason=bounded(reason),
        )
        records += [replace(record, sop_instance_uids=part) for part in uid_parts(uids)]
    if records:
        parts.ledger.write(records)


def _studies(
    parts: Parts, selected: Selected, level: Level, actor: Principal, reason: str
) -> Iterator[list[TrashRecord]]:
    """The records of each study: of one stamp, which no other study has."""
    level = max(level, Level.STUDY)
    by_study: dict[str, list[InstanceIdentifiers]] = {}
    for instance in selected.instances:
        by_study.setdefault(instance.study_instance_uid, []).append(instance)
    for study_uid, instances in by_study.items():
        stamp = parts.ledger.next_stamp(selected.newest_stamp)
        groups: dict[str, list[InstanceIdentifiers]] = {}
        for instance in instances:
            uid = instance.series_instance_uid if level == Level.SERIES else study_uid
            groups.setdefault(uid, []).append(instance)
        shown = _shown(parts, study_uid, next(iter(groups)) if level == Level.SERIES and len(groups) == 1 else "")
        records: list[TrashRecord] = []
        for uid, group in groups.items():
            series = len({instance.series_instance_uid for instance in group})
            for part in uid_parts([instance.sop_instance_uid for instance in group]):
                record = TrashRecord(
                    UNPLACED,
                    stamp,
                    TrashOperation.PUT,
                    level,
                    uid.encode(),
                    study_uid.encode(),
                    part,
                    series=series,
                    data_bytes=0 if records else sum(instance.payload_length for instance in instances),
                    items=b"" if records else shown,
                    made_ns=time.time_ns(),
                    by=bounded(actor.actor),
                    reason=bounded(reason),
                )
                series = 0
                records.append(record)
        yield records


def _shown(parts: Parts, study_uid: str, series_uid: str) -> bytes:
    """What people see of a study, or of one of its series, as a level blob."""
    level = Level.SERIES if series_uid else Level.STUDY
    keys = {tags.StudyInstanceUID: study_uid.encode(), **dict.fromkeys(SHOWN, b"")}
    if series_uid:
        keys |= {tags.SeriesInstanceUID: series_uid.encode(), **dict.fromkeys(SHOWN_SERIES, b"")}
    match = next(parts.index.search(Query(level, keys, relational=True, limit=1)), None)
    values = {} if match is None else {tag: match.attributes.get(tag, b"") for tag in (*SHOWN, *SHOWN_SERIES)}
    return blob_of({tag: bounded(value.decode("utf-8", "replace")) for tag, value in values.items() if value})
