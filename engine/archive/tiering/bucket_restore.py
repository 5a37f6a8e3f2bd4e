"""Restores an archive from its bucket: queries and first images before the bytes are here.

    DATA/restore.json      written first, as by a restore from a backup: nobody takes DATA for an archive
    keys.json, accounts    from k/; study.keys from y/
    DATA/elsewhere/        the hints of all segments in the bucket, some at once
    DATA/hospital/         patients, orders and messages: full segments, which are fetched whole
    DATA/segments/         what only the tail has: segments made of their groups; likewise in DATA/hospital
    index, check           from hints and these segments
    DATA/archive.json      written last

Bytes are read through (`remote_segments`) and may be fetched afterwards (`residence`). The archive has the id of the
other one and a lineage of its own. The bucket is only read: a drill disturbs nobody. The first server that ships to the
bucket from the new machine takes the chain over, and the old machine, if it lives, stops shipping.

    killed     run it again: hints that are here stay
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from engine import log
from engine.archive import layout as layouts
from engine.archive.copies import key_file, shipped_logs
from engine.archive.copies.restore import Progress, RestoreReport, begin, bring_up, finish
from engine.archive.layout import Layout
from engine.archive.tiering import connection, hospital_restore, study_key_shipping
from engine.archive.tiering.publisher import note_published
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.tail import assembled
from engine.archive.unlocking import unlock
from engine.errors import BackupError, ObjectMissing, ObjectWrong
from engine.objects import bucket as buckets
from engine.objects.bucket import Bucket, Group, SegmentName
from engine.objects.settings import ObjectStore
from engine.storage.files import Files

logger = log.get("archive.bucket_restore")

AT_ONCE = 8
"""Hints and groups that are fetched at once: twice the rate of one, in a store in the house."""


@dataclass(slots=True)
class BucketRestoreReport:
    """The result of a restore from a bucket."""

    archive_id: str = ""
    segments: int = 0
    """Segments that are in the bucket only."""
    segment_bytes: int = 0
    tail_segments: int = 0
    """Segments that were made of groups."""
    tail_bytes: int = 0
    hospital_segments: int = 0
    """Full segments of patients, orders and messages, which were fetched."""
    instances: int = 0
    patients: int = 0
    orders: int = 0
    findings: list[str] = field(default_factory=list)


def restore(
    settings: ObjectStore,
    data: Path,
    *,
    archive_id: bytes | None = None,
    files: Files | None = None,
    progress: Progress | None = None,
) -> BucketRestoreReport:
    """Makes an archive in `data`, which must be missing, empty, or hold a part of this same restore.

    `archive_id`: which one, where the bucket has several. Raises BackupError, StoreUnreachable, ObjectWrong,
    KeyStoreError, AccountsError, StorageFull or StorageFailed.
    """
    files = files or Files()
    archive_id = _chosen(settings, archive_id)
    bucket = connection.bucket_of(archive_id, settings)
    bucket.read_description()
    keys, accounts = bucket.read_keys()
    remote = RemoteSegments(data, archive_id, files)
    layout = Layout(data, archive_id, lineage=layouts.new_lineage(), is_encrypted=bool(keys), elsewhere=remote)
    report = BucketRestoreReport(archive_id.hex())
    if begin(layout, {"bucket": settings.url, "archive_id": archive_id.hex()}, files):
        return report
    key_file.put(layout, keys, files)
    study_key_shipping.restore(bucket, layout, files)
    layout = unlock(layout, files)
    connection.remember(data, settings, files)
    hints = _Hints(bucket, remote, report, progress)
    names = hints.take()
    hospital_restore.make_folders(hints.hospital, layout, files)
    fetched = hospital_restore.fetch(bucket, hints.hospital, layout, files, report.findings)
    report.hospital_segments = len(fetched)
    note_published(layout, files, settings, [*(remote.published(name) for name in sorted(names)), *fetched])
    names |= {published.name for published in fetched}
    _write_tail(layout, files, _groups(bucket), names, report)
    brought_up = RestoreReport()
    bring_up(layout, files, brought_up, progress)
    report.instances = brought_up.instances
    report.findings += brought_up.findings
    report.patients, report.orders = hospital_restore.bring_up(layout, files, report.findings)
    finish(layout, accounts, files)
    return report


def _chosen(settings: ObjectStore, archive_id: bytes | None) -> bytes:
    if archive_id is not None:
        return archive_id
    found = buckets.archives(connection.objects_of(settings))
    if not found:
        raise BackupError(f"{settings.url} holds no archive")
    if len(found) > 1:
        raise BackupError(f"{settings.url} holds several archives, name one: {', '.join(map(bytes.hex, found))}")
    return found[0]


class _Hints:
    """Brings the hints of all segments into DATA/elsewhere."""

    def __init__(
        self, bucket: Bucket, remote: RemoteSegments, report: BucketRestoreReport, progress: Progress | None
    ) -> None:
        self._bucket = bucket
        self._remote = remote
        self._report = report
        self._progress = progress
        self.hospital: list[SegmentName] = []
        """The segments of DATA/hospital, after `take`."""

    def take(self) -> set[SegmentName]:
        """Returns the segments of images that are whole in the bucket."""
        self._sizes = self._bucket.segment_sizes()
        manifest = {published.name for published in self._bucket.read_manifest()}
        chosen = self._newest(sorted({*self._bucket.hint_names(), *manifest}), manifest)
        candidates = [name for name in chosen if shipped_logs.is_image_log(name.segment_id)]
        self.hospital = [name for name in chosen if not shipped_logs.is_image_log(name.segment_id)]
        present = set(self._remote.names())
        found: set[SegmentName] = set()
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="hints") as pool:
            takings = pool.map(lambda name: self._take(name, is_here=name in present), candidates)
            for count, taken in enumerate(takings, 1):
                if isinstance(taken, str):
                    self._report.findings.append(taken)
                else:
                    found.add(taken[0])
                    self._report.segment_bytes += taken[1]
                if self._progress is not None:
                    self._progress("segments", count, len(candidates))
        self._remote.sync_names()
        self._report.segments = len(found)
        return found

    def _newest(self, names: Iterable[SegmentName], manifest: Collection[SegmentName]) -> list[SegmentName]:
        """One segment of each number: two histories of an archive may have used one number."""
        by_id: dict[int, SegmentName] = {}
        for name in names:
            other = by_id.get(name.segment_id)
            if other is None or (name in manifest and other not in manifest):
                by_id[name.segment_id] = name
        return list(by_id.values())

    def _take(self, name: SegmentName, *, is_here: bool) -> tuple[SegmentName, int] | str:
        """The segment and its bytes; or what is wrong."""
        size = self._sizes.get(name)
        try:
            if size is None:  # a list may be late
                size = self._bucket.objects.head(self._bucket.segment_key(name)).size
            if is_here:
                return name, size
            hint = self._bucket.hint(name)
        except ObjectMissing:
            return f"segment {name} is in a manifest or has a hint, and is not whole in the bucket"
        except ObjectWrong as error:
            return str(error)
        if hint.segment_bytes != size:
            return f"segment {name} has {size} bytes in the bucket, and {hint.segment_bytes} by its hint"
        self._remote.add(name, hint.encode())
        return name, size


def _groups(bucket: Bucket) -> list[Group]:
    """All groups, of all nodes that the archive ever had."""
    places = [place for slot in sorted({0, *bucket.slots()}) for place in bucket.places(slot)]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="groups") as pool:
        return list(pool.map(bucket.group, places))


def _write_tail(
    layout: Layout,
    files: Files,
    groups: Collection[Group],
    published: Collection[SegmentName],
    report: BucketRestoreReport,
) -> None:
    """Makes the segments of which the bucket has groups only."""
    ids = {name.segment_id for name in published}
    segments = _one_of_each_number(assembled(groups, published), report)
    hospital_restore.make_folders(segments, layout, files)
    folders = {layout.segments}
    for name, own in segments.items():
        if name.segment_id in ids:
            continue  # an older history's, or one that was lost locally and is whole in the bucket
        path = shipped_logs.path_of(layout.data, name.segment_id)
        folders.add(os.path.dirname(path))
        fd = _anew(files, f"{path}.part")
        end = 0
        try:
            for group in own:
                if group.start > end:
                    report.findings.append(f"segment {name} ends at {end} in the bucket: groups after it are missing")
                    break
                if group.end > end:
                    files.pwritev(fd, [group.data[end - group.start :]], end)
                    end = group.end
            files.fdatasync(fd)
        finally:
            files.close(fd)
        files.rename(f"{path}.part", path)
        report.tail_segments += 1
        report.tail_bytes += end
    for folder in sorted(folders):
        files.sync_directory(folder)


def _one_of_each_number(
    segments: Mapping[SegmentName, list[Group]], report: BucketRestoreReport
) -> dict[SegmentName, list[Group]]:
    """One segment of each number: the last of a slot, where two histories of an archive have used one number.

    Segments of DATA/hospital have the same numbers on all nodes, and one node takes what is in them: the longest.
    """
    chosen: dict[int, SegmentName] = {}
    for name, own in segments.items():
        other = chosen.get(name.segment_id)
        if other is None or segments[other][-1].place.slot == own[-1].place.slot:
            chosen[name.segment_id] = name
            continue
        longer, shorter = (name, other) if own[-1].end > segments[other][-1].end else (other, name)
        chosen[name.segment_id] = longer
        slot, end = segments[shorter][-1].place.slot, segments[shorter][-1].end
        what = f"segment {shorter} of slot {slot} is left out, with {end} bytes: another node has one of its number"
        report.findings.append(what)
    return {name: own for name, own in segments.items() if chosen[name.segment_id] == name}


def _anew(files: Files, path: str) -> int:
    files.unlink(path)
    return files.create(path)
