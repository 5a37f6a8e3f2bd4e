"""Files that may go at any time: bounded, whole or not there, and no trouble to anybody."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.archive.metadata import blob as blobs
from engine.archive.metadata.blob import Blob
from engine.archive.metadata.blob_files import BlobFiles
from engine.archive.metadata.gzip_pieces import stored


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_read_and_replaced(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path / "kept", bytes_max=1 << 20)
    assert files.read(b"owner", b"one") is None
    files.write(b"owner", b"one", b"first")
    files.write(b"owner", b"two", b"second")
    files.write(b"owner", b"one", b"third")
    assert (files.read(b"owner", b"one"), files.read(b"owner", b"two")) == (b"third", b"second")
    assert len(names(tmp_path)) == 2
    assert {path.stat().st_mode & 0o77 for path in (tmp_path / "kept").rglob("*")} == {0}, "patients' data"
    assert dict(files.heads()).keys() == {b"second", b"third"}
    for _, path in list(files.heads()):
        files.remove(path)
    assert names(tmp_path) == []


def test_the_least_lately_used_go_first(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path, bytes_max=10_000)
    for number in range(9):
        files.write(b"%d" % number, b"", bytes(1000))
    old = time.time() - 7200
    for path in tmp_path.rglob("*-*"):
        os.utime(path, (old, old))
    files.read(b"3", b"")
    for number in range(9, 14):
        files.write(b"%d" % number, b"", bytes(1000))
    files.trim()
    left = [number for number in range(14) if files.read(b"%d" % number, b"") is not None]
    assert 3 in left
    assert left[-5:] == [9, 10, 11, 12, 13]
    assert len(left) <= 10


def test_the_bound_holds_without_a_call(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path, bytes_max=20_000)
    for number in range(120):
        files.write(b"%d" % number, b"", bytes(1000))
        assert len(names(tmp_path)) * 1000 <= 22_000
    files.write(b"large", b"", bytes(12_000))
    assert files.read(b"large", b"") is None


def test_a_full_disk_or_a_folder_that_cannot_be_written_is_nobodys_trouble(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path / "a", bytes_max=1 << 20, reserve_bytes=1 << 60)
    files.write(b"owner", b"", b"x")
    assert files.read(b"owner", b"") is None
    (tmp_path / "file").write_bytes(b"")
    files = BlobFiles(tmp_path / "file", bytes_max=1 << 20)
    for _ in range(2):
        files.write(b"owner", b"", b"x")
    assert files.read(b"owner", b"") is None
    assert list(files.heads()) == []
    files.trim()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path, bytes_max=1 << 20)
    files.write(b"owner", b"", b"x")
    (path,) = tmp_path.rglob("*-*")
    left_over, fresh = path.with_name("dead.1.2.new"), path.with_name("alive.1.2.new")
    for each in (left_over, fresh):
        each.write_bytes(b"half")
    os.utime(left_over, (1, 1))
    files.trim()
    assert not left_over.exists()
    assert fresh.exists()


BLOB = Blob(b"study\0series\0root", b"i" * 40, b"c" * 16, 2, 1, stored(b"{},{}"))


def test_a_blob_is_the_same_after_a_file() -> None:
    data = blobs.encode(BLOB)
    assert blobs.decode(data, BLOB.key) == BLOB
    assert blobs.head_of(data[:4096]) == (BLOB.key, blobs.state_of(BLOB.identities, BLOB.corrections))
    assert blobs.decode(blobs.encode(Blob(b"key")), b"key") == Blob(b"key")


def test_a_file_that_is_not_as_it_should_be_counts_as_none() -> None:
    data = blobs.encode(BLOB)
    assert blobs.decode(data, b"another") is None
    for end in range(len(data)):
        assert blobs.decode(data[:end], BLOB.key) is None
        assert blobs.head_of(data[:end])[0] in (b"", BLOB.key)
    for at in range(len(data)):
        assert blobs.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], BLOB.key) is None
    assert blobs.head_of(b"") == (b"", b"")
