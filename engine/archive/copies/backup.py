"""Copies new parts of the log to another place: online, incremental, one consistent state each time.

`copies.manifest` owns the format, `copies.backup_check` checks a backup, `copies.restore` restores it. A backup reads
only the log, so it works beside a server, without one, or on an archive that crashed. It takes no role and no lock.

    1  list the segments; look how far each can be copied (`archive.copies.extent`): that is the moment of the backup
    2  for each with something new: sync it at its source, copy, hash, sync the copy, note the range in DEST/progress
    3  a segment has vanished in the meantime (compaction): back to 1, what is copied stays copied
    4  write the manifest, begin DEST/progress anew

    killed in 2 or 3    the next run finds the ranges in DEST/progress and goes on behind them
    killed in 4         there is a manifest or there is none; never half of one

A copy only grows. Before it grows, its last bytes are compared with the source's. If they differ, the source has
another history (it was rolled back, or is a clone): the backup reports that and copies the segment again under another
name, beside the old copy that older manifests name. Never write to bytes that a state of another history names
(`copies.histories`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

from engine import log
from engine.accounts import dump
from engine.archive.copies import extent, histories, key_file, study_key_file
from engine.archive.copies.audit_copy import copy_audit
from engine.archive.copies.extent import Extent
from engine.archive.copies.manifest import DIGEST_BYTES, BackupFolder, Heading, Manifest, Range, SegmentCopy, history_of
from engine.archive.layout import Layout
from engine.archive.unlocking import unlock
from engine.errors import AccountsError, ArchiveInUse, BackupError, CorruptRecord, KeyStoreError, StorageError
from engine.rate_limiter import RateLimiter
from engine.storage.files import Files
from engine.storage.journal import Journal
from engine.storage.segment import segment_path
from engine.storage.segment_bytes import FileBytes

logger = log.get("archive.backup")

RANGE_BYTES = 64 << 20
"""Bytes under one hash, and the most that a killed backup copies again."""
PIECE_BYTES = 1 << 20
BLOCK_BYTES = 4096
"""Bytes that are skipped where a source cannot be read."""
JOIN_BYTES = 4096
"""How much of a copy's end is compared with the source before it is lengthened."""
ATTEMPTS_MAX = 100
"""How often a backup may begin again because segments vanish; each time less is left to copy."""

_WHOSE = "history"
"""The first item of the note in DEST/progress that names the history of the notes after it."""

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class BackupReport:
    """The result of a backup."""

    manifest: str = ""
    segments: int = 0
    total_bytes: int = 0
    """Of the state that the manifest names."""
    copied_bytes: int = 0
    audit_bytes: int = 0
    """Of the audit log, which no manifest names."""
    findings: list[str] = field(default_factory=list)
    """Segments that could not be copied, or are wrong."""
    removed_manifests: int = 0
    removed_segments: int = 0
    other_histories: int = 0
    """Of the same archive in the same folder: `copies.histories`."""


@dataclass(frozen=True, slots=True)
class _CopyStep:
    """One segment of the state that this backup makes."""

    segment_id: int
    found: Extent
    copy: SegmentCopy
    """The copy that exists already."""

    @property
    def missing_bytes(self) -> int:
        return self.found.end - self.copy.length


class _Vanished(Exception):
    """A segment is gone: no error, since the list may be old."""


def back_up(
    layout: Layout,
    destination: Path,
    *,
    files: Files | None = None,
    keep: int | None = None,
    join: bool = False,
    bytes_per_s: int = 0,
    progress: Progress | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    rate_limiter: RateLimiter | None = None,
) -> BackupReport:
    """Brings the backup in `destination` up to now. With `keep`, only so many states of this history stay.

    With `join` also where the folder holds other histories of this archive only. Raises BackupError, ArchiveInUse when
    another backup writes there, StorageFull or StorageFailed.
    """
    folder = BackupFolder(destination, files or Files())
    try:
        folder.prepare(layout)
        lock = _Lock(folder)
        try:
            backup = _Backup(layout, folder, rate_limiter or RateLimiter(bytes_per_s), progress, now)
            backup.take(join=join)
            if keep is not None:
                pruned = histories.prune(folder, keep, history_of(layout.lineage, layout.role))
                backup.report.removed_manifests, backup.report.removed_segments = pruned
            backup.report.audit_bytes += _copy_audit(layout, destination, folder.files)
            return backup.report
        finally:
            lock.close()
    except OSError as error:
        raise BackupError(f"the backup in {destination} cannot be read: {error.strerror}") from error


