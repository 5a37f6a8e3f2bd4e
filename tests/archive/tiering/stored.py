"""Archives with a bucket of the tests' own S3."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from engine.archive.archive import Archive
from engine.archive.layout import Layout, existing
from engine.archive.tiering import connection
from engine.archive.tiering.publisher import Publisher
from engine.archive.tiering.tail import Tail
from engine.objects.bucket import Bucket
from engine.objects.settings import ObjectStore
from engine.storage.files import Files
from tests.archive.filled import opened, payload_of, store

PIXELS = bytes(range(256)) * 100


def fill(data: Path, *studies: int, count: int = 4, segment_bytes: int = 1 << 16) -> None:
    """Stores studies and closes the archive, which seals its last segment."""
    with opened(data) as archive:
        store_studies(archive, *studies, count=count, segment_bytes=segment_bytes)


def store_studies(archive: Archive, *studies: int, count: int = 4, segment_bytes: int = 1 << 16) -> None:
    for study in studies:
        payloads = [payload_of(study, 1, number, pixels=PIXELS) for number in range(count)]
        for outcome in store(archive, *payloads, segment_bytes=segment_bytes):
            assert not isinstance(outcome, Exception), outcome


def publisher_of(data: Path, settings: ObjectStore) -> Publisher:
    layout = existing(data)
    bucket = connection.bucket_of(layout.archive_id, settings)
    return Publisher(layout, Files(), bucket, settings)


def tail_of(data: Path, settings: ObjectStore, *, group_bytes: int = 1 << 20) -> Tail:
    layout = existing(data)
    return Tail(layout, Files(), bucket_of(data, settings), settings.url, group_bytes=group_bytes)


def bucket_of(data: Path, settings: ObjectStore) -> Bucket:
    return connection.bucket_of(existing(data).archive_id, settings)


def publish_all(data: Path, settings: ObjectStore) -> None:
    """Brings all sealed segments into the bucket, with keys and a manifest."""
    publisher = publisher_of(data, settings)
    bucket_of(data, settings).found(datetime.now(UTC))
    try:
        for item in publisher.backlog():
            publisher.publish(item.name)
        publisher.write_keys()
        publisher.write_manifest([])
    finally:
        publisher.close()


def layout_of(data: Path) -> Layout:
    return existing(data)
