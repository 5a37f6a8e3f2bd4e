"""Replications for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.archive.copies.replica import Destination, Replica
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.layout import Layout
from engine.storage.files import Files
from tests.archive.filled import payload_of

PIXELS = bytes(range(256)) * 200


def some(study: int, count: int) -> list[bytes]:
    return [payload_of(study, 1, number, pixels=PIXELS) for number in range(count)]


def replicating(
    layout: Layout, target: Path, *, files: Files | None = None, connect: Callable[[], Destination] | None = None
) -> Replication:
    """A replication into a folder, whose calls there go through `files`."""
    to_folder = connect or (lambda: Replica(target, layout.archive_id, layout.lineage, files))
    return Replication(layout, to_folder, Status(str(target)), remove_after_s=0.0)
