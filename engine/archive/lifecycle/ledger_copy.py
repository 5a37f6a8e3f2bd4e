"""A second copy of all tombstones, holds and corrections: DATA/ledger.copy. They outlive the segment they lie in.

A lost instance is one instance less. A lost tombstone brings deleted images back, and a lost hold lets somebody delete
what must stay. These records are small, so each is kept twice: in the log, which is the truth, and here. Notes
(`storage.journal`):

    ["record", kind, stamp, segment id, key, meta block]    in Base64; the segment it was written to at first

    written      after the log is synced and before the index is told: what is here is in the log
    at a start   that was not clean, or found the log damaged: what the index knows is added here; what is here and the
                 index does not know, and what would still change something, is written to the log again, and applied
    let go       what is not needed any more, once there is much of it

Applying a record twice, or late, gives the same result (`index.format.entry`), since its stamp says which records it
concerns. A full disk prevents no deletion: the copy is then made at the next start.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine import log
from engine.archive import locks
from engine.archive.layout import Layout
from engine.errors import (
    ArchiveInUse,
    CorruptRecord,
    EngineError,
    IndexError_,
    StorageError,
    StorageFailed,
    StorageFull,
)
from engine.index.catalog import Catalog
from engine.index.format.entry import TOMBSTONE_KEEP_S, Correction, Hold, LedgerItem, Tombstone, unpack_record
from engine.index.format.types import SegmentMark
from engine.storage.files import Files
from engine.storage.journal import Journal, read_notes
from engine.storage.reader import LogReader
from engine.storage.record import Kind, Position, Record
from engine.storage.segment import Damage
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments

logger = log.get("archive.ledger")

LEDGER_SEGMENT_BYTES = 1 << 20
"""A segment of tombstones, holds and corrections; each takes some hundred bytes, and 40 an instance or study."""

SUPERFLUOUS_MAX = 1000
"""The file is rewritten when it has this many superfluous notes and twice as many notes as are needed."""

COPY_BYTES_MAX = 64 << 20
"""A file of this size is checked at every start."""


class Noted(NamedTuple):
    """One note."""

    segment_id: int
    item: LedgerItem


class LedgerCopy:
    """The copy of one archive. Keeps nothing in memory between two calls."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout = layout
        self._files = files
        self._path = str(layout.data / "ledger.copy")

    def add(self, items: Sequence[LedgerItem]) -> None:
        """Adds records that are durable in the log. Raises StorageFailed; the next start mends other failures."""
        try:
            self._append([_note(Noted(item.position.segment_id, item)) for item in items])
        except (StorageFull, ArchiveInUse) as error:
            logger.warning("no copy of the ledger's records yet", count=len(items), reason=str(error))

    def must_settle(self) -> bool:
        """Whether to call `settle` even after a clean stop."""
        try:
            fd = self._files.open(self._path, os.O_RDONLY)
        except OSError:
            return True
        try:
            return self._files.size(fd) > COPY_BYTES_MAX
        finally:
            self._files.close(fd)

    def settle(self, index: Catalog, lost: Iterable[Damage], records_of: dict[int, int]) -> set[int]:
        """Adds to the copy what only the index has, and writes to the log again what only the copy has.

        `records_of`: the record count of sealed segments. Returns those segments in `lost` whose every record is in
        the copy. Raises StorageFailed or IndexError_.
        """
        noted, is_whole = self._load()
        try:
            indexed, unknown, superfluous = _sorted_out(index, noted)
            rewritten = self._write_again(index, unknown)
            missing = self._missing(index, {_identity(each.item) for each in noted})
            if not is_whole or superfluous > max(SUPERFLUOUS_MAX, 2 * len(indexed)):
                self._begin_anew([*indexed, *rewritten, *missing])
            elif rewritten or missing or not self._files.exists(self._path):
                self._append([_note(each) for each in (*rewritten, *missing)])
        except (StorageFull, ArchiveInUse) as error:
            logger.error("the copy of the ledger waits for the next start", reason=str(error))
            return set()
        counts = Counter(segment_id for segment_id, _ in {(each.segment_id, _identity(each.item)) for each in noted})
        hit = {damage.segment_id for damage in lost}
        return {number for number in hit if 0 < records_of.get(number, 0) <= counts[number]}

    def _load(self) -> tuple[list[Noted], bool]:
        if not self._files.exists(self._path):
            return [], True
        try:
            notes, is_whole = read_notes(self._path, self._files)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read: {error.strerror}") from error
        noted = [entry for note in notes if (entry := _noted(note)) is not None]
        return noted, is_whole and len(noted) == len(notes)

    def _missing(self, index: Catalog, known: set[tuple[object, ...]]) -> list[Noted]:
        """Records that the index knows and the copy lacks: the archive had no copy, or a process died in between."""
        reader = LogReader(LocalSegments(self._layout.segments, self._files))
        missing = []
        try:
            for position in index.ledger_places():
                try:
                    item = unpack_record(reader.read_record(position))
                except (CorruptRecord, IndexError_) as error:
                    logger.error("a record of the ledger cannot be copied", reason=str(error))
                    continue
                if isinstance(item, Tombstone | Hold | Correction) and _identity(item) not in known:
                    missing.append(Noted(position.segment_id, item))
        finally:
            reader.close()
        return missing

    def _write_again(self, index: Catalog, unknown: Sequence[Noted]) -> list[Noted]:
        """Writes lost records to the log again, and applies them."""
        if not unknown:
            return []
        segment_log = SegmentLog(
            self._layout.segments,
            self._files,
            self._layout.archive_id,
            writer=f"ledger-{os.getpid()}",
            segment_bytes=LEDGER_SEGMENT_BYTES,
        )
        items = [each.item for each in unknown]
        try:
            for item in items:
                kind, key, meta = _parts(item)
                item.position = segment_log.append(kind, 0, item.stamp, key, meta, [], 0, 0)
            segment_log.sync()
            apply(index, items)
        finally:
            sealed = segment_log.close()
        index.apply([], marks={number: SegmentMark(length, True) for number, length in sealed})
        logger.error(
            "the log had lost tombstones, holds or corrections: written again from their copy", count=len(items)
        )
        return [Noted(item.position.segment_id, item) for item in items]

    def _append(self, notes: Sequence[Sequence[object]]) -> None:
        with locks.journals(self._layout, self._files):
            journal = self._open()
            try:
                if notes:
                    journal.append(notes)
            finally:
                journal.close()

    def _begin_anew(self, noted: Sequence[Noted]) -> None:
        with locks.journals(self._layout, self._files):
            journal = self._open()
            try:
                journal.replace([_note(each) for each in noted])
            finally:
                journal.close()

    def _open(self) -> Journal:
        try:
            return Journal(self._path, self._files)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}") from error


