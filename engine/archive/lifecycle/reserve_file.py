"""The reserve file: disk space that is given up so that deletions work on a full disk.

DATA/ballast is a file of blocks that nobody reads. A deletion needs room for its tombstones and for the pages of the
index that change; when there is none, it is removed and the deletion tried once more. Whoever keeps or looks
after the archive makes it anew when there is room again. Nothing else may rely on it, and it is not what instances
leave free: that is limits.disk_reserve_bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import StorageFull

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.storage.files import Files

RESERVE_BYTES = 32 << 20
"""A deletion of 5 000 instances changes some 8 MiB of the index; a few of them, and the checkpoint after each."""

FREE_SHARE = 16
"""On a small disk the reserve file takes at most this part of what is free when it is made."""

BLOCK_BYTES = 1 << 20


def path_of(layout: Layout) -> str:
    """Where the reserve file lies."""
    return str(layout.data / "ballast")


def make(layout: Layout, files: Files) -> bool:
    """Makes the reserve file if there is none and there is room; whether there is one now. Raises StorageFailed."""
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
    """Gives the file's blocks back to the disk; False when there were none. Raises StorageFailed."""
    path = path_of(layout)
    if not files.exists(path):
        return False
    files.unlink(path)
    # The blocks are free for others when the removal is on the disk.
    files.sync_directory(str(layout.data))
    return True
