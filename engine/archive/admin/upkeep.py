"""The upkeep of an archive as plain data: studies due for deletion, progress of the scrub, damage and losses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import time_text, with_times
from engine.archive.lifecycle import retention
from engine.archive.lifecycle.scrub import Scrubber

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.archive.archive import Archive
    from engine.archive.lifecycle.losses import Loss
    from engine.archive.settings import Retention, Scrub


def due(archive: Archive, rules: Sequence[Retention]) -> Iterator[dict[str, Any]]:
    """The studies that these rules would delete now."""
    for item in retention.due(archive, rules, time.time_ns()):
        yield {
            "rule": item.rule,
            "study_instance_uid": item.study_instance_uid,
            "study_date": item.study_date,
            "modalities": list(item.modalities),
            "received": time_text(item.last_received_ns),
            "instances": item.instances,
            "bytes": item.bytes,
            "held": item.is_held,
        }


def scrub_status(archive: Archive, options: Scrub) -> dict[str, Any]:
    """The progress and the results of the scrub."""
    return with_times(Scrubber.of(archive, options).status())


def damage(archive: Archive) -> list[dict[str, Any]]:
    """Noted damage, and losses that nobody has acknowledged."""
    rows = [
        {
            "sop_instance_uid": row.sop_instance_uid.decode("utf-8", "replace"),
            "segment": f"{row.segment_id:016x}",
            "offset": row.offset,
            "what": row.what,
            "found": time_text(row.found_ns),
            "lost": False,
        }
        for row in archive.damage()
    ]
    return rows + [loss_facts(loss) for loss in archive.losses()]


def loss_facts(loss: Loss) -> dict[str, Any]:
    """One loss as plain data."""
    return {
        "sop_instance_uid": loss.sop_instance_uid,
        "segment": f"{loss.segment_id:016x}",
        "offset": loss.offset,
        "what": f"lost: {loss.what}",
        "found": time_text(loss.found_ns),
        "lost": True,
    }
