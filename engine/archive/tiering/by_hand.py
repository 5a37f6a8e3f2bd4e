"""What a person does with the bucket: look what waits, publish, fetch, evict. A server ships by itself (`shipping`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.archive.archive import Archive
from engine.archive.layout import Layout
from engine.archive.tiering import connection, tiers
from engine.archive.tiering.publisher import Publisher, waiting
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.residence import Residence
from engine.archive.tiering.status_file import read_status
from engine.archive.tiering.tiers import TierPlan
from engine.objects.settings import ObjectStore, Tier
from engine.rate_limiter import RateLimiter
from engine.storage.files import Files

Progress = Callable[[str, int, int], None]


def settings_of(layout: Layout, configured: ObjectStore) -> ObjectStore:
    """Those of the configuration, else those that the archive noted; without url if there are none."""
    return configured if configured.url else connection.recorded(layout.data, Files()) or configured


def status(layout: Layout, settings: ObjectStore) -> dict[str, Any]:
    """What waits, what is in the bucket only, and what the last server noted. Asks no store. Raises StorageError.

    `waiting_record_bytes`: records of segments that are not full; None if no server has compared them with the bucket.
    """
    files = Files()
    backlog = waiting(layout, files, settings)
    server = read_status(layout.data)
    return {
        "url": settings.url,
        "waiting_segments": len(backlog),
        "waiting_bytes": sum(item.bytes for item in backlog),
        "waiting_record_bytes": (server or {}).get("tail_lag_bytes"),
        "segments_in_the_bucket_only": len(RemoteSegments(layout.data, layout.archive_id, files).names()),
        "server": server,
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


def tier_plan(archive: Archive, configured: ObjectStore, rules: Sequence[Tier]) -> TierPlan:
    """What the rules mean now. Raises IndexError_, StorageError."""
    return tiers.plan(archive, settings_of(archive.parts.layout, configured), rules, time.time_ns())


def tier_apply(archive: Archive, configured: ObjectStore, rules: Sequence[Tier], progress: Progress) -> tuple[int, int]:
    """Evicts what the rules name; returns segments and bytes. Raises as `tiers.apply`."""
    settings = settings_of(archive.parts.layout, configured)
    leaving = tiers.plan(archive, settings, rules, time.time_ns()).segments
    return tiers.apply(archive, settings, leaving, lambda count: progress("segments", count, len(leaving)))
