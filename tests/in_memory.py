"""Files of tests in memory: FILMROOM_MEMORY_FOLDER is a folder in /dev/shm, for the rooms of IN_MEMORY (tools/check).

They rely on what a disk does only by way of `FaultyFiles`, and to wait until a disk has synced their files takes longer
than all else in them. A file system in memory fills what is preallocated with zeros, a gigabyte for each segment. So
there only the size grows, as on file systems without fallocate. A test that tells what is in the page cache, or fills
a disk, is marked `disk`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

FOLDER = os.environ.get("FILMROOM_MEMORY_FOLDER", "")
IN_MEMORY = {
    *("accounts", "archive", "audit", "cli", "fhir", "hl7", "identity", "index", "journal", "keys", "mapping"),
    *("messaging", "objects", "orders", "reports"),
}
_on_disk = pytest.StashKey[Path]()


def install() -> None:
    """Preallocates nothing in memory; for this process."""
    if not FOLDER:
        return
    from engine.storage import files

    allocate, device = files.disk.allocate, os.stat(FOLDER).st_dev

    def allocate_on_disk(fd: int, offset: int, length: int, **options: bool) -> None:
        if os.fstat(fd).st_dev == device:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        allocate(fd, offset, length, **options)

    files.disk.allocate = allocate_on_disk


def put_temporary_files(item: pytest.Item, room: str) -> None:
    """Where the folders are that pytest makes for this test and for the fixtures of its module."""
    if not FOLDER:
        return
    factory = item.config._tmp_path_factory  # type: ignore[attr-defined]
    on_disk = item.config.stash.setdefault(_on_disk, factory.getbasetemp())
    memory = Path(FOLDER, os.environ.get("PYTEST_XDIST_WORKER", "alone"))
    memory.mkdir(exist_ok=True)
    in_memory = room in IN_MEMORY and item.get_closest_marker("disk") is None
    factory._basetemp = memory if in_memory else on_disk