def _copy_audit(layout: Layout, destination: Path, files: Files) -> int:
    """Copies the audit log, sealed with a key of an encrypted archive; returns the bytes."""
    try:
        key = unlock(layout, files).data_key
    except KeyStoreError as error:
        # The images need no key, and are worth a backup without it.
        logger.warning("the audit log is not in this backup: no key is at hand to encrypt it", reason=str(error))
        return 0
    return copy_audit(layout.data, destination, files, key() if key is not None else None)


class _Lock:
    """DEST/lock: one backup writes at a time."""

    def __init__(self, folder: BackupFolder) -> None:
        self._files = folder.files
        path = f"{folder.path}/lock"
        try:
            self._fd = self._files.create(path)
        except FileExistsError:
            self._fd = self._files.open(path, os.O_RDWR)
        try:
            if not self._files.lock(self._fd):
                raise ArchiveInUse(f"another backup is being written to {folder.path}")
        except BaseException:
            self._files.close(self._fd)
            raise

    def close(self) -> None:
        self._files.close(self._fd)


class _Backup:
    """One run."""

    def __init__(
        self,
        layout: Layout,
        folder: BackupFolder,
        rate_limiter: RateLimiter,
        progress: Progress | None,
        now: Callable[[], datetime],
    ) -> None:
        self._layout = layout
        self._folder = folder
        self._files = folder.files
        self._rate_limiter = rate_limiter
        self._progress = progress
        self._now = now
        self.report = BackupReport()
        self._known: dict[tuple[int, int], SegmentCopy] = {}
        """The copies in DEST, by id and salt."""
        self._ends: dict[tuple[int, int], int] = {}
        """Where whole records are known to end, by id and salt. Not where a copy ends: that may be inside a record."""
        self._by_id: dict[int, SegmentCopy] = {}
        """The segments of the last manifest, by id."""
        self._lasting: list[str] = []
        """Findings that stay when the list of segments is made anew."""
        self._history = history_of(layout.lineage, layout.role)
        self._is_joining = False
        """Whether the last manifest is another history's."""
        self._claims: dict[str, int] = {}

    def take(self, *, join: bool) -> None:
        """Makes the backup, as the head of this module describes."""
        heading = histories.admit(self._folder, self._history, join=join)
        names = histories.names_of(heading)
        self._is_joining = self._history not in names
        self.report.other_histories = len(set(names) - {self._history})
        self._claims = histories.claims(self._folder, heading, self._history)
        self._read_manifest(heading)
        journal = Journal(self._folder.progress, self._files)
        try:
            self._read_progress(journal)
            for _ in range(ATTEMPTS_MAX):
                try:
                    moment = self._folder.moment(self._now())
                    plan = self._plan()
                    copies = self._copy_all(plan, journal)
                    break
                except _Vanished:
                    logger.info("a segment has vanished, the backup begins again")
            else:
                raise BackupError("segments vanish faster than they can be copied")
            self._files.sync_directory(self._folder.segments)
            layout = self._layout
            # Read after the segments: no record may have a key that the manifest lacks.
            keys = key_file.content(layout, self._files)
            study_key_file.back_up(layout, self._folder.path, self._files)
            manifest = Manifest(
                layout.archive_id, layout.lineage, moment, tuple(copies), layout.role, keys, self._accounts()
            )
            self._folder.write(manifest)
            journal.replace([])
        finally:
            journal.close()
        self.report.manifest = manifest.file_name
        self.report.segments = len(copies)
        self.report.total_bytes = manifest.total_bytes

    def _accounts(self) -> str:
        try:
            return dump.text_of(self._layout.data)
        except AccountsError as error:
            self.report.findings.append(str(error))  # images are worth a backup without them
            return ""

    # -- the existing backup --------------------------------------------------------------------

    def _read_manifest(self, found: list[Heading]) -> None:
        """The newest one, of this history where there is one."""
        others = {heading.name for heading in found if heading.history != self._history and not self._is_joining}
        for name in reversed(self._folder.names()):
            if name in others:
                continue
            try:
                manifest = self._folder.read(name)
            except BackupError as error:
                self._lasting.append(str(error))
                continue
            self._by_id = {copy.segment_id: copy for copy in manifest.segments}
            self._known = {(copy.segment_id, copy.salt): copy for copy in manifest.segments}
            self._ends = {key: copy.length for key, copy in self._known.items()}
            return

    def _read_progress(self, journal: Journal) -> None:
        whose = [note[1:] for note in journal.notes if note[:1] == [_WHOSE]]
        if whose[-1:] != [[self._history]]:
            is_ours = not whose and not self.report.other_histories  # versions before 2026-11-29 did not say whose
            journal.replace([(_WHOSE, self._history), *(journal.notes if is_ours else ())])
        for note in journal.notes:
            try:
                segment_id, salt, number, start, end, digest = note
                key = int(segment_id), int(salt)  # type: ignore[call-overload]
                item = int(start), int(end), str(digest)  # type: ignore[call-overload]
                copy = self._known.get(key)
                if copy is None or copy.copy != number:
                    copy = SegmentCopy(*key, int(number), False, (0, 0), ())  # type: ignore[call-overload]
            except (TypeError, ValueError):
                continue
            if item[0] == copy.length < item[1]:
                self._known[key] = replace(copy, ranges=(*copy.ranges, item), is_sealed=False)

    # -- the plan -------------------------------------------------------------------------------

    def _plan(self) -> list[_CopyStep]:
        try:
            present = extent.stable_segments(self._layout.segments, self._files)
        except OSError as error:
            raise StorageError(f"{self._layout.segments} cannot be read: {error.strerror}") from error
        self.report.findings = list(self._lasting)
        if not self._is_joining and max(self._by_id, default=-1) > max(present, default=-1):
            # A compaction never removes the newest one.
            self._has_diverged(max(self._by_id), "is not there any more")
        steps = (self._look(segment_id) for segment_id in present)
        return [*(item for item in steps if item is not None), *self._elsewhere(present)]

    def _elsewhere(self, present: list[int]) -> list[_CopyStep]:
        """The segments that are in an object store only, as far as they were copied while they were here."""
        elsewhere = self._layout.elsewhere
        absent = set() if elsewhere is None else set(elsewhere.segment_ids()) - set(present)
        steps = []
        for segment_id in sorted(absent):
            entry = self._by_id.get(segment_id)
            if entry is not None and entry.is_sealed and self._is_there(entry):
                steps.append(_CopyStep(segment_id, Extent(entry.salt, entry.length, True), entry))
        if len(steps) < len(absent):
            count = len(absent) - len(steps)
            self.report.findings.append(
                f"{count} segments are in the object store only, and not in this backup: `filmroom object-store fetch`"
                " makes files of them"
            )
        return steps

    def _look(self, segment_id: int) -> _CopyStep | None:
        """The plan for one segment; None when the segment is empty."""
        path = segment_path(self._layout.segments, segment_id)
        source = self._files.identity(path)
        if source is None:
            raise _Vanished
        entry = self._by_id.get(segment_id)
        if entry is not None and entry.is_sealed and entry.source == source and self._is_there(entry):
            return _CopyStep(segment_id, Extent(entry.salt, entry.length, True), entry)
        fd = self._open(segment_id)
        try:
            return self._look_into(fd, segment_id, source)
        except (CorruptRecord, OSError) as error:
            self.report.findings.append(f"segment {segment_id:016x} cannot be copied: {error}")
            # Keep the part that was copied while the segment could be read.
            if entry is None or not self._is_there(entry):
                return None
            return _CopyStep(segment_id, Extent(entry.salt, entry.length, entry.is_sealed), entry)
        finally:
            self._files.close(fd)

    def _look_into(self, fd: int, segment_id: int, source: tuple[int, int]) -> _CopyStep | None:
        there = extent.look(FileBytes(self._files, fd), segment_id, lambda salt: self._ends.get((segment_id, salt), 0))
        if there is None or there.is_empty:
            return None
        self._ends[segment_id, there.salt] = there.end
        copy = self._known.get((segment_id, there.salt))
        if copy is None:
            copy = SegmentCopy(segment_id, there.salt, 0, False, source, ())
            if segment_id in self._by_id and not self._is_joining:
                self._has_diverged(segment_id, "is another one than was backed up")
        elif not self._is_there(copy):
            copy = replace(copy, ranges=(), is_sealed=False)
        elif not self._continues(fd, copy, there):
            if not self._is_joining:
                self._has_diverged(segment_id, "has other bytes than were backed up from it")
            copy = self._another(copy, source)
            there = extent.look(FileBytes(self._files, fd), segment_id) or there
            self._ends[segment_id, there.salt] = there.end
        if copy.length < min(there.end, self._claims.get(copy.file_name, 0)):
            copy = self._another(copy, source)
        return _CopyStep(segment_id, there, replace(copy, source=source))

    def _has_diverged(self, segment_id: int, what: str) -> None:
        self.report.findings.append(
            f"segment {segment_id:016x} {what}: this archive was rolled back, or is a clone of the one that was backed"
            " up; both histories are kept"
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
            return self._files.open(segment_path(self._layout.segments, segment_id), os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise _Vanished from None
        except OSError as error:
            raise StorageError(f"segment {segment_id:016x} cannot be opened: {error.strerror}") from error

    # -- copying --------------------------------------------------------------------------------

    def _copy_all(self, plan: list[_CopyStep], journal: Journal) -> list[SegmentCopy]:
        total = sum(step.missing_bytes for step in plan)
        done = self.report.copied_bytes
        total += done
        copies = []
        for step in plan:
            copy = step.copy
            if step.missing_bytes:
                copy = self._copy(step, journal, total)
            if step.found.is_sealed and copy.length == step.found.end:
                copy = replace(copy, is_sealed=True)
            copies.append(copy)
        if self._progress is not None:
            self._progress("bytes", self.report.copied_bytes, total)
        return copies

    def _copy(self, step: _CopyStep, journal: Journal, total: int) -> SegmentCopy:
        source = self._open(step.segment_id)
        try:
            # Sync first: a backup must hold nothing that the source can still lose.
            self._files.fdatasync(source)
            target = self._open_target(step.copy)
            try:
                return self._copy_ranges(step, source, target, journal, total)
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

    def _copy_ranges(self, step: _CopyStep, source: int, target: int, journal: Journal, total: int) -> SegmentCopy:
        copy = step.copy
        key = (copy.segment_id, copy.salt)
        while copy.length < step.found.end:
            end = min(copy.length + RANGE_BYTES, step.found.end)
            item = self._copy_range(source, target, copy.segment_id, copy.length, end, total)
            journal.append([(copy.segment_id, copy.salt, copy.copy, *item)])
            copy = replace(copy, ranges=(*copy.ranges, item), is_sealed=False)
            self._known[key] = copy
        return copy

    def _copy_range(self, source: int, target: int, segment_id: int, start: int, end: int, total: int) -> Range:
        digest = blake2b(digest_size=DIGEST_BYTES)
        at = start
        while at < end:
            piece = self._read(source, segment_id, self._rate_limiter.piece(min(PIECE_BYTES, end - at)), at)
            digest.update(piece)
            self._files.pwritev(target, [piece], at, len(piece))
            at += len(piece)
            self.report.copied_bytes += len(piece)
            if self._progress is not None:
                self._progress("bytes", self.report.copied_bytes, total)
            self._rate_limiter.spent(len(piece))
        self._files.fdatasync(target)
        return start, end, digest.hexdigest()

    def _read(self, source: int, segment_id: int, length: int, at: int) -> bytes:
        try:
            piece = self._files.pread(source, length, at)
        except OSError as error:
            if length <= BLOCK_BYTES:
                # One bad block must not keep the rest of the archive from being backed up.
                what = f"cannot be read: {error.strerror}; copied as zeros"
                finding = f"segment {segment_id:016x} offset {at}: {length} bytes {what}"
                self._lasting.append(finding)
                self.report.findings.append(finding)
                return bytes(length)
            starts = range(at, at + length, BLOCK_BYTES)
            end = at + length
            return b"".join(self._read(source, segment_id, min(BLOCK_BYTES, end - start), start) for start in starts)
        if len(piece) != length:
            raise _Vanished  # cut while it was read: a recovery; it has another end now
        return piece
