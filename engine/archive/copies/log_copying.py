"""Copies the new parts of one log into a backup: the plan for each of its segments, and the copying.

The archive has up to three logs (`copies.manifest`). Each is looked at by itself, all of them share a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from engine.archive.copies import extent
from engine.archive.copies.extent import Extent
from engine.archive.copies.manifest import DIGEST_BYTES, IMAGES, BackupFolder, Manifest, Range, SegmentCopy, make_log
from engine.errors import CorruptRecord, StorageError
from engine.rate_limiter import RateLimiter
from engine.storage.journal import Journal
from engine.storage.segment import segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_store import SegmentStore

RANGE_BYTES = 64 << 20
"""Bytes under one hash, and the most that a killed backup copies again."""
PIECE_BYTES = 1 << 20
BLOCK_BYTES = 4096
"""Bytes that are skipped where a source cannot be read."""
JOIN_BYTES = 4096
"""How much of a copy's end is compared with the source before it is lengthened."""

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Run:
    """What the logs share in one run of a backup."""

    folder: BackupFolder
    rate_limiter: RateLimiter
    progress: Progress | None
    is_joining: bool = False
    """Whether the last manifest is another history's."""
    claims: dict[str, int] = field(default_factory=dict)
    """As `histories.claims` has them."""
    copied_bytes: int = 0
    total_bytes: int = 0
    """To copy in this run, with what is copied."""
    findings: list[str] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    """Findings that stay when the list of segments is made anew."""

    def copied(self, length: int) -> None:
        """Counts copied bytes."""
        self.copied_bytes += length
        self.show()

    def show(self) -> None:
        """Tells how far it is."""
        if self.progress is not None:
            self.progress("bytes", self.copied_bytes, self.total_bytes)


@dataclass(frozen=True, slots=True)
class CopyStep:
    """One segment of the state that this backup makes."""

    segment_id: int
    found: Extent
    copy: SegmentCopy
    """The copy that exists already."""

    @property
    def missing_bytes(self) -> int:
        """What the copy lacks."""
        return self.found.end - self.copy.length


class Vanished(Exception):
    """A segment is gone: no error, since the list may be old."""


