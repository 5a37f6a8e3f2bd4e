"""A second copy of the ledger (tombstones, holds, corrections, the trash): DATA/ledger.copy. It survives the loss of a
segment.

A lost instance is one instance less. A lost tombstone brings deleted images back, and a lost hold allows the deletion
of images that must stay. These records are small, so each is kept twice: in the log, which is the truth, and here.
Lines (`storage.journal`):

    ["record", kind, stamp, segment id, key, meta block]    in Base64; the first segment that it was written to
    ["encrypted", kind, stamp, segment id, key, id of the data key, nonce and ciphertext of the meta block]

    written      after the sync of the log and before the index transaction: every record here is in the log
    at a start   after an unclean end or damage to the log: adds records that only the index has; writes records that
                 the index lacks, and that would still have an effect, to the log again, and applies them
    shortened    when there are many records that are no longer needed

Applying a record twice, or late, gives the same result (`index.format.entry`), since its stamp tells which records it
concerns. A full disk prevents no deletion: the next start then makes the copy.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine import log
from engine.archive import locks
from engine.archive.layout import Layout
from engine.errors import (
    ArchiveInUse,
    CorruptRecord,
    EngineError,
    IndexError_,
    KeyMissing,
    StorageError,
    StorageFailed,
    StorageFull,
    for_log,
)
from engine.index.catalog import Catalog
from engine.index.format.entry import TOMBSTONE_KEEP_S, Hold, LedgerItem, Tombstone, unpack_record
from engine.index.format.trash_record import TrashRecord
from engine.index.format.types import SegmentMark
from engine.storage.files import Files
from engine.storage.journal import Journal, read_notes
from engine.storage.keyring import KEYRING, DataKey
from engine.storage.reader import LogReader
from engine.storage.record import Kind, Position, Record
from engine.storage.segment import Damage
from engine.storage.segment_log import SegmentLog

logger = log.get("archive.ledger")

_NONCE_BYTES = 12

LEDGER_SEGMENT_BYTES = 1 << 20
"""Length of a segment of the ledger. A record takes some hundred bytes, and 40 an instance or study."""

SUPERFLUOUS_MAX = 1000
"""The file is rewritten when this many of its notes, and half of them, are superfluous."""

COPY_BYTES_MAX = 64 << 20
"""A file of this size is checked at every start."""


class Note(NamedTuple):
    """One note."""

    segment_id: int
    item: LedgerItem


class LedgerCopy:
    """The copy of one archive's ledger. Keeps nothing in memory between two calls."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout = layout
        self._files = files
        self._path = str(layout.data / "ledger.copy")

    def add(self, items: Sequence[LedgerItem]) -> None:
        """Adds records that are durable in the log. Raises StorageFailed; the next start repairs other failures."""
        try:
            self._append([self._line(Note(item.position.segment_id, item)) for item in items])
        except (StorageFull, ArchiveInUse) as error:
            logger.warning("no copy of the ledger's records yet", count=len(items), reason=for_log(error))

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
        """Adds records that only the index has to the copy, and writes those that only the copy has to the log again.

        `records_of`: the record counts of sealed segments. Returns those segments in `lost` whose records are all in
        the copy. Raises StorageFailed or IndexError_.
        """
        notes, is_whole = self._load()
        try:
            indexed, unknown, superfluous = _sorted_out(index, notes)
            rewritten = self._write_again(index, unknown)
            missing = self._missing(index, {_identity(note.item) for note in notes})
            if not is_whole or superfluous > max(SUPERFLUOUS_MAX, 2 * len(indexed)):
                self._begin_anew([*indexed, *rewritten, *missing])
            elif rewritten or missing or not self._files.exists(self._path):
                self._append([self._line(note) for note in (*rewritten, *missing)])
        except (StorageFull, ArchiveInUse) as error:
            logger.error("the ledger is not copied before the next start", reason=for_log(error))
            return set()
        counts = Counter(segment_id for segment_id, _ in {(note.segment_id, _identity(note.item)) for note in notes})
        segment_ids = {damage.segment_id for damage in lost}
        return {number for number in segment_ids if 0 < records_of.get(number, 0) <= counts[number]}

    def _load(self) -> tuple[list[Note], bool]:
        if not self._files.exists(self._path):
            return [], True
        try:
            lines, is_whole = read_notes(self._path, self._files)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read: {error.strerror}") from error
        notes = [entry for line in lines if (entry := _note_of(line)) is not None]
        return notes, is_whole and len(notes) == len(lines)

    def _missing(self, index: Catalog, identities: set[tuple[object, ...]]) -> list[Note]:
        """Records that the index knows and the copy lacks: the archive had no copy, or a process died in between."""
        reader = LogReader(self._layout.segment_store(self._files))
        notes = []
        try:
            for places in index.ledger_places():
                note = self._read_any(reader, places)
                if note is not None and _identity(note.item) not in identities:
                    notes.append(note)
        finally:
            reader.close()
        return notes

    def _read_any(self, reader: LogReader, places: Sequence[Position]) -> Note | None:
        """A record, from the first of its places that can be read: a compaction that was killed has removed a segment
        of which the index still has rows, beside those of the copies.
        """
        reason = ""
        for position in places:
            try:
                item = unpack_record(reader.read_record(position))
            except (CorruptRecord, IndexError_) as error:
                reason = for_log(error)
                continue
            return Note(position.segment_id, item) if isinstance(item, LedgerItem) else None
        logger.error("a record of the ledger cannot be copied", reason=reason)
        return None

    def _write_again(self, index: Catalog, notes: Sequence[Note]) -> list[Note]:
        """Writes lost records to the log again, and applies them."""
        if not notes:
            return []
        writer = f"ledger-{os.getpid()}"
        segment_log = self._layout.segment_log(self._files, writer, segment_bytes=LEDGER_SEGMENT_BYTES)
        items = [note.item for note in notes]
        try:
            for item in items:
                kind, key, meta = parts_of(item)
                item.position = segment_log.append(kind, 0, item.stamp, key, meta, [], 0, 0)
            segment_log.sync()
            index.apply(items)
        finally:
            sealed = segment_log.close()
        index.apply([], marks={number: SegmentMark(length, True) for number, length in sealed})
        logger.error("the log had lost records of the ledger: written again from their copy", count=len(items))
        return [Note(item.position.segment_id, item) for item in items]

    def _append(self, lines: Sequence[Sequence[object]]) -> None:
        with locks.journals(self._layout, self._files):
            journal = self._open()
            try:
                if lines:
                    journal.append(lines)
            finally:
                journal.close()

    def _begin_anew(self, notes: Sequence[Note]) -> None:
        with locks.journals(self._layout, self._files):
            journal = self._open()
            try:
                journal.replace([self._line(note) for note in notes])
            finally:
                journal.close()

    def _line(self, note: Note) -> list[object]:
        return _line_of(note, self._layout.data_key() if self._layout.data_key is not None else None)

    def _open(self) -> Journal:
        try:
            return Journal(self._path, self._files)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}") from error


