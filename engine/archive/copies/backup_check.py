"""Verifies every byte of a backup: `filmroom verify-backup`.

    manifests    each whole, of this archive; what several say of one file agrees
    files        there, long enough; the hash of every range as the manifests say
    segments     walked over: every head and every payload has its checksum, or the damage was in the source already

Changes nothing. Names all damage by file and place, and the UID of each record with a damaged payload.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from pathlib import Path

from engine.archive.copies import extent, histories, study_key_file
from engine.archive.copies.manifest import DIGEST_BYTES, BackupFolder, Manifest, SegmentCopy
from engine.errors import BackupError, CorruptRecord, StorageError
from engine.keys import study_keys
from engine.rate_limiter import RateLimiter
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.hints import read_header_or_trailer
from engine.storage.segment import Damage, SegmentHeader, Walk
from engine.storage.segment_bytes import FileBytes, SegmentBytes

PIECE_BYTES = 1 << 20

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class BackupCheckReport:
    """The counts and findings of a check."""

    findings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: {"manifests": 0, "segments": 0, "ranges": 0, "records": 0, "bytes": 0}
    )


def verify_backup(
    source: Path,
    *,
    files: Files | None = None,
    at: datetime | None = None,
    lineage: str | None = None,
    bytes_per_s: int = 0,
    progress: Progress | None = None,
) -> BackupCheckReport:
    """Checks all of a backup, or with `at` or `lineage` the state that a restore with these would take.

    Raises BackupError when there is none.
    """
    folder = BackupFolder(source, files or Files())
    archive_id = folder.archive_id()
    check = _Check(folder, RateLimiter(bytes_per_s), progress)
    manifests = [histories.choose(folder, at, lineage)] if at is not None or lineage is not None else check.manifests()
    if not manifests and not check.report.findings:
        raise BackupError(f"{source} holds no backup")
    check.agree(manifests, archive_id)
    check.study_keys(manifests, archive_id)
    check.read(manifests)
    return check.report


class _Check:
    """One run."""

    def __init__(self, folder: BackupFolder, rate_limiter: RateLimiter, progress: Progress | None) -> None:
        self._folder = folder
        self._files = folder.files
        self._rate_limiter = rate_limiter
        self._progress = progress
        self.report = BackupCheckReport()

    def manifests(self) -> list[Manifest]:
        """All readable manifests; the others become findings."""
        manifests = []
        for name in self._folder.names():
            try:
                manifests.append(self._folder.read(name))
            except BackupError as error:
                self.report.findings.append(str(error))
        return manifests

    def agree(self, manifests: list[Manifest], archive_id: bytes) -> None:
        """Checks that all are of this archive, and that none names a segment twice."""
        for manifest in manifests:
            self.report.counts["manifests"] += 1
            if manifest.archive_id != archive_id:
                self.report.findings.append(f"manifest {manifest.file_name} is of another archive")
            ids = [(copy.log, copy.segment_id) for copy in manifest.copies]
            if len(ids) != len(set(ids)):
                self.report.findings.append(f"manifest {manifest.file_name} names a segment twice")

    def study_keys(self, manifests: list[Manifest], archive_id: bytes) -> None:
        """Checks the keys of studies, which need be there only if the keys of the archive say so."""
        path, files = self._folder.path, self._files
        try:
            if study_key_file.is_in(path, files):
                study_key_file.check(path, archive_id, files)
            elif any('"study_key"' in manifest.keys for manifest in manifests):
                self.report.findings.append(f"{study_keys.FILE} is missing: no study with a key can be read")
        except BackupError as error:
            self.report.findings.append(str(error))

    def read(self, manifests: list[Manifest]) -> None:
        """Reads every file once, to the longest length in any manifest; again if its ranges differ in another one."""
        jobs: dict[str, list[SegmentCopy]] = {}
        for manifest in manifests:
            for copy in manifest.copies:
                others = jobs.setdefault(copy.file_name, [])
                # One is the beginning of the other: the longer one's hashes stand for both.
                others[:] = [other for other in others if not _covers(copy, other)]
                if not any(_covers(other, copy) for other in others):
                    others.append(copy)
        total = sum(copy.length for copies in jobs.values() for copy in copies)
        for name in sorted(jobs):
            self.report.counts["segments"] += 1
            for copy in jobs[name]:
                self._read_copy(copy, total)
            self._walk(max(jobs[name], key=lambda copy: copy.length))

    def _read_copy(self, copy: SegmentCopy, total: int) -> None:
        try:
            fd = self._files.open(self._folder.segment(copy), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            self.report.findings.append(f"{copy.file_name}: {error.strerror}")
            return
        try:
            for start, end, digest in copy.ranges:
                self.report.counts["ranges"] += 1
                try:
                    actual = self._hash(fd, start, end, total)
                except OSError as error:
                    self.report.findings.append(f"{copy.file_name} bytes {start} to {end}: {error.strerror}")
                    continue
                if actual != digest:
                    what = "ends before" if self._files.size(fd) < end else "has other bytes than were copied at"
                    self.report.findings.append(f"{copy.file_name} {what} {start} to {end}")
        finally:
            self._files.close(fd)

    def _hash(self, fd: int, start: int, end: int, total: int) -> str:
        digest = blake2b(digest_size=DIGEST_BYTES)
        step = self._rate_limiter.piece(PIECE_BYTES)
        for at in range(start, end, step):
            piece = self._files.pread(fd, min(step, end - at), at)
            digest.update(piece)
            self.report.counts["bytes"] += len(piece)
            if self._progress is not None:
                self._progress("bytes", self.report.counts["bytes"], total)
            self._rate_limiter.spent(len(piece))
        return digest.hexdigest()

    def _walk(self, copy: SegmentCopy) -> None:
        """Walks over the records of a copy. Call it right after hashing, while the pages are cached."""
        name = copy.file_name
        try:
            fd = self._files.open(self._folder.segment(copy), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return  # a finding already
        data = FileBytes(self._files, fd)
        try:
            end = copy.length
            if copy.is_sealed:
                summary = hints.read_summary(data, copy.segment_id, opens=False)
                if summary is None:
                    self.report.findings.append(f"{name}: sealed, and without its footer")
                else:
                    end = summary.trailer.tail
            header = read_header_or_trailer(data, copy.segment_id)
            if header.salt != copy.salt:
                self.report.findings.append(f"{name}: holds another segment of the same id")
            walk = Walk(data, header, end=end, verify_payload=True, opens=False)
            for item in walk:
                if isinstance(item, Damage):
                    self.report.findings.append(
                        f"{name} offset {item.offset}: {item.reason}{self._lost(data, header, item)}"
                    )
                else:
                    self.report.counts["records"] += 1
            if walk.torn or walk.tail < end:
                self.report.findings.append(f"{name} offset {walk.tail}: {walk.torn or 'no record'}")
        except (CorruptRecord, OSError, StorageError) as error:
            self.report.findings.append(f"{name}: {error}")
        finally:
            self._files.close(fd)

    def _lost(self, data: SegmentBytes, header: SegmentHeader, damage: Damage) -> str:
        """Names the record with the damaged payload, if its head can be read."""
        record = extent.record_at(data, header, damage.offset)
        return f" ({record.key.decode('utf-8', 'replace')})" if record is not None else ""


def _covers(longer: SegmentCopy, shorter: SegmentCopy) -> bool:
    return longer.ranges[: len(shorter.ranges)] == shorter.ranges and longer.is_sealed >= shorter.is_sealed
