"""Copies new parts of the logs to another place: online, incremental, one consistent state each time.

`copies.manifest` owns the format, `copies.backup_check` checks a backup, `copies.restore` restores it. A backup reads
only the logs, so it works beside a server, without one, or on an archive that crashed. It takes no role and no lock.

    1  list the segments of each log; look how far each can be copied (`archive.copies.extent`): that is the moment of
       the backup
    2  for each with something new: sync it at its source, copy, hash, sync the copy, note the range in DEST/progress
    3  a segment has vanished in the meantime (compaction): back to 1, what is copied stays copied
    4  write the manifest, begin DEST/progress anew

    killed in 2 or 3    the next run finds the ranges in DEST/progress and goes on behind them
    killed in 4         there is a manifest or there is none; never half of one

A copy only grows. Before it grows, its last bytes are compared with the source's. If they differ, the source has
another history (it was rolled back, or is a clone): the backup reports that and copies the segment again under another
name, beside the old copy that older manifests name. Never write to bytes that a state of another history names
(`copies.histories`).

The logs of DATA/hospital are looked at before the archive's own (`copies.manifest`), and the newest segment of a log
before the older ones. Of the registry, which several processes write, a copy may have a transaction without the one
before it: none that was acknowledged before the backup began. A restore drops it (`orders.state_log`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from engine import log
from engine.accounts import dump
from engine.archive.copies import histories, key_file, study_key_file
from engine.archive.copies.audit_copy import copy_audit
from engine.archive.copies.log_copying import LogCopying, Progress, Run, Vanished
from engine.archive.copies.manifest import HOSPITAL, IMAGES, BackupFolder, Heading, Manifest, SegmentCopy, history_of
from engine.archive.layout import Layout
from engine.archive.unlocking import unlock
from engine.errors import AccountsError, ArchiveInUse, BackupError, KeyStoreError, for_log
from engine.rate_limiter import RateLimiter
from engine.storage.files import Files
from engine.storage.journal import Journal

logger = log.get("archive.backup")

ATTEMPTS_MAX = 100
"""How often a backup may begin again because segments vanish; each time less is left to copy."""

_WHOSE = "history"
"""The first item of the note in DEST/progress that names the history of the notes after it."""


@dataclass(slots=True)
class BackupReport:
    """The result of a backup."""

    manifest: str = ""
    segments: int = 0
    total_bytes: int = 0
    """Of the state that the manifest names."""
    hospital_bytes: int = 0
    """Of these, in the logs of patients, orders and messages."""
    copied_bytes: int = 0
    audit_bytes: int = 0
    """Of the audit log, which no manifest names."""
    findings: list[str] = field(default_factory=list)
    """Segments that could not be copied, or are wrong."""
    removed_manifests: int = 0
    removed_segments: int = 0
    other_histories: int = 0
    """Of the same archive in the same folder: `copies.histories`."""


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
        logger.warning("the audit log is not in this backup: no key is at hand to encrypt it", reason=for_log(error))
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
        self._run = Run(folder, rate_limiter, progress)
        self._now = now
        self.report = BackupReport()
        images = LogCopying(IMAGES, layout.segments, self._run, layout.elsewhere)
        hospital = (LogCopying(name, str(layout.data / name), self._run) for name in HOSPITAL)
        self._logs = {each.name: each for each in (*hospital, images)}
        """In the order in which they are looked at."""
        self._history = history_of(layout.lineage, layout.role)

    def take(self, *, join: bool) -> None:
        """Makes the backup, as the head of this module describes."""
        heading = histories.admit(self._folder, self._history, join=join)
        names = histories.names_of(heading)
        self._run.is_joining = self._history not in names
        self.report.other_histories = len(set(names) - {self._history})
        self._run.claims = histories.claims(self._folder, heading, self._history)
        self._read_manifest(heading)
        journal = Journal(self._folder.progress, self._files)
        try:
            self._read_progress(journal)
            for _ in range(ATTEMPTS_MAX):
                try:
                    moment = self._folder.moment(self._now())
                    copies = self._copy(journal)
                    break
                except Vanished:
                    logger.info("a segment has vanished, the backup begins again")
            else:
                raise BackupError("segments vanish faster than they can be copied")
            layout = self._layout
            # Read after the segments: no record may have a key that the manifest lacks.
            keys = key_file.content(layout, self._files)
            study_key_file.back_up(layout, self._folder.path, self._files)
            manifest = Manifest(
                layout.archive_id,
                layout.lineage,
                moment,
                tuple(copies.pop(IMAGES)),
                layout.role,
                keys,
                self._accounts(),
                tuple(copy for each in copies.values() for copy in each),
            )
            self._folder.write(manifest)
            journal.replace([])
        finally:
            self.report.copied_bytes = self._run.copied_bytes
            journal.close()
        self.report.manifest = manifest.file_name
        self.report.segments = len(manifest.segments)
        self.report.hospital_bytes = sum(copy.length for copy in manifest.hospital)
        self.report.findings = self._run.findings
        self.report.total_bytes = manifest.total_bytes

    def _copy(self, journal: Journal) -> dict[str, list[SegmentCopy]]:
        """One attempt: the segments of each log. Raises Vanished."""
        self._run.findings = list(self._run.lasting)
        plans = {name: each.plan() for name, each in self._logs.items()}
        missing = sum(step.missing_bytes for plan in plans.values() for step in plan)
        self._run.total_bytes = self._run.copied_bytes + missing
        return {name: self._logs[name].copy(plan, journal) for name, plan in plans.items()}

    def _accounts(self) -> str:
        try:
            return dump.text_of(self._layout.data)
        except AccountsError as error:
            self._run.findings.append(str(error))  # images are worth a backup without them
            return ""

    # -- the existing backup --------------------------------------------------------------------

    def _read_manifest(self, found: list[Heading]) -> None:
        """The newest one, of this history where there is one."""
        others = {heading.name for heading in found if heading.history != self._history and not self._run.is_joining}
        for name in reversed(self._folder.names()):
            if name in others:
                continue
            try:
                manifest = self._folder.read(name)
            except BackupError as error:
                self._run.lasting.append(str(error))
                continue
            for each in self._logs.values():
                each.begin_with(manifest)
            return

    def _read_progress(self, journal: Journal) -> None:
        whose = [note[1:] for note in journal.notes if note[:1] == [_WHOSE]]
        if whose[-1:] != [[self._history]]:
            is_ours = not whose and not self.report.other_histories  # versions before 2026-11-29 did not say whose
            journal.replace([(_WHOSE, self._history), *(journal.notes if is_ours else ())])
        for note in journal.notes:
            try:
                segment_id, salt, number, start, end, digest, *names = note
                place = int(segment_id), int(salt), int(number)  # type: ignore[call-overload]
                item = int(start), int(end), str(digest)  # type: ignore[call-overload]
                each = self._logs[str(names[0]) if names else IMAGES]
            except (TypeError, ValueError, KeyError):
                continue
            each.add_range(*place, item)