def _sorted_out(index: Catalog, notes: Sequence[Note]) -> tuple[list[Note], list[Note], int]:
    """Notes that the index has; those that it lacks, each once; and the number of superfluous ones."""
    indexed, unknown = [], {}
    superfluous = 0
    young_ns = time.time_ns() - TOMBSTONE_KEEP_S * 10**9
    for note in notes:
        item = note.item
        if index.knows(item):
            indexed.append(note)
        elif _deleted_ns(item) > young_ns or index.would_change(item):
            unknown[_identity(item)] = note
        else:
            superfluous += 1
    return indexed, list(unknown.values()), superfluous


def _deleted_ns(item: LedgerItem) -> int:
    """When the record deleted something; 0 if it is of another kind."""
    if isinstance(item, TrashRecord):
        return item.made_ns
    return item.deleted_ns if isinstance(item, Tombstone) else 0


def _identity(item: LedgerItem) -> tuple[object, ...]:
    return (item.stamp, *parts_of(item))


def parts_of(item: LedgerItem) -> tuple[Kind, bytes, bytes]:
    """Kind, key and meta block of its record."""
    if isinstance(item, Tombstone):
        return Kind.TOMBSTONE, item.uid, item.pack_meta()
    if isinstance(item, Hold):
        return Kind.HOLD, item.study_instance_uid, item.pack_meta()
    if isinstance(item, TrashRecord):
        return Kind.TRASH, item.uid, item.pack_meta()
    return Kind.CORRECTION, item.key, item.pack_meta()


def _line_of(note: Note, data_key: DataKey | None) -> list[object]:
    kind, key, meta = parts_of(note.item)
    head = [int(kind), note.item.stamp, note.segment_id, _text(key)]
    if data_key is None:
        return ["record", *head, _text(meta)]
    nonce = os.urandom(_NONCE_BYTES)
    ciphertext = _cipher(data_key).encrypt(nonce, meta, orjson.dumps(head))
    return ["encrypted", *head, data_key.key_id.hex(), _text(nonce + ciphertext)]


def _note_of(line: list[object]) -> Note | None:
    """Raises KeyMissing."""
    try:
        match line:
            case ["record", int(kind), int(stamp), int(segment_id), str(key_text), str(meta_text)]:
                meta = base64.b64decode(meta_text, validate=True)
            case ["encrypted", int(kind), int(stamp), int(segment_id), str(key_text), str(key_id), str(meta_text)]:
                data = base64.b64decode(meta_text, validate=True)
                head = orjson.dumps([kind, stamp, segment_id, key_text])
                cipher = _cipher(KEYRING.get(bytes.fromhex(key_id)))
                meta = cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], head)
            case _:
                return None
        key = base64.b64decode(key_text, validate=True)
        position = Position(segment_id, 0, len(key), len(meta), 0, 0)
        item = unpack_record(Record(position, kind, 0, stamp, 0, 0, key, meta))
    except KeyMissing:
        raise
    except (binascii.Error, ValueError, InvalidTag, EngineError):
        return None
    return Note(segment_id, item) if isinstance(item, LedgerItem) else None


def _cipher(data_key: DataKey) -> AESGCM:
    return AESGCM(data_key.derive(b"filmroom ledger copy"))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def commit(archive_log: SegmentLog, copy: LedgerCopy, items: Sequence[LedgerItem]) -> None:
    """Makes appended records durable, in log and copy. Raises StorageFull or StorageFailed, which ends the log."""
    archive_log.sync()
    try:
        copy.add(items)
    except StorageFailed as error:
        archive_log.fail(error)
        raise
