"""What a person does with the bucket: look what waits, publish, fetch. A server ships by itself (`shipping`)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from engine.archive.layout import Layout
from engine.archive.tiering import connection
from engine.archive.tiering.publisher import Publisher, waiting
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.residence import Residence
from engine.archive.tiering.shipping import read_status
from engine.objects.settings import ObjectStore
from engine.rate_limiter import RateLimiter
from engine.storage.files import Files

Progress = Callable[[str, int, int], None]


def settings_of(layout: Layout, configured: ObjectStore) -> ObjectStore:
    """Those of the configuration, else those that the archive noted; without url if there are none."""
    return configured if configured.url else connection.recorded(layout.data, Files()) or configured


def status(layout: Layout, settings: ObjectStore) -> dict[str, Any]:
    """What waits, what is in the bucket only, and what the last server noted. Asks no store. Raises StorageError."""
    files = Files()
    backlog = waiting(layout, files, settings)
    return {
        "url": settings.url,
        "waiting_segments": len(backlog),
        "waiting_bytes": sum(item.bytes for item in backlog),
        "segments_in_the_bucket_only": len(RemoteSegments(layout.data, layout.archive_id, files).names()),
        "server": read_status(layout.data),
    }


def publish(layout: Layout, settings: ObjectStore, bytes_per_s: int, progress: Progress) -> dict[str, Any]:
    """Brings all sealed segments into the bucket. Raises StoreUnreachable, ObjectWrong, StorageError."""
    files = Files()
    bucket = connection.bucket_of(layout.archive_id, settings)
    limiter = RateLimiter(bytes_per_s)
    connection.remember(layout.data, settings, files)
    bucket.found(datetime.now(UTC))
    publisher = Publisher(layout, files, bucket, settings)
    try:
        backlog = publisher.backlog()
        total, done = sum(item.bytes for item in backlog), 0

        def spent(count: int) -> None:
            nonlocal done
            done += count
            limiter.spent(count)
            progress("bytes", min(done, total), total)

        publisher.write_keys()
        count = sum(publisher.publish(item.name, spent) is not None for item in backlog)
        publisher.write_manifest([])
    finally:
        publisher.close()
    return {"segments": count, "bytes": total}


def fetch(layout: Layout, bytes_per_s: int, progress: Progress) -> dict[str, Any]:
    """Makes all segments files again. Raises StoreUnreachable, CorruptRecord, StorageFull or StorageFailed."""
    files = Files()
    residence = Residence(layout, files, RemoteSegments(layout.data, layout.archive_id, files))
    limiter = RateLimiter(bytes_per_s)
    names = residence.remote_names()
    fetched_bytes = 0
    for number, name in enumerate(names, 1):
        fetched_bytes += residence.fetch(name, limiter.spent)
        progress("segments", number, len(names))
    return {"segments": len(names), "bytes": fetched_bytes}
