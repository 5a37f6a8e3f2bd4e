"""Quarantine as plain data: what is in it, and what becomes of it by name. Nothing here shows what is in a data set,
but for `differences`, which somebody asks for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import with_times
from engine.archive.lifecycle import difference, quarantine, resent
from engine.errors import CorruptRecord, DataSetError, InstanceRefused, QuarantineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.access.principal import Principal
    from engine.archive.archive import Archive


def listed(archive: Archive) -> Iterator[dict[str, Any]]:
    """All of it."""
    for item in quarantine.listed(archive):
        yield with_times(item.facts())


def differences(archive: Archive, identifier: str, *, reserve_bytes: int) -> list[dict[str, Any]]:
    """What differs between a version and the current instance, an element each. Raises QuarantineError."""
    judge = resent.Judge(archive, reserve_bytes=reserve_bytes)
    try:
        item = quarantine.find(archive, identifier)
        return [asdict(each) for each in difference.differences(archive, item, judge)]
    except DataSetError as error:
        raise QuarantineError(f"it cannot be compared: {error}") from error
    finally:
        judge.close()


def readmit(archive: Archive, identifier: str, *, policy: str, actor: Principal) -> dict[str, Any]:
    """Takes one in; what became of it, or why it stays. Raises QuarantineError."""
    try:
        outcome = quarantine.readmit(archive, identifier, policy=policy, actor=actor)
    except (InstanceRefused, CorruptRecord) as error:
        return {"id": identifier, "outcome": "refused", "reason": str(error)}
    return {"id": identifier, "outcome": outcome.name.lower(), "reason": ""}


def drop(archive: Archive, identifier: str, *, actor: Principal, reason: str) -> dict[str, Any]:
    """Deletes one; what it was. Raises QuarantineError, DeletionRefused."""
    return with_times(quarantine.drop(archive, identifier, actor=actor, reason=reason).facts())
