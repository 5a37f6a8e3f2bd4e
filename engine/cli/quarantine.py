"""The part of `backend` for the quarantine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import with_times
from engine.cli import backend, query
from engine.config import Config

if TYPE_CHECKING:
    from engine.archive.archive import Archive


@contextmanager
def _chosen(config: Config, queries: list[query.Keys], ids: Sequence[str], same: bool) -> Iterator[tuple[Archive, Any]]:
    """The archive and the selected quarantine entries: by id, by the instances that match, or all."""
    from engine.archive.lifecycle import quarantine, resent

    with backend.opened(config) as archive:
        judge = resent.Judge(archive, reserve_bytes=config.limits.disk_reserve_bytes)
        uids = None if not queries else {instance.sop_instance_uid for instance in backend.matching(archive, queries)}
        try:
            found = quarantine.select(archive, uids, same=same, judge=judge)
            if ids:
                found = iter([quarantine.find(archive, identifier) for identifier in ids])
            yield archive, found
        finally:
            judge.close()


def listed(
    config: Config, queries: list[query.Keys], ids: Sequence[str] = (), *, same: bool = False
) -> Iterator[dict[str, Any]]:
    """The quarantine entries, without any content of their data sets."""
    with _chosen(config, queries, ids, same) as (_, found):
        for kept in found:
            yield with_times(kept.facts())


def differences(config: Config, identifier: str) -> list[dict[str, Any]]:
    """The differences between a version and the current instance, one element per row."""
    from engine.archive.admin import quarantine

    with backend.opened(config) as archive:
        return quarantine.differences(archive, identifier, reserve_bytes=config.limits.disk_reserve_bytes)


def drop_all(
    config: Config, queries: list[query.Keys], ids: Sequence[str], reason: str, *, same: bool
) -> list[dict[str, Any]]:
    """Deletes the selected entries; returns them."""
    from engine.archive.lifecycle import quarantine

    with _chosen(config, queries, ids, same) as (archive, found):
        dropped = quarantine.drop_all(archive, list(found), actor=backend.operator(), reason=reason)
        return [with_times(kept.facts()) for kept in dropped]


def readmit_all(
    config: Config, queries: list[query.Keys], ids: Sequence[str], *, same: bool
) -> Iterator[dict[str, Any]]:
    """Readmits the selected entries one by one; a row per entry with its outcome."""
    from engine.archive.admin import quarantine

    with _chosen(config, queries, ids, same) as (archive, found):
        for kept in list(found):
            yield quarantine.readmit(archive, kept.id, policy=config.duplicates, actor=backend.operator())


def export(config: Config, identifier: str, folder: Path) -> Path:
    """Writes one entry to a folder; returns the file."""
    from engine.archive.lifecycle import quarantine

    with backend.opened(config) as archive:
        return quarantine.export(archive, quarantine.find(archive, identifier), folder)


def readmit(config: Config, identifier: str) -> str:
    """Readmits one entry; returns the outcome."""
    from engine.archive.lifecycle import quarantine

    with backend.opened(config) as archive:
        outcome = quarantine.readmit(archive, identifier, policy=config.duplicates, actor=backend.operator())
        return outcome.name.lower()


def drop(config: Config, identifier: str, reason: str) -> dict[str, Any]:
    """Deletes one entry; returns it."""
    from engine.archive.admin import quarantine

    with backend.opened(config) as archive:
        return quarantine.drop(archive, identifier, actor=backend.operator(), reason=reason)
