"""Quarantine as plain data. Nothing here shows values of a data set, except `differences`."""

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


def list_all(archive: Archive) -> Iterator[dict[str, Any]]:
    """Every item in quarantine."""
    for item in quarantine.list_all(archive):
        yield with_times(item.facts())


def differences(archive: Archive, identifier: str, *, reserve_bytes: int) -> list[dict[str, Any]]:
    """The elements in which a version differs from the current instance. Raises QuarantineError."""
    judge = resent.Judge(archive, reserve_bytes=reserve_bytes)
    try:
        item = quarantine.find(archive, identifier)
        return [asdict(element) for element in difference.differences(archive, item, judge)]
    except DataSetError as error:
        raise QuarantineError(f"the versions cannot be compared: {error}") from error
    finally:
        judge.close()


def readmit(archive: Archive, identifier: str, *, policy: str, actor: Principal) -> dict[str, Any]:
    """Stores an item as an instance. Returns the outcome, or the reason of a refusal. Raises QuarantineError."""
    try:
        outcome = quarantine.readmit(archive, identifier, policy=policy, actor=actor)
    except (InstanceRefused, CorruptRecord) as error:
        return {"id": identifier, "outcome": "refused", "reason": str(error)}
    return {"id": identifier, "outcome": outcome.name.lower(), "reason": ""}


def drop(archive: Archive, identifier: str, *, actor: Principal, reason: str) -> dict[str, Any]:
    """Deletes an item and returns it. Raises QuarantineError, DeletionRefused."""
    return with_times(quarantine.drop(archive, identifier, actor=actor, reason=reason).facts())
