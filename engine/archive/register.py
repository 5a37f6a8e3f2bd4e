"""The register: which segments were sealed, in DATA/sealed. It outlives the index, which may be lost.

Without it, a sealed segment that has lost its footer looks like one whose writer was killed: a recovery would cut it
after its last whole record, or remove it. The keeper notes each sealed segment at the next checkpoint or when it
closes, so that no writer waits for it. A compaction notes each segment before it removes it. Lines (`storage.journal`):

    ["sealed", [[id, salt, tail, records, layout], …]]   salt -1 and records -1: the footer was damaged already
    ["removed", [id, …]]                                 written before the file is removed; ids are never used again

The next start adds what a crash has prevented. If the file is missing or has a damaged line, a start makes it from the
existing segments; until then `is_whole` is false, and a recovery treats every segment as sealed that may have been
(see `storage.recovery`). A replica has no register, since its log is never cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from engine import log
from engine.archive import locks
from engine.archive.layout import Layout
from engine.errors import ArchiveInUse, CorruptRecord, StorageError, StorageFailed, StorageFull, for_log
from engine.index.format.types import SegmentMark
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.journal import Journal, read_notes
from engine.storage.recovery import Sealed, SealedSegments
from engine.storage.segment import LAYOUT_LOG, list_segments, segment_path
from engine.storage.segment_bytes import FileBytes

logger = log.get("archive.register")

NOTES_MAX_FACTOR = 4
"""The file is rewritten when it has this many times more entries than there are segments."""
NOTES_MIN = 1000


class Register:
    """One process's view of the register. After a failure it writes no more: the process is about to end."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout = layout
        self._files = files
        self._path = str(layout.data / "sealed")
        self._noted: set[int] = set()
        self._record_counts: dict[int, int] = {}
        self._has_rotted = False
        self._failed: StorageFailed | None = None

    def load(self) -> SealedSegments:
        """Reads the file; `is_whole` is false when it may be incomplete. Raises StorageError."""
        files = self._files
        if not files.exists(self._path):
            self._noted = set()
            return SealedSegments({}, is_whole=not list_segments(self._layout.segments, files))
        try:
            notes, is_whole = read_notes(self._path, files)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read: {error.strerror}") from error
        segments, entry_count = self._state(notes, is_whole)
        self._has_rotted = not segments.is_whole
        if segments.is_whole and entry_count > NOTES_MAX_FACTOR * len(segments.by_id) + NOTES_MIN:
            self._begin_anew()
        self._noted = set(segments.by_id)
        self._record_counts = {number: sealed.records for number, sealed in segments.by_id.items()}
        return segments

    def record_counts(self) -> dict[int, int]:
        """The record count of each sealed segment in the file when it was loaded."""
        return self._record_counts

    def _state(self, notes: Iterable[list[object]], is_whole: bool) -> tuple[SealedSegments, int]:
        """The state that these notes describe, and the number of their entries."""
        sealed: dict[int, Sealed] = {}
        removed: set[int] = set()
        entry_count = 0
        for note in notes:
            match note:
                case ["sealed", [*entries]]:
                    for entry in map(self._entry, entries):
                        is_whole = is_whole and entry is not None
                        if entry is not None:
                            sealed[entry.segment_id] = entry
                    entry_count += len(entries)
                case ["removed", [*ids]]:
                    removed.update(number for number in ids if isinstance(number, int))
                    entry_count += len(ids)
                case _:
                    is_whole = False
        remaining = {number: entry for number, entry in sealed.items() if number not in removed}
        return SealedSegments(remaining, is_whole), entry_count

    def _entry(self, entry: object) -> Sealed | None:
        match entry:
            case [int(segment_id), int(salt), int(tail), int(records), int(layout)]:
                return Sealed(segment_id, self._layout.archive_id, salt, tail, records, layout)
        return None

    def _begin_anew(self) -> None:
        """Rewrites the file without removed segments. If that fails, another start tries again."""
        try:
            with locks.journals(self._layout, self._files):
                journal = self._open()
                try:
                    segments, _ = self._state(journal.notes, journal.is_whole)
                    journal.replace([["sealed", [_note_of(entry) for entry in segments.by_id.values()]]])
                finally:
                    journal.close()
        except (StorageFull, ArchiveInUse) as error:
            logger.warning("DATA/sealed is not shortened", error=for_log(error))

    def note(self, marks: Mapping[int, SegmentMark], *, is_complete: bool = False) -> None:
        """Notes those segments that are sealed according to `marks` and are not noted yet.

        `is_complete`: these are all segments, so the file is whole from now on. Raises StorageFailed; on a full disk it
        does nothing, and the next call notes them.
        """
        new_numbers = [
            number
            for number, mark in marks.items()
            if mark.sealed and number not in self._noted and self._layout.writes(number)
        ]
        must_be_whole = is_complete and (self._has_rotted or not self._files.exists(self._path))
        if self._failed is not None or not (new_numbers or must_be_whole):
            return
        entries = [entry for number in new_numbers if (entry := self._look(number, marks[number])) is not None]
        try:
            self._append(["sealed", [_note_of(entry) for entry in entries]])
            if must_be_whole and self._has_rotted:
                self._begin_anew()
                self._has_rotted = False
        except StorageFull as error:
            logger.warning("sealed segments are not noted yet, the disk is full", error=for_log(error))
            return
        self._noted.update(new_numbers)

    def note_removed(self, segment_ids: Iterable[int]) -> None:
        """Notes, durably, that these segments are about to be removed. Raises StorageFull or StorageFailed."""
        self._append(["removed", list(segment_ids)])

    def _open(self) -> Journal:
        try:
            return Journal(self._path, self._files)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}") from error

    def _append(self, note: list[object]) -> None:
        if self._failed is not None:
            raise StorageFailed(f"an earlier write to DATA/sealed failed: {self._failed}")
        with locks.journals(self._layout, self._files):
            journal = self._open()
            try:
                journal.append([note])
            except StorageFailed as error:
                self._failed = error
                raise
            finally:
                journal.close()

    def _look(self, segment_id: int, mark: SegmentMark) -> Sealed | None:
        """The entry of a sealed segment; None if its file is missing."""
        files = self._files
        archive_id = self._layout.archive_id
        try:
            fd = files.open(segment_path(self._layout.segments, segment_id), os.O_RDONLY)
        except OSError:
            return None
        try:
            trailer = hints.read_trailer(FileBytes(files, fd), segment_id)
        except CorruptRecord:
            trailer = None
        finally:
            files.close(fd)
        if trailer is None or trailer.archive_id != archive_id:
            return Sealed(segment_id, archive_id, -1, mark.indexed_bytes, -1, LAYOUT_LOG)
        records = trailer.record_count if not trailer.damage_count else -1
        return Sealed(segment_id, archive_id, trailer.salt, trailer.tail, records, trailer.layout)


def _note_of(entry: Sealed) -> list[int]:
    return [entry.segment_id, entry.salt, entry.tail, entry.records, entry.layout]
