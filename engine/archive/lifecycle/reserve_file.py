"""The reserve file: disk space that is released so that starts and deletions work on a full disk.

DATA/ballast is a file of unused blocks. A deletion needs room for its tombstones and for the index pages that it
changes; a replay of what a killed process left needs room for index pages too. When there is no room, `with_reserve`
removes the file and runs the work once more. The caretaker makes the file again when there is room. Use it for nothing
else. It is not the space that ingest leaves free, which is limits.disk_reserve_bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from engine import log
from engine.errors import StorageFull, for_log

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.storage.files import Files

logger = log.get("archive.reserve_file")

Result = TypeVar("Result")

RESERVE_BYTES = 32 << 20
"""A deletion of 5 000 instances changes some 8 MiB of the index; a few of them, and the checkpoint after each."""

FREE_SHARE = 16
"""On a small disk the reserve file takes at most this share of the free space."""

BLOCK_BYTES = 1 << 20


def path_of(layout: Layout) -> str:
    """The path of the reserve file."""
    return str(layout.data / "ballast")


def make(layout: Layout, files: Files) -> bool:
    """Makes a missing reserve file if there is room. Returns whether there is one now. Raises StorageFailed."""
    path = path_of(layout)
    if files.exists(path):
        return True
    try:
        free = files.free_bytes(str(layout.data))
    except OSError:
        return False
    length = min(RESERVE_BYTES, free // FREE_SHARE) // BLOCK_BYTES * BLOCK_BYTES
    if length == 0:
        return False
    try:
        fd = files.create(path)
    except FileExistsError:
        return True
    except StorageFull:
        return False
    try:
        files.allocate(fd, 0, length)
    except StorageFull:
        files.unlink(path)
        return False
    finally:
        files.close(fd)
    return True


def release(layout: Layout, files: Files) -> bool:
    """Removes the reserve file; False when there was none. Raises StorageFailed."""
    path = path_of(layout)
    if not files.exists(path):
        return False
    files.unlink(path)
    # Other files can use the blocks only when the removal is on the disk.
    files.sync_directory(str(layout.data))
    return True


def with_reserve(layout: Layout, files: Files, work: Callable[[], Result]) -> Result:
    """Runs `work`; when the disk is full, removes the reserve file and runs it again. Raises what `work` raises."""
    try:
        return work()
    except StorageFull as error:
        if not release(layout, files):
            raise
        logger.warning("the disk is full: reserve file removed", error=for_log(error))
    return work()