def apply(index: Catalog, items: Iterable[LedgerItem]) -> None:
    """Makes records of the ledger visible, in one transaction."""
    tombstones: list[Tombstone] = []
    holds: list[Hold] = []
    corrections: list[Correction] = []
    for item in items:
        if isinstance(item, Tombstone):
            tombstones.append(item)
        elif isinstance(item, Hold):
            holds.append(item)
        else:
            corrections.append(item)
    index.apply([], tombstones, holds=holds, corrections=corrections)


def _sorted_out(index: Catalog, noted: Sequence[Noted]) -> tuple[list[Noted], list[Noted], int]:
    """Notes that the index knows; those that it lacks, each once; and how many are superfluous."""
    indexed, unknown = [], {}
    superfluous = 0
    young_ns = time.time_ns() - TOMBSTONE_KEEP_S * 10**9
    for each in noted:
        item = each.item
        if index.knows(item):
            indexed.append(each)
        elif (isinstance(item, Tombstone) and item.deleted_ns > young_ns) or index.would_change(item):
            unknown[_identity(item)] = each
        else:
            superfluous += 1
    return indexed, list(unknown.values()), superfluous


def _identity(item: LedgerItem) -> tuple[object, ...]:
    return (item.stamp, *_parts(item))


def _parts(item: LedgerItem) -> tuple[Kind, bytes, bytes]:
    """Kind, key and meta block of its record."""
    if isinstance(item, Tombstone):
        return Kind.TOMBSTONE, item.uid, item.pack_meta()
    if isinstance(item, Hold):
        return Kind.HOLD, item.study_instance_uid, item.pack_meta()
    return Kind.CORRECTION, item.key, item.pack_meta()


def _note(noted: Noted) -> list[object]:
    kind, key, meta = _parts(noted.item)
    text = [base64.b64encode(part).decode("ascii") for part in (key, meta)]
    return ["record", int(kind), noted.item.stamp, noted.segment_id, *text]


def _noted(note: list[object]) -> Noted | None:
    match note:
        case ["record", int(kind), int(stamp), int(segment_id), str(key_text), str(meta_text)]:
            pass
        case _:
            return None
    try:
        key, meta = base64.b64decode(key_text, validate=True), base64.b64decode(meta_text, validate=True)
        position = Position(segment_id, 0, len(key), len(meta), 0, 0)
        item = unpack_record(Record(position, kind, 0, stamp, 0, 0, key, meta))
    except (binascii.Error, EngineError):
        return None
    return Noted(segment_id, item) if isinstance(item, Tombstone | Hold | Correction) else None


def commit(archive_log: SegmentLog, copy: LedgerCopy, items: Sequence[LedgerItem]) -> None:
    """Makes appended records durable, in log and copy. Raises StorageFull or StorageFailed, which ends the log."""
    archive_log.sync()
    try:
        copy.add(items)
    except StorageFailed as error:
        archive_log.fail(error)
        raise
