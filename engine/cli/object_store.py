"""The part of `backend` for the object store. Nothing here writes to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from engine.config import Config
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.cli.output import Progress
    from engine.objects.settings import ObjectStore, Tier


def check(config: Config) -> tuple[list[dict[str, Any]], bool]:
    """The checks of the configured store, and whether one has failed. Raises ConfigError."""
    from engine.objects import checks
    from engine.objects.client import ObjectClient

    found = checks.check(ObjectClient(_required(config.object_store)), "check")
    return [{"check": item.name, "result": item.result, "text": item.text} for item in found], checks.has_failed(found)


def status(config: Config) -> dict[str, Any]:
    """What is in the bucket, what is there only, and what waits, from files of the archive. Raises StorageError."""
    from engine.archive.tiering import by_hand

    layout = _layout(config)
    return by_hand.status(layout, _required(by_hand.settings_of(layout, config.object_store)))


def publish(config: Config, bytes_per_s: int, progress: Progress) -> dict[str, Any]:
    """Brings all sealed segments into the bucket. Raises StoreUnreachable, ObjectWrong, StorageError."""
    from engine.archive.tiering import by_hand

    layout = _layout(config)
    settings = _required(by_hand.settings_of(layout, config.object_store))
    return by_hand.publish(layout, settings, bytes_per_s, progress)


def fetch(config: Config, bytes_per_s: int, progress: Progress) -> dict[str, Any]:
    """Makes all segments files again. Raises StoreUnreachable, CorruptRecord, StorageFull."""
    from engine.archive.tiering import by_hand

    return by_hand.fetch(_layout(config), bytes_per_s, progress)


def restore(config: Config, url: str, archive_id: str | None, progress: Progress) -> dict[str, Any]:
    """Makes an archive from a bucket. Raises BackupError, StoreUnreachable, ConfigError."""
    from engine.archive.tiering import bucket_restore
    from engine.objects.settings import ObjectStore

    try:
        values = {**msgspec.structs.asdict(config.object_store), "url": url}
        settings = msgspec.convert(values, ObjectStore)
        chosen = bytes.fromhex(archive_id) if archive_id else None
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"--from-bucket {url}: {error}") from error
    return asdict(bucket_restore.restore(settings, config.data, archive_id=chosen, progress=progress))


def tier_plan(config: Config) -> dict[str, Any]:
    """What the rules mean now. Raises ConfigError, ArchiveInUse, StorageError."""
    from engine.archive.archive import Archive
    from engine.archive.tiering import by_hand

    with Archive.open(config.data) as archive:
        plan = by_hand.tier_plan(archive, config.object_store, _rules(config))
    return {
        "studies": plan.studies,
        "study_bytes": plan.study_bytes,
        "segments": len(plan.segments),
        "segment_bytes": plan.bytes,
        "unpublished_segments": plan.unpublished_segments,
        "read_back_usd": plan.read_back_usd,
        "leaving": [{"segment": str(item.name), "bytes": item.bytes, "share": item.share} for item in plan.segments],
    }


def tier_apply(config: Config, progress: Progress) -> dict[str, Any]:
    """Evicts what the rules name. Raises ConfigError, StoreUnreachable, ObjectWrong, StorageError."""
    from engine.archive.archive import Archive
    from engine.archive.tiering import by_hand

    with Archive.open(config.data) as archive:
        segments, freed = by_hand.tier_apply(archive, config.object_store, _rules(config), progress)
    return {"segments": segments, "bytes": freed}


def _rules(config: Config) -> Sequence[Tier]:
    if not config.tiers:
        raise ConfigError("there is no rule: write a [[tier]]")
    if not config.audit.enabled and any(rule.last_read_days for rule in config.tiers):
        raise ConfigError("last_read_days in a [[tier]] needs [audit] enabled: nobody notes what is read otherwise")
    return config.tiers


def _layout(config: Config) -> Layout:
    from engine.archive.layout import existing

    return existing(config.data)


def _required(settings: ObjectStore) -> ObjectStore:
    if not settings.url:
        raise ConfigError("no object store is configured: set url in [object_store]")
    return settings
