"""`filmroom rebuild-index`: makes a new index, and keeps those facts of the old one that the log does not hold.

`Before` first collects the facts about sealed segments from the old index (if it can be read) and from DATA/sealed.
Records that the log has lost are then listed in DATA/losses: by SOP Instance UID if the old index knew it, else by
segment and count. Noted damage is noted again if the record is still needed.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import log
from engine.archive import extras
from engine.archive import layout as layouts
from engine.archive.keeper import KeeperLock, Progress, sync_log
from engine.archive.layout import Layout
from engine.archive.lifecycle import losses
from engine.archive.lifecycle.ledger_copy import LedgerCopy
from engine.archive.lifecycle.losses import Loss
from engine.archive.register import Register
from engine.archive.unlocking import unlock
from engine.dicom.schema import Schema
from engine.errors import CorruptRecord, IndexError_, for_log
from engine.index.catalog import Catalog, RestoreResult
from engine.index.format.types import DamageRow, SegmentMark
from engine.index.upkeep import rebuild
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.reader import LogReader
from engine.storage.record import Position
from engine.storage.recovery import NONE_SEALED, Sealed, SealedSegments
from engine.storage.segment import LAYOUT_LOG, Damage, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_store import SegmentStore

logger = log.get("archive.rebuilding")

_NOTHING = frozenset((RestoreResult.NEW, RestoreResult.DISCARDED, RestoreResult.DAMAGED))


@dataclass(slots=True)
class Before:
    """The facts of the old index and the register."""

    sealed_segments: SealedSegments
    damage: list[DamageRow] = field(default_factory=list)
    placed: list[tuple[str, int, int]] = field(default_factory=list)
    """SOP Instance UID, segment and offset of each record in a segment that is not as it was sealed."""


def rebuild_index(
    data: Path,
    *,
    progress: Progress | None = None,
    files: Files | None = None,
    elsewhere: SegmentStore | None = None,
) -> rebuild.Report:
    """Discards the index of `data` and makes a new one from the log. Raises ArchiveInUse, StorageError."""
    files = files or Files()
    layout = unlock(layouts.open_layout(data, files, create=False), files)
    if elsewhere is not None:
        layout = replace(layout, elsewhere=elsewhere)
    schema = Schema(extras.recorded(layout, files))
    is_replica = layout.role == layouts.REPLICA
    with KeeperLock(layout, files):
        register = Register(layout, files)
        before = _before(layout, files, NONE_SEALED if is_replica else register.load())
        index, report = rebuild.rebuild(
            layout.index,
            layout.segments,
            files,
            progress=progress,
            follow=is_replica,
            archive_id=layout.archive_id,
            elsewhere=layout.elsewhere,
            own_slot=layout.own_slot,
            sealed_segments=before.sealed_segments,
            schema=schema,
        )
        try:
            _carry_over(index, before)
            if not is_replica:
                copy = LedgerCopy(layout, files)
                healed = copy.settle(index, report.lost, register.record_counts())
                report.lost = [damage for damage in report.lost if damage.segment_id not in healed]
                register.note(index.segment_marks(), is_complete=True)
                _name_losses(layout, files, index, report, before)
        finally:
            reader = LogReader(layout.segment_store(files))
            index.checkpointer(lambda: sync_log(index, reader)).close(clean=True)
            reader.close()
            index.close()
    return report


def _before(layout: Layout, files: Files, sealed_segments: SealedSegments) -> Before:
    """Reads the old index. If that fails, logs it and returns the facts of DATA/sealed alone."""
    if Catalog.restore(layout.index, files) in _NOTHING:
        return Before(sealed_segments)
    try:
        index = Catalog.open(layout.index, files=files)
    except IndexError_ as error:
        logger.warning("the old index cannot be read", reason=for_log(error))
        return Before(sealed_segments)
    before = Before(sealed_segments)
    try:
        marks = index.segment_marks()
        before.sealed_segments = sealed_segments = _with_marks(layout, sealed_segments, marks)
        before.damage = index.damage()
        broken = {
            number for number, sealed in sealed_segments.by_id.items() if not _is_as_sealed(layout, files, sealed)
        }
        if broken:
            before.placed = [
                (uid, *position[:2]) for uid, position in _placed(index) if position.segment_id in broken
            ]  # fmt: skip
    except IndexError_ as error:
        logger.warning("the old index can be read in part only", reason=for_log(error))
    finally:
        index.close()
    return before


def _with_marks(layout: Layout, register: SealedSegments, marks: dict[int, SegmentMark]) -> SealedSegments:
    sealed = {
        number: Sealed(number, layout.archive_id, -1, mark.indexed_bytes, -1, LAYOUT_LOG)
        for number, mark in marks.items()
        # A segment without live records may have been compacted away. Tombstones count among the bytes.
        if mark.sealed and (mark.live_count or mark.live_bytes)
    }
    return SealedSegments({**sealed, **register.by_id}, register.is_whole)


def _is_as_sealed(layout: Layout, files: Files, sealed: Sealed) -> bool:
    try:
        fd = files.open(segment_path(layout.segments, sealed.segment_id), os.O_RDONLY)
    except OSError:
        return False
    try:
        trailer = hints.read_trailer(FileBytes(files, fd), sealed.segment_id)
    except CorruptRecord:
        return False
    finally:
        files.close(fd)
    return (
        trailer is not None
        and trailer.tail == sealed.tail
        and sealed.salt in (-1, trailer.salt)
        and not trailer.damage_count
    )


def _placed(index: Catalog) -> Iterator[tuple[str, Position]]:
    """UID and position of every stored version, current or not."""
    return (
        (instance.sop_instance_uid, instance.position)
        for instance in itertools.chain(index.current_instances(), index.kept_versions())
    )


def _carry_over(index: Catalog, before: Before) -> None:
    """Notes known damage again, if the damaged record is still needed."""
    marks = index.segment_marks()
    for row in before.damage:
        if row.segment_id not in marks or row.what.startswith("the index"):
            continue  # a fault of the old index, which is gone
        versions = index.versions(row.sop_instance_uid) if row.sop_instance_uid else []
        lies_there = any(version.position[:2] == (row.segment_id, row.offset) for version in versions)
        if lies_there or not row.sop_instance_uid:
            index.note_damage(row.segment_id, row.offset, row.sop_instance_uid, row.what, row.found_ns)


def _name_losses(layout: Layout, files: Files, index: Catalog, report: rebuild.Report, before: Before) -> None:
    now_ns = time.time_ns()
    missing = [place for place in before.placed if index.locate(place[0].encode()) is None]
    reasons = {damage.segment_id: damage.reason for damage in report.lost}
    named = [
        Loss(segment_id, offset, uid, reasons.get(segment_id, "no longer in the log"), now_ns)
        for uid, segment_id, offset in missing
    ]
    noted_again = [
        Loss(row.segment_id, row.offset, row.sop_instance_uid.decode("utf-8", "replace"), row.what, row.found_ns)
        for row in before.damage
        if row.sop_instance_uid and index.locate(row.sop_instance_uid) is None and row.segment_id in reasons
    ]
    broken = {damage.segment_id for damage in report.findings}
    marks = index.segment_marks()
    losses.forget_whole(layout, files, {number for number in marks if marks[number].sealed} - broken)
    losses.note(layout, files, [*losses.of_damage(report.lost, now_ns), *named, *noted_again])
    report.findings += [
        Damage(loss.segment_id, loss.offset, 0, f"lost: {loss.what} (SOP Instance UID {loss.sop_instance_uid})")
        for loss in named
    ]