class LogCopying:
    """One log."""

    def __init__(self, name: str, source: str, run: Run, elsewhere: SegmentStore | None = None) -> None:
        self.name = name
        self._source = source
        self._run = run
        self._folder = run.folder
        self._files = run.folder.files
        self._elsewhere_store = elsewhere
        self._known: dict[tuple[int, int], SegmentCopy] = {}
        """The copies in DEST, by id and salt."""
        self._ends: dict[tuple[int, int], int] = {}
        """Where whole records are known to end, by id and salt. Not where a copy ends: that may be inside a record."""
        self._by_id: dict[int, SegmentCopy] = {}
        """The segments of the last manifest, by id."""

    def begin_with(self, manifest: Manifest) -> None:
        """Takes the copies that a state names."""
        copies = [copy for copy in manifest.copies if copy.log == self.name]
        self._by_id = {copy.segment_id: copy for copy in copies}
        self._known = {(copy.segment_id, copy.salt): copy for copy in copies}
        self._ends = {key: copy.length for key, copy in self._known.items()}

    def add_range(self, segment_id: int, salt: int, number: int, item: Range) -> None:
        """Adds a range that is in a copy and in no manifest."""
        copy = self._known.get((segment_id, salt))
        if copy is None or copy.copy != number:
            copy = SegmentCopy(segment_id, salt, number, False, (0, 0), (), self.name)
        if item[0] == copy.length < item[1]:
            self._known[segment_id, salt] = replace(copy, ranges=(*copy.ranges, item), is_sealed=False)

    def plan(self) -> list[CopyStep]:
        """The segments, and how far each can be copied now. Raises Vanished, StorageError.

        Looks at the newest one first, so that no record is in the plan without those that the same writer wrote before.
        """
        try:
            is_there = self.name == IMAGES or self._files.exists(self._source)
            present = extent.stable_segments(self._source, self._files) if is_there else []
        except OSError as error:
            raise StorageError(f"{self._source} cannot be read: {error.strerror}") from error
        if not self._run.is_joining and max(self._by_id, default=-1) > max(present, default=-1):
            # A compaction never removes the newest one.
            self._has_diverged(max(self._by_id), "is not there any more")
        steps = [self._look(segment_id) for segment_id in reversed(present)]
        return [*(item for item in reversed(steps) if item is not None), *self._elsewhere(present)]

    def _name_of(self, segment_id: int) -> str:
        return f"segment {segment_id:016x}" if self.name == IMAGES else f"segment {self.name}/{segment_id:016x}"

    def _elsewhere(self, present: list[int]) -> list[CopyStep]:
        """The segments that are in an object store only, as far as they were copied while they were here."""
        elsewhere = self._elsewhere_store
        absent = set() if elsewhere is None else set(elsewhere.segment_ids()) - set(present)
        steps = []
        for segment_id in sorted(absent):
            entry = self._by_id.get(segment_id)
            if entry is not None and entry.is_sealed and self._is_there(entry):
                steps.append(CopyStep(segment_id, Extent(entry.salt, entry.length, True), entry))
        if len(steps) < len(absent):
            count = len(absent) - len(steps)
            self._run.findings.append(
                f"{count} segments are in the object store only, and not in this backup: `filmroom object-store fetch`"
                " makes files of them"
            )
        return steps

    def _look(self, segment_id: int) -> CopyStep | None:
        """The plan for one segment; None when the segment is empty."""
        path = segment_path(self._source, segment_id)
        source = self._files.identity(path)
        if source is None:
            raise Vanished
        entry = self._by_id.get(segment_id)
        if entry is not None and entry.is_sealed and entry.source == source and self._is_there(entry):
            return CopyStep(segment_id, Extent(entry.salt, entry.length, True), entry)
        fd = self._open(segment_id)
        try:
            return self._look_into(fd, segment_id, source)
        except (CorruptRecord, OSError) as error:
            self._run.findings.append(f"{self._name_of(segment_id)} cannot be copied: {error}")
            # Keep the part that was copied while the segment could be read.
            if entry is None or not self._is_there(entry):
                return None
            return CopyStep(segment_id, Extent(entry.salt, entry.length, entry.is_sealed), entry)
        finally:
            self._files.close(fd)

    def _look_into(self, fd: int, segment_id: int, source: tuple[int, int]) -> CopyStep | None:
        there = extent.look(FileBytes(self._files, fd), segment_id, lambda salt: self._ends.get((segment_id, salt), 0))
        if there is None or there.is_empty:
            return None
        self._ends[segment_id, there.salt] = there.end
        copy = self._known.get((segment_id, there.salt))
        if copy is None:
            copy = SegmentCopy(segment_id, there.salt, 0, False, source, (), self.name)
            if self.name != IMAGES:
                # The newest state may be of a version that knew only the images, and an older one may need the file.
                copy = self._another(copy, source)
            if segment_id in self._by_id and not self._run.is_joining:
                self._has_diverged(segment_id, "is another one than was backed up")
        elif not self._is_there(copy):
            copy = replace(copy, ranges=(), is_sealed=False)
        elif not self._continues(fd, copy, there):
            if not self._run.is_joining:
                self._has_diverged(segment_id, "has other bytes than were backed up from it")
            copy = self._another(copy, source)
            there = extent.look(FileBytes(self._files, fd), segment_id) or there
            self._ends[segment_id, there.salt] = there.end
        if copy.length < min(there.end, self._run.claims.get(copy.file_name, 0)):
            copy = self._another(copy, source)
        return CopyStep(segment_id, there, replace(copy, source=source))

    def _has_diverged(self, segment_id: int, what: str) -> None:
        self._run.findings.append(
            f"{self._name_of(segment_id)} {what}: this archive was rolled back, or is a clone of the one that was"
            " backed up; both histories are kept"
        )

    def _is_there(self, copy: SegmentCopy) -> bool:
        return self._folder.size(copy) >= copy.length

    def _continues(self, fd: int, copy: SegmentCopy, found: Extent) -> bool:
        """Whether the source still has the copied bytes, and may have more."""
        if copy.length > found.end or (copy.is_sealed and not (found.is_sealed and found.end == copy.length)):
            return False
        start = max(0, copy.length - JOIN_BYTES)
        target = self._files.open(self._folder.segment(copy), os.O_RDONLY | os.O_NONBLOCK)
        try:
            ours = self._files.pread(target, copy.length - start, start)
        finally:
            self._files.close(target)
        return ours == self._files.pread(fd, copy.length - start, start)

    def _another(self, copy: SegmentCopy, source: tuple[int, int]) -> SegmentCopy:
        """A new copy of the same segment, in a new file."""
        while self._files.exists(self._folder.segment(copy)):
            copy = replace(copy, copy=copy.copy + 1)
        self._known[copy.segment_id, copy.salt] = begun = replace(copy, is_sealed=False, source=source, ranges=())
        return begun

    def _open(self, segment_id: int) -> int:
        try:
            return self._files.open(segment_path(self._source, segment_id), os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise Vanished from None
        except OSError as error:
            raise StorageError(f"{self._name_of(segment_id)} cannot be opened: {error.strerror}") from error

    # -- copying --------------------------------------------------------------------------------

    def copy(self, plan: list[CopyStep], journal: Journal) -> list[SegmentCopy]:
        """Carries a plan out; returns the segments for the manifest. Raises Vanished, StorageError."""
        if plan and self.name != IMAGES:
            make_log(self._folder.path, self.name, self._files)
        copies = []
        for step in plan:
            copy = step.copy
            if step.missing_bytes:
                copy = self._copy(step, journal)
            if step.found.is_sealed and copy.length == step.found.end:
                copy = replace(copy, is_sealed=True)
            copies.append(copy)
        self._run.show()
        if plan:
            self._files.sync_directory(str(self._folder.path / self.name))
        return copies

    def _copy(self, step: CopyStep, journal: Journal) -> SegmentCopy:
        source = self._open(step.segment_id)
        try:
            # Sync first: a backup must hold nothing that the source can still lose.
            self._files.fdatasync(source)
            target = self._open_target(step.copy)
            try:
                return self._copy_ranges(step, source, target, journal)
            finally:
                self._files.close(target)
        finally:
            self._files.close(source)

    def _open_target(self, copy: SegmentCopy) -> int:
        path = self._folder.segment(copy)
        try:
            return self._files.create(path)
        except FileExistsError:
            return self._files.open(path, os.O_RDWR)

    def _copy_ranges(self, step: CopyStep, source: int, target: int, journal: Journal) -> SegmentCopy:
        copy = step.copy
        key = (copy.segment_id, copy.salt)
        while copy.length < step.found.end:
            end = min(copy.length + RANGE_BYTES, step.found.end)
            item = self._copy_range(source, target, copy.segment_id, copy.length, end)
            whose = () if self.name == IMAGES else (self.name,)
            journal.append([(copy.segment_id, copy.salt, copy.copy, *item, *whose)])
            copy = replace(copy, ranges=(*copy.ranges, item), is_sealed=False)
            self._known[key] = copy
        return copy

    def _copy_range(self, source: int, target: int, segment_id: int, start: int, end: int) -> Range:
        digest = blake2b(digest_size=DIGEST_BYTES)
        at = start
        while at < end:
            piece = self._read(source, segment_id, self._run.rate_limiter.piece(min(PIECE_BYTES, end - at)), at)
            digest.update(piece)
            self._files.pwritev(target, [piece], at, len(piece))
            at += len(piece)
            self._run.copied(len(piece))
            self._run.rate_limiter.spent(len(piece))
        self._files.fdatasync(target)
        return start, end, digest.hexdigest()

    def _read(self, source: int, segment_id: int, length: int, at: int) -> bytes:
        try:
            piece = self._files.pread(source, length, at)
        except OSError as error:
            if length <= BLOCK_BYTES:
                # One bad block must not keep the rest of the archive from being backed up.
                what = f"cannot be read: {error.strerror}; copied as zeros"
                finding = f"{self._name_of(segment_id)} offset {at}: {length} bytes {what}"
                self._run.lasting.append(finding)
                self._run.findings.append(finding)
                return bytes(length)
            starts = range(at, at + length, BLOCK_BYTES)
            end = at + length
            return b"".join(self._read(source, segment_id, min(BLOCK_BYTES, end - start), start) for start in starts)
        if len(piece) != length:
            raise Vanished  # cut while it was read: a recovery; it has another end now
        return piece
