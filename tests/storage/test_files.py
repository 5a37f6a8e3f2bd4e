"""The file calls against a real file system: what they do, and what their errors become."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.errors import StorageError, StorageFailed, StorageFull
from engine.storage.files import IOV_MAX, Files
from tests.faulty_files import FaultyFiles


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file")


def test_create_refuses_an_existing_file(files: FaultyFiles, path: str) -> None:
    files.close(files.create(path))
    with pytest.raises(FileExistsError):
        files.create(path)


def test_descriptors_are_closed_on_exec(files: FaultyFiles, path: str) -> None:
    first = files.create(path)
    second = files.open(path, os.O_RDONLY)
    assert not os.get_inheritable(first)
    assert not os.get_inheritable(second)
    files.close(first)
    files.close(second)


@pytest.mark.parametrize("write_bytes_max", [0, 1, 7, 4096])
def test_pwritev_writes_everything_however_short_the_writes(
    files: FaultyFiles, path: str, write_bytes_max: int
) -> None:
    files.write_bytes_max = write_bytes_max
    fd = files.create(path)
    buffers: list[bytes | bytearray | memoryview] = [
        b"",
        b"abc",
        bytearray(b"defgh"),
        memoryview(b"i"),
        b"",
        memoryview(b"jklmnop"),
    ]
    files.pwritev(fd, buffers, 10, 16)
    files.pwritev(fd, buffers, 30)
    assert files.pread(fd, 100, 0) == bytes(10) + b"abcdefghijklmnop" + bytes(4) + b"abcdefghijklmnop"
    files.close(fd)


@pytest.mark.parametrize("count", [IOV_MAX - 1, IOV_MAX, IOV_MAX + 1, 3 * IOV_MAX + 5])
def test_pwritev_takes_more_buffers_than_the_kernel_does(files: FaultyFiles, path: str, count: int) -> None:
    fd = files.create(path)
    buffers = [index.to_bytes(4, "little") for index in range(count)]
    files.pwritev(fd, buffers, 0, 4 * count)
    assert files.pread(fd, 5 * count, 0) == b"".join(buffers)
    targets = [memoryview(bytearray(4)) for _ in range(count)]
    assert files.preadv(fd, targets, 0) == 4 * count
    assert [bytes(target) for target in targets] == buffers
    files.close(fd)


def test_pwritev_refuses_buffers_of_another_length_than_announced(files: FaultyFiles, path: str) -> None:
    fd = files.create(path)
    for length in (2, 4):
        with pytest.raises(StorageError) as caught:
            files.pwritev(fd, [b"abc"], 0, length)
        assert not isinstance(caught.value, (StorageFull, StorageFailed))
    files.close(fd)


@pytest.mark.parametrize("read_bytes_max", [0, 1, 3, 1000])
def test_reads_go_on_after_a_short_read_and_stop_at_the_end(
    files: FaultyFiles, path: str, read_bytes_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(5000)
    fd = files.create(path)
    files.pwritev(fd, [data], 0)
    if read_bytes_max:
        pread, preadv = os.pread, os.preadv
        monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, read_bytes_max), at))
        monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:read_bytes_max]], at))
    assert files.pread(fd, 3000, 100) == data[100:3100]
    assert files.pread(fd, 3000, 4000) == data[4000:]
    assert files.pread(fd, 10, 6000) == b""
    target = bytearray(3000)
    assert files.preadv(fd, [memoryview(target)[:1000], memoryview(target)[1000:]], 100) == 3000
    assert target == data[100:3100]
    assert files.preadv(fd, [memoryview(target)], 4000) == 1000
    assert target[:1000] == data[4000:]
    files.close(fd)


def test_allocated_space_reads_as_zeros_and_counts_as_size(files: FaultyFiles, path: str) -> None:
    fd = files.create(path)
    files.pwritev(fd, [b"head"], 0)
    files.allocate(fd, 0, 1 << 20)
    assert files.size(fd) == 1 << 20
    assert os.fstat(fd).st_blocks * 512 >= 1 << 20
    assert files.pread(fd, 1 << 20, 0) == b"head" + bytes((1 << 20) - 4)
    files.close(fd)


def test_next_data_passes_over_what_was_never_written(files: FaultyFiles, path: str) -> None:
    fd = files.create(path)
    files.truncate(fd, 1 << 20)
    files.pwritev(fd, [b"x"], 1 << 19)
    assert 0 < files.next_data(fd, 0) <= 1 << 19
    assert files.next_data(fd, 1 << 19) == 1 << 19
    assert files.next_data(fd, (1 << 19) + (1 << 16)) == 1 << 20
    assert files.next_data(fd, 1 << 20) == 1 << 20
    files.close(fd)


def test_a_lock_is_held_by_one_open_file_until_it_is_closed(files: FaultyFiles, path: str) -> None:
    first = files.create(path)
    second = files.open(path, os.O_RDWR)
    assert files.lock(first)
    assert not files.lock(second)
    files.close(first)
    assert files.lock(second)
    assert files.is_linked(second)
    files.unlink(path)
    files.unlink(path)
    assert not files.is_linked(second)
    files.close(second)


def test_write_back_and_syncs_work_on_this_file_system(files: FaultyFiles, path: str, tmp_path: Path) -> None:
    fd = files.create(path)
    files.pwritev(fd, [bytes(10000)], 0)
    files.write_back(fd, 0, 10000)
    files.fdatasync(fd)
    files.rename(path, path + "2")
    files.sync_directory(str(tmp_path))
    assert files.list_directory(str(tmp_path)) == ["file2"]
    assert files.free_bytes(str(tmp_path)) > 0
    files.close(fd)


def test_a_full_device_is_storage_full() -> None:
    files = Files()
    fd = files.open("/dev/full", os.O_RDWR)
    with pytest.raises(StorageFull):
        files.pwritev(fd, [b"x"], 0)
    files.close(fd)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "allocate", "truncate", "write_back"])
def test_a_descriptor_that_is_none_is_storage_failed(call: str) -> None:
    files = Files()
    arguments = {
        "pwritev": ([b"x"], 0),
        "fdatasync": (),
        "allocate": (0, 10),
        "truncate": (10,),
        "write_back": (0, 10),
    }[call]
    with pytest.raises(StorageFailed):
        getattr(files, call)(1_000_000, *arguments)


def test_names_that_cannot_be_changed_are_storage_failed(tmp_path: Path) -> None:
    files = Files()
    with pytest.raises(StorageFailed):
        files.rename(str(tmp_path / "none"), str(tmp_path / "other"))
    with pytest.raises(StorageFailed):
        files.sync_directory(str(tmp_path / "none"))
    with pytest.raises(StorageFailed):
        files.create(str(tmp_path / "none" / "file"))
    with pytest.raises(FileNotFoundError):
        files.open(str(tmp_path / "none"), os.O_RDONLY)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM])
def test_what_may_come_back_is_storage_full(files: FaultyFiles, path: str, number: int) -> None:
    files.fail("create", number)
    with pytest.raises(StorageFull):
        files.create(path)
    files.close(files.create(path))


def test_a_full_disk_at_a_sync_is_final(files: FaultyFiles, path: str) -> None:
    fd = files.create(path)
    files.fail("fdatasync", errno.ENOSPC)
    with pytest.raises(StorageFailed):
        files.fdatasync(fd)
    files.close(fd)


def test_directories_and_links_are_made_once(tmp_path: Path) -> None:
    files = Files()
    folder = str(tmp_path / "folder")
    assert not files.exists(folder)
    files.make_directory(folder)
    files.make_directory(folder)
    assert files.exists(folder)
    with pytest.raises(StorageFailed):
        files.make_directory(str(tmp_path / "missing" / "folder"))
    first, second = f"{folder}/first", f"{folder}/second"
    files.close(files.create(first))
    files.link(first, second)
    with pytest.raises(FileExistsError):
        files.link(first, second)
    with pytest.raises(StorageFailed):
        files.link(f"{folder}/missing", f"{folder}/third")
    assert files.identity(first) == files.identity(second)
    assert files.identity(f"{folder}/missing") is None


def test_another_content_is_another_identity(tmp_path: Path) -> None:
    files = Files()
    path, other = str(tmp_path / "file"), str(tmp_path / "other")
    for name in (path, other):
        files.close(files.create(name))
    before = files.identity(path)
    files.rename(other, path)
    assert files.identity(path) != before


def test_the_cache_is_dropped_and_what_is_not_written_yet_stays(tmp_path: Path) -> None:
    files = Files()
    fd = files.create(str(tmp_path / "file"))
    files.pwritev(fd, [b"x" * 9000], 0)
    files.drop_cache(fd)
    assert files.pread(fd, 9000, 0) == b"x" * 9000
    files.close(fd)
