"""Brings the full segments of DATA/hospital from a bucket: patients, orders and messages are read here, never through.

A segment is fetched whole, page after page by the checksums of its hint, to DATA/hospital/…/*.part; then it is synced
and renamed. What the tail has of the newest segments comes after it (`bucket_restore`).
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.archive.copies import registry_copy, shipped_logs
from engine.archive.copies.manifest import HOSPITAL, make_log
from engine.archive.layout import Layout
from engine.errors import ObjectMissing, ObjectWrong, OrdersError
from engine.objects.bucket import PAGE_BYTES, Bucket, Hint, Published, SegmentName
from engine.storage.files import Files
from engine.storage.record import crc32c


def fetch(
    bucket: Bucket, names: Iterable[SegmentName], layout: Layout, files: Files, findings: list[str]
) -> list[Published]:
    """Makes files of these segments; adds what is wrong. Raises StoreUnreachable, StorageFull or StorageFailed."""
    fetched = []
    for name in sorted(names):
        try:
            hint = bucket.hint(name)
            _fetch(bucket, hint, layout, files)
        except ObjectMissing:
            findings.append(f"segment {name} of patients, orders or messages is not whole in the bucket")
        except ObjectWrong as error:
            findings.append(str(error))
        else:
            fetched.append(Published(name, hint.segment_bytes, hint.segment_crc))
    for log in {shipped_logs.log_of(published.name.segment_id) for published in fetched}:
        files.sync_directory(str(layout.data / log))
    return fetched


def make_folders(names: Iterable[SegmentName], layout: Layout, files: Files) -> None:
    """Makes the folders of the logs that these segments are of. Raises StorageFull or StorageFailed."""
    for log in sorted({shipped_logs.log_of(name.segment_id) for name in names} & {*HOSPITAL}):
        make_log(layout.data, log, files)


def _fetch(bucket: Bucket, hint: Hint, layout: Layout, files: Files) -> None:
    path = shipped_logs.path_of(layout.data, hint.name.segment_id)
    if files.exists(path):
        return  # an earlier run of this restore has made it
    key = bucket.segment_key(hint.name)
    files.unlink(f"{path}.part")
    fd = files.create(f"{path}.part")
    try:
        for number, crc in enumerate(hint.pages):
            start = number * PAGE_BYTES
            page = bucket.objects.get_range(key, start, min(start + PAGE_BYTES, hint.segment_bytes))
            if crc32c(page) != crc:
                raise ObjectWrong(f"{key}: bytes from {start} on are not what was written")
            files.pwritev(fd, [page], start)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.rename(f"{path}.part", path)


def bring_up(layout: Layout, files: Files, findings: list[str]) -> tuple[int, int]:
    """Makes the registry whole; returns its patients and orders. Raises KeyMissing, StorageError.

    Images are worth a restore without it: what is wrong with it is a finding.
    """
    try:
        restored = registry_copy.bring_up(layout, files)
    except OrdersError as error:
        findings.append(f"patients and orders: {error}")
        return 0, 0
    if restored.dropped:
        findings.append(
            f"{len(restored.dropped)} transactions of patients and orders are lost: the bucket lacks one before them"
        )
    return restored.patients, restored.orders
