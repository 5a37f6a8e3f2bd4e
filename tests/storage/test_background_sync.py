"""BackgroundSync: makes a log durable while its caller does something else, or says that this is not so simple."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import StorageFailed
from engine.storage.background_sync import BackgroundSync
from engine.storage.files import Files
from engine.storage.record import Kind, crc32c
from engine.storage.segment_log import SegmentLog
from tests.faulty_files import FaultyFiles

LONG_US = 10_000_000


class Bench:
    """A log with one record, whose file's name is durable, and its syncs."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.log = SegmentLog(str(directory), files, b"archive-id-16-by", writer="worker-0", segment_bytes=64 << 10)
        self.syncs = BackgroundSync(self.log)
        self.append()
        self.log.sync()

    def append(self, length: int = 7) -> None:
        payload = bytes(length)
        self.log.append(Kind.INSTANCE, 1, 1, b"1.2.3", b"meta", [payload], length, crc32c(payload))

    def close(self) -> None:
        self.syncs.close()
        self.log.close()


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture(params=["compiled", "twin"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, files: FaultyFiles) -> Iterator[Bench]:
    bench = Bench(tmp_path, Files() if request.param == "compiled" else files)
    yield bench
    bench.close()


def test_what_was_appended_before_the_beginning_is_durable_at_the_end(bench: Bench) -> None:
    bench.append()
    assert bench.log.unsynced()
    assert bench.syncs.begin()
    assert bench.syncs.wait(LONG_US)
    bench.append()
    bench.syncs.finish()
    assert bench.log.unsynced()
    assert bench.syncs.begin()
    bench.syncs.finish()
    assert not bench.log.unsynced()


def test_its_descriptor_is_readable_when_a_sync_has_ended_until_it_is_finished(bench: Bench) -> None:
    bench.append()
    assert bench.syncs.begin()
    assert bench.syncs.wait(LONG_US) and bench.syncs.wait(0)
    assert os.eventfd_read(os.dup(bench.syncs.fileno())) == 1
    os.eventfd_write(bench.syncs.fileno(), 1)
    bench.syncs.finish()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(bench.syncs.fileno())


def test_a_failed_sync_ends_the_log_and_no_other_one_begins(tmp_path: Path, files: FaultyFiles) -> None:
    bench = Bench(tmp_path, files)
    bench.append()
    files.fail("fdatasync", errno.EIO)
    assert bench.syncs.begin()
    with pytest.raises(StorageFailed):
        bench.syncs.finish()
    count = files.calls["fdatasync"]
    with pytest.raises(StorageFailed):
        bench.syncs.begin()
    with pytest.raises(StorageFailed):
        bench.log.sync()
    assert files.calls["fdatasync"] == count
    bench.close()


def test_a_failed_sync_of_the_compiled_thread_ends_the_log_too(tmp_path: Path) -> None:
    class WrongFile(Files):
        """Syncs a pipe, which no file system can."""

        __slots__ = ()

        def sync_thread(self):  # type: ignore[no-untyped-def]
            thread = super().sync_thread()
            begin, pipe = thread.begin, os.pipe()
            thread.begin = lambda fd: begin(pipe[1])
            return thread

    bench = Bench(tmp_path, WrongFile())
    bench.append()
    assert bench.syncs.begin()
    with pytest.raises(StorageFailed, match="fdatasync"):
        bench.syncs.finish()
    assert bench.log.failed is not None
    bench.close()


def test_more_than_one_file_or_a_new_name_is_left_to_a_thread(bench: Bench) -> None:
    bench.append(40 << 10)
    bench.append(40 << 10)  # rolls
    assert bench.log.rolled
    assert not bench.syncs.begin()
    bench.log.sync()
    bench.log.seal_rolled()
    bench.append()
    assert bench.syncs.begin()
    bench.syncs.finish()


def test_of_a_log_without_a_record_nothing_is_synced_in_the_background(tmp_path: Path) -> None:
    log = SegmentLog(str(tmp_path), Files(), b"archive-id-16-by", writer="worker-0")
    syncs = BackgroundSync(log)
    assert not syncs.begin()
    syncs.close()
    log.close()


def test_a_segment_that_is_sealed_meanwhile_keeps_its_descriptor_until_the_end(bench: Bench) -> None:
    bench.append()
    assert bench.syncs.begin()
    for _ in range(2):
        bench.append(40 << 10)
    assert bench.log.rolled
    bench.log.seal_rolled()
    bench.syncs.finish()
    bench.log.sync()
    assert not bench.log.unsynced()


def test_the_thread_may_be_closed_at_any_time(bench: Bench, tmp_path: Path) -> None:
    thread = Files().sync_thread()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for _ in range(20):
        thread.begin(fd)
        thread.finish()
    with pytest.raises(ValueError, match="no sync"):
        thread.finish()
    thread.begin(fd)
    with pytest.raises(ValueError, match="under way"):
        thread.begin(fd)
    thread.close()
    thread.close()
    with pytest.raises(ValueError, match="ended"):
        thread.begin(fd)
    os.close(fd)
