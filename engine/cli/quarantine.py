"""Where the commands about the quarantine reach the engine; the part of `backend` for them."""

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
def _chosen(config: Config, wanted: list[query.Keys], ids: Sequence[str], same: bool) -> Iterator[tuple[Archive, Any]]:
    """The archive, and what of its quarantine has one of the ids, or belongs to what matches; or all of it."""
    from engine.archive.lifecycle import quarantine, resent

    with backend.opened(config) as archive:
        judge = resent.Judge(archive, reserve_bytes=config.limits.disk_reserve_bytes)
        uids = None if not wanted else {instance.sop_instance_uid for instance in backend.matching(archive, wanted)}
        try:
            found = quarantine.chosen(archive, uids, same=same, judge=judge)
            if ids:
                found = iter([quarantine.find(archive, identifier) for identifier in ids])
            yield archive, found
        finally:
            judge.close()


def listed(
    config: Config, wanted: list[query.Keys], ids: Sequence[str] = (), *, same: bool = False
) -> Iterator[dict[str, Any]]:
    """What is in quarantine, without a word of what is in the data sets."""
    with _chosen(config, wanted, ids, same) as (_, found):
        for kept in found:
            yield with_times(kept.facts())


def differences(config: Config, identifier: str) -> list[dict[str, Any]]:
    """What differs between a version and the current instance, an element each."""
    from engine.archive.admin import quarantine

    with backend.opened(config) as archive:
        return quarantine.differences(archive, identifier, reserve_bytes=config.limits.disk_reserve_bytes)


def drop_all(
    config: Config, wanted: list[query.Keys], ids: Sequence[str], reason: str, *, same: bool
) -> list[dict[str, Any]]:
    """Deletes all that is chosen; what it was."""
    from engine.archive.lifecycle import quarantine

    with _chosen(config, wanted, ids, same) as (archive, found):
        dropped = quarantine.drop_all(archive, list(found), actor=backend.operator(), reason=reason)
        return [with_times(kept.facts()) for kept in dropped]


def readmit_all(
    config: Config, wanted: list[query.Keys], ids: Sequence[str], *, same: bool
) -> Iterator[dict[str, Any]]:
    """Takes all that is chosen in, one by one; what became of each, or why it stays."""
    from engine.archive.admin import quarantine

    with _chosen(config, wanted, ids, same) as (archive, found):
        for kept in list(found):
            yield quarantine.readmit(archive, kept.id, policy=config.duplicates, actor=backend.operator())


def export(config: Config, identifier: str, folder: Path) -> Path:
    """Writes one to a folder; the file."""
    from engine.archive.lifecycle import quarantine

    with backend.opened(config) as archive:
        return quarantine.export(archive, quarantine.find(archive, identifier), folder)


def readmit(config: Config, identifier: str) -> str:
    """Takes one in; what became of it."""
    from engine.archive.lifecycle import quarantine

    with backend.opened(config) as archive:
        outcome = quarantine.readmit(archive, identifier, policy=config.duplicates, actor=backend.operator())
        return outcome.name.lower()


def drop(config: Config, identifier: str, reason: str) -> dict[str, Any]:
    """Deletes one; what it was."""
    from engine.archive.admin import quarantine

    with backend.opened(config) as archive:
        return quarantine.drop(archive, identifier, actor=backend.operator(), reason=reason)
