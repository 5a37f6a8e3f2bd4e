"""The trash as plain data: what is in it, since when and why, and until when; restored and emptied."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import time_text
from engine.archive.lifecycle import trash
from engine.dicom import tags
from engine.dicom.elements import blob_items

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.access.principal import Principal
    from engine.archive.archive import Archive
    from engine.archive.lifecycle.trash import Settled
    from engine.index.catalog import TrashEntry

DAY_NS = 86_400 * 10**9

_LEVELS = ("patient", "study", "series", "instance")


def list_all(archive: Archive, days: float, *, values: bool) -> Iterator[dict[str, Any]]:
    """Every entry, the latest first; with `values` also what it was of, which names patients.

    `days`: for which an entry is kept.
    """
    for entry in trash.entries(archive.parts):
        yield _facts(archive, entry, days, values=values)


def restore(
    archive: Archive, number: str, *, series_instance_uid: str = "", actor: Principal, reason: str
) -> dict[str, Any]:
    """Restores an entry, or one series of it. Raises NotInTrash."""
    settled = trash.restore(archive.parts, number, series_instance_uid=series_instance_uid, actor=actor, reason=reason)
    return _result(settled)


def empty(archive: Archive, numbers: Sequence[str] | None, *, actor: Principal, reason: str) -> dict[str, Any]:
    """Empties these entries, or with None all. Raises NotInTrash and DeletionRefused."""
    return _result(trash.empty(archive.parts, numbers, actor=actor, reason=reason))


def expire(archive: Archive, days: float, *, actor: Principal) -> dict[str, Any]:
    """Empties what is older than these days, and confirms that the clock is right."""
    return _result(trash.expire(archive.parts, days, time.time_ns(), actor=actor, is_confirmed=True))


def _facts(archive: Archive, entry: TrashEntry, days: float, *, values: bool) -> dict[str, Any]:
    put = entry.put
    facts: dict[str, Any] = {
        "number": str(entry.stamp),
        "level": _LEVELS[put.level] if put.level < len(_LEVELS) else "instance",
        "study_instance_uid": _text(put.study_instance_uid),
        "series": sum(one.series for one in entry.puts),
        "instances": entry.instances,
        "bytes": entry.data_bytes,
        "since": time_text(put.made_ns),
        "until": time_text(put.made_ns + round(days * DAY_NS)) if days else None,
        "by": _text(put.by),
        "reason": _text(put.reason),
        "held": archive.parts.index.is_held(put.study_instance_uid),
    }
    if not entry.is_whole:
        facts["series"] = len({instance.series_instance_uid for instance in archive.parts.index.in_trash(entry)})
    if values:
        items = blob_items(put.items)
        facts["shown"] = {tags.keyword_of(tag): _text(value) for tag, value in items.items()}
    return facts


def _result(settled: Settled) -> dict[str, Any]:
    return {
        "entries": settled.entries,
        "instances": settled.instances,
        "bytes": settled.bytes,
        "held": settled.held,
        "shredded": len(settled.shredded),
    }


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
