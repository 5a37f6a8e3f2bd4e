"""A chain of the audit log reserves room on the disk ahead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.audit.chain import ROOM_BYTES, ChainWriter, chain_files
from engine.audit.event import fields_of
from engine.audit.verify import verify
from engine.errors import StorageFull
from engine.storage.files import Files
from tests.audit.recording import stored
from tests.system import mounts


def append(chain: ChainWriter, count: int) -> None:
    for number in range(count):
        chain.append([fields_of(stored(f"1.2.{number}"))])
        chain.sync()


def test_a_hundred_events_are_recorded_on_a_full_disk(tmp_path: Path) -> None:
    if missing := mounts.missing_for("tmpfs"):
        pytest.skip(missing)
    with mounts.mounted("tmpfs", "tmpfs", tmp_path / "disk", "size=8m") as disk:
        chain = ChainWriter(disk, Files())
        append(chain, 1)
        filler = os.open(disk / "filler", os.O_RDWR | os.O_CREAT)
        status = os.statvfs(disk)
        os.posix_fallocate(filler, 0, status.f_bavail * status.f_frsize)
        os.close(filler)
        append(chain, 100)
        with pytest.raises(StorageFull):
            append(chain, ROOM_BYTES)
        (disk / "filler").unlink()
        append(chain, 1)
        chain.close()
        assert verify(disk).events >= 102


def test_the_room_is_not_part_of_the_file(tmp_path: Path) -> None:
    chain = ChainWriter(tmp_path, Files())
    append(chain, 3)
    chain.close()
    (path,) = chain_files(tmp_path, chain.name)
    assert path.read_bytes().count(b"\n") == 3 and path.read_bytes().endswith(b"\n")
    again = ChainWriter(tmp_path, Files())
    append(again, 1)
    again.close()
    assert chain_files(tmp_path, chain.name) == [path] and verify(tmp_path).events == 4
