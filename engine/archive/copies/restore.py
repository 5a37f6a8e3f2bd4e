"""Restores an archive from a backup: the state that one manifest names, in a new data directory.

    DATA/restore.json      written first: {"manifest": "<name>", "archive_id": …}; nobody takes DATA for an archive
    DATA/keys.json         the keys of an encrypted archive, and study.keys; unlocked before anything is copied
    DATA/segments/*.part   being copied; every range is compared with its hash on the way
    DATA/segments/*.seg    whole, synced, renamed
    DATA/hospital/         state/ and journal/, copied likewise; the registry's last transaction is one that has all
                           those before it; its database is made from the log
    DATA/accounts/         users, keys, grants and shares; nobody is logged in
    recovery, index, check as a start does after a crash
    DATA/archive.json      written last; then restore.json goes

    killed                 run it again: whole segments stay, the rest is copied anew
    a range is damaged     BackupError, named; or with `salvage` it is copied as it is, and recovery and check say what
                           of it is no record any more

The restored archive has the id of the backed up one and a lineage of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

import orjson

from engine import log
from engine.accounts import dump
from engine.archive import layout as layouts
from engine.archive import verify
from engine.archive.archive import Archive
from engine.archive.copies import histories, key_file, registry_copy, study_key_file
from engine.archive.copies.audit_copy import restore_audit
from engine.archive.copies.manifest import (
    DIGEST_BYTES,
    HOSPITAL,
    BackupFolder,
    Manifest,
    SegmentCopy,
    make_log,
    read_whole,
)
from engine.archive.keeper import Keeper
from engine.archive.layout import Layout
from engine.archive.parts import Parts
from engine.archive.unlocking import unlock
from engine.errors import BackupError, KeyStoreError, OrdersError
from engine.keys import study_keys
from engine.rate_limiter import RateLimiter
from engine.storage.files import Files, replace_file
from engine.storage.segment import segment_path

logger = log.get("archive.restore")

PIECE_BYTES = 1 << 20
MARKER_BYTES_MAX = 4096

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class RestoreReport:
    """The result of a restore."""

    manifest: str = ""
    created: str = ""
    """The moment of the restored state."""
    segments: int = 0
    copied_bytes: int = 0
    audit_bytes: int = 0
    instances: int = 0
    hospital_bytes: int = 0
    """Of the logs of patients, orders and messages, in `copied_bytes` too."""
    patients: int = 0
    orders: int = 0
    destroyed_keys: int = 0
    """Keys of studies that this backup still had."""
    findings: list[str] = field(default_factory=list)


def restore(
    source: Path,
    data: Path,
    *,
    files: Files | None = None,
    at: datetime | None = None,
    lineage: str | None = None,
    salvage: bool = False,
    destroyed_keys: Path | None = None,
    bytes_per_s: int = 0,
    progress: Progress | None = None,
) -> RestoreReport:
    """Makes an archive in `data`, which must be missing, empty, or hold a part of this same restore.

    Restores the newest state, not after `at` if given; name its `lineage` where the backup has several
    (`copies.histories`). `destroyed_keys`: a later study.keys of the archive, or a folder with one; what was shredded
    there stays unreadable here. Raises BackupError, KeyStoreError, AccountsError, StorageFull or StorageFailed.
    """
    files = files or Files()
    folder = BackupFolder(source, files)
    archive_id = folder.archive_id()
    manifest = histories.choose(folder, at, lineage)
    if manifest.archive_id != archive_id:
        raise BackupError(f"manifest {manifest.file_name} is of another archive")
    report = RestoreReport(manifest.file_name, manifest.created.isoformat())
    layout = Layout(data, archive_id, lineage=layouts.new_lineage(), is_encrypted=bool(manifest.keys))
    if begin(layout, {"manifest": manifest.file_name, "archive_id": archive_id.hex()}, files):
        return report
    key_file.put(layout, manifest.keys, files)
    study_key_file.restore(source, layout, files)
    layout = unlock(layout, files)
    if destroyed_keys is not None:
        report.destroyed_keys = _destroy(layout, destroyed_keys, files)
    _Copying(folder, layout, RateLimiter(bytes_per_s), salvage, progress, report).run(manifest)
    report.audit_bytes += restore_audit(source, data, files, report.findings)
    bring_up(layout, files, report, progress)
    _bring_up_hospital(layout, files, report, manifest.created)
    finish(layout, manifest.accounts, files)
    return report


def _destroy(layout: Layout, path: Path, files: Files) -> int:
    """Destroys the keys that a later file of the archive names as destroyed. Raises BackupError."""
    path = path / study_keys.FILE if path.is_dir() else path
    try:
        key_ids = study_keys.destroyed_in(path, layout.archive_id, files)
    except (KeyStoreError, OSError) as error:
        raise BackupError(f"{path} does not say which keys were destroyed: {error}") from error
    return layout.study_keys.destroy_ids(key_ids) if layout.study_keys is not None else 0


def begin(layout: Layout, content: Mapping[str, str], files: Files) -> bool:
    """Claims the directory, or continues this same restore after a kill; True when nothing is left to do.

    `content`: of the marker; names the restore. Raises BackupError.
    """
    marker = str(layout.data / layouts.RESTORING)
    if files.exists(marker):
        try:
            marker_fields = orjson.loads(read_whole(files, marker, MARKER_BYTES_MAX))
        except (OSError, ValueError) as error:
            raise BackupError(f"{marker} cannot be read: {error}") from error
        if marker_fields != dict(content):
            raise BackupError(f"{layout.data} holds half of another restore: remove it first")
        if files.exists(str(layout.data / "archive.json")):
            files.unlink(marker)
            files.sync_directory(str(layout.data))
            return True
    elif files.exists(str(layout.data)) and any(map(_is_foreign, files.list_directory(str(layout.data)))):
        raise BackupError(f"{layout.data} is not empty: a restore needs a directory of its own")
    else:
        if not files.exists(str(layout.data)):
            files.make_directory(str(layout.data))
            files.sync_directory(str(layout.data.absolute().parent))
        replace_file(files, marker, orjson.dumps(dict(content)))
    layouts.make_folders(layout.data, files)
    return False


def finish(layout: Layout, accounts: str, files: Files) -> None:
    """Puts the accounts in, and makes the directory an archive. Raises AccountsError, StorageFull, StorageFailed."""
    dump.restore(layout.data, accounts)
    layouts.describe(layout, files)
    files.unlink(str(layout.data / layouts.RESTORING))
    files.sync_directory(str(layout.data))


def _is_foreign(name: str) -> bool:
    """Whether a file is neither part of a new file system nor the marker of a restore that has just begun."""
    return name != "lost+found" and not name.startswith(f"{layouts.RESTORING}.")


class _Copying:
    """Copies the segments of a manifest into the new archive."""

    def __init__(
        self,
        folder: BackupFolder,
        layout: Layout,
        rate_limiter: RateLimiter,
        salvage: bool,
        progress: Progress | None,
        report: RestoreReport,
    ) -> None:
        self._folder = folder
        self._files = folder.files
        self._data = layout.data
        self._segments = layout.segments
        self._rate_limiter = rate_limiter
        self._salvage = salvage
        self._progress = progress
        self._report = report
        self._done_bytes = 0

    def run(self, manifest: Manifest) -> None:
        """Copies the segments that are missing."""
        self._run(manifest.segments, self._segments, manifest.total_bytes)
        self._report.segments = len(manifest.segments)
        for name in HOSPITAL:
            copies = [copy for copy in manifest.hospital if copy.log == name]
            if copies:
                make_log(self._data, name, self._files)
                self._run(copies, str(self._data / name), manifest.total_bytes)
        self._report.hospital_bytes = sum(copy.length for copy in manifest.hospital)

    def _run(self, copies: Iterable[SegmentCopy], directory: str, total: int) -> None:
        """The segments of one log."""
        present = set(self._files.list_directory(directory))
        for name in present:
            if name.endswith(".part"):
                self._files.unlink(f"{directory}/{name}")
        damaged: list[str] = []
        for copy in copies:
            target = segment_path(directory, copy.segment_id)
            if os.path.basename(target) not in present:
                damaged += self._copy(copy, target, total)
            else:
                self._done_bytes += copy.length
        self._files.sync_directory(directory)
        self._report.findings += damaged

    def _copy(self, copy: SegmentCopy, target: str, total: int) -> list[str]:
        part = f"{target}.part"
        try:
            source = self._files.open(self._folder.segment(copy), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            return self._damaged(f"{copy.file_name}: {error.strerror}")
        try:
            fd = self._files.create(part)
            try:
                findings = self._copy_ranges(copy, source, fd, total)
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)
        finally:
            self._files.close(source)
        self._files.rename(part, target)
        return findings

    def _copy_ranges(self, copy: SegmentCopy, source: int, fd: int, total: int) -> list[str]:
        findings: list[str] = []
        for start, end, expected in copy.ranges:
            digest = blake2b(digest_size=DIGEST_BYTES)
            step = self._rate_limiter.piece(PIECE_BYTES)
            for at in range(start, end, step):
                try:
                    piece = self._files.pread(source, min(step, end - at), at)
                except OSError:
                    piece = b""  # the hash tells
                digest.update(piece)
                self._files.pwritev(fd, [piece], at)
                self._done_bytes += len(piece)
                self._report.copied_bytes += len(piece)
                if self._progress is not None:
                    self._progress("bytes", self._done_bytes, total)
                self._rate_limiter.spent(len(piece))
            if digest.hexdigest() != expected:
                findings += self._damaged(f"{copy.file_name} bytes {start} to {end} are not what was copied")
        return findings

    def _damaged(self, finding: str) -> list[str]:
        if not self._salvage:
            raise BackupError(f"the backup is damaged: {finding}; verify-backup names all, --salvage takes the rest")
        return [finding]


def _bring_up_hospital(layout: Layout, files: Files, report: RestoreReport, created: datetime) -> None:
    """The registry of patients and orders, as after a crash."""
    try:
        restored = registry_copy.bring_up(layout, files)
    except OrdersError as error:
        report.findings.append(f"patients and orders: {error}")  # images are worth a restore without them
        return
    report.patients, report.orders = restored.patients, restored.orders
    if restored.dropped and restored.dropped[0] < created.timestamp() * 1e9:
        what = "transactions of patients and orders are lost: the log was damaged when it was backed up"
        report.findings.append(f"{len(restored.dropped)} {what}")
    elif restored.dropped:
        # They were not acknowledged when the backup began.
        logger.info("transactions that came during the backup are not in it", count=len(restored.dropped))


def bring_up(layout: Layout, files: Files, report: RestoreReport, progress: Progress | None) -> None:
    """Recovery, index and check, as after a crash."""
    keeper = Keeper(layout, files, progress)
    archive = Archive(Parts(layout, files, keeper.index, keeper))
    try:
        check = verify.check(archive, payloads=False, progress=progress)
        report.instances = archive.stats()["instances"]
        report.findings += [str(finding) for finding in check.findings]
    finally:
        archive.close()
