"""Payloads that are written while they come: the record is the same, and what becomes no record is a torn tail."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.storage.files import Files, WriteAhead
from engine.storage.reader import LogReader
from engine.storage.record import Kind, Position, Record, crc32c
from engine.storage.recovery import recover_segment
from engine.storage.segment import FIRST_RECORD, scan, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments
from tests.faulty_files import FaultyFiles

PIECE = 128 << 10
PAGE = 4096
KEY = b"1.2.3"


def whole_pages(offset: int, count: int) -> tuple[int, int]:
    """Which of `count` bytes from this offset on lie in whole pages."""
    return -offset % PAGE, (offset + count) // PAGE * PAGE - offset


# -- the writing itself -------------------------------------------------------------------------


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("offset", [0, 1, PAGE - 1, PAGE, 5000])
def test_whole_pages_are_in_the_file_as_soon_as_a_piece_has_come(fd: int, offset: int) -> None:
    payload = random.Random(offset).randbytes(3 * PIECE)
    memory = bytearray(payload)
    ahead = WriteAhead(fd, offset, len(payload))
    ahead.receive(memoryview(memory)[: PIECE - 1])
    assert os.fstat(fd).st_size == 0
    ahead.receive(memoryview(memory)[: 2 * PIECE + 10])
    first, end = whole_pages(offset, 2 * PIECE + 10)
    assert os.pread(fd, len(payload), offset + first) == payload[first:end]
    assert ahead.stop() == (first, end)


def test_nothing_is_written_when_it_is_over_nor_beyond_the_limit(fd: int) -> None:
    memory = memoryview(bytearray(4 * PIECE))
    ahead = WriteAhead(fd, 0, 2 * PIECE)
    ahead.receive(memory)
    assert os.fstat(fd).st_size == 2 * PIECE
    assert ahead.stop() == (0, 2 * PIECE) and ahead.is_over
    other = WriteAhead(fd, 0, len(memory))
    other.stop()
    other.receive(memory)
    assert os.fstat(fd).st_size == 2 * PIECE


def test_what_lies_in_other_memory_is_left_alone(fd: int) -> None:
    ahead = WriteAhead(fd, 0, 1 << 30)
    ahead.receive(bytearray(PIECE))
    ahead.receive(bytearray(b"x" * 2 * PIECE))
    assert ahead.stop() == (0, PIECE)


def test_after_an_error_nothing_counts_as_written() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ahead = WriteAhead(full, 0, 1 << 30)
        ahead.receive(bytearray(PIECE))
        assert ahead.is_over and ahead.stop() == (0, 0)
    finally:
        os.close(full)


# -- in a log -----------------------------------------------------------------------------------


class Bench:
    """A log, and what is sent to it."""

    def __init__(self, directory: Path, *, segment_bytes: int = 4 << 20, prewrite_bytes: int = 0) -> None:
        self.directory = str(directory)
        self.files = FaultyFiles()
        self.log = SegmentLog(
            self.directory,
            self.files,
            b"archive-id-16-by",
            writer="worker-0",
            segment_bytes=segment_bytes,
            prewrite_bytes=prewrite_bytes,
        )
        self.reader = LogReader(LocalSegments(self.directory, self.files))
        self.stamp = 0

    def begin(self, payload: bytes, received: int, key: bytes = KEY) -> WriteAhead:
        ahead = self.log.write_ahead(len(key))
        assert ahead is not None
        ahead.receive(memoryview(payload)[:received])
        return ahead

    def append(
        self, payload: bytes, ahead: WriteAhead | None = None, *, meta: bytes = b"meta", key: bytes = KEY
    ) -> Position:
        self.stamp += 1
        half = max(len(payload) - 1000, 0)
        return self.log.append(
            Kind.INSTANCE,
            0,
            self.stamp,
            key,
            meta,
            [payload] if ahead is None else [payload[:half], payload[half:]],
            len(payload),
            crc32c(payload),
            write_back=True,
            ahead=ahead,
        )

    def records(self, segment_id: int = 0) -> list[Record]:
        fd = os.open(segment_path(self.directory, segment_id), os.O_RDONLY)
        try:
            return list(scan(FileBytes(self.files, fd), segment_id, 0, verify_payload=True))
        finally:
            os.close(fd)

    def abandoned(self) -> list[Record]:
        """The records that recovery finds when the process is gone."""
        self.reader.close()
        for segment in [self.log._active, *self.log._rolled, self.log._spare]:
            if segment is not None:
                os.close(segment.fd)
        recover_segment(self.files, self.directory, 0, 0)
        return self.records()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.append(b"the first one")
    return bench


@pytest.mark.parametrize("received", [PIECE + PAGE, 2 * PIECE, 3 * PIECE - 1000])
@pytest.mark.parametrize("prewrite_bytes", [0, 2 << 20])
def test_a_record_that_was_written_ahead_is_as_any_other(tmp_path: Path, received: int, prewrite_bytes: int) -> None:
    bench = Bench(tmp_path, prewrite_bytes=prewrite_bytes)
    bench.log.prepare()
    bench.append(b"the first one")
    before = bench.files.calls["pwritev"]
    payload = random.Random(received).randbytes(3 * PIECE)
    position = bench.append(payload, bench.begin(payload, received), meta=b"other meta")
    assert bench.files.calls["pwritev"] == before + 2
    assert bytes(bench.reader.read(position, verify=True)) == payload
    following = bench.append(b"the next one")
    assert following.offset == position.end
    bench.log.close()
    assert [(each.meta, each.position) for each in bench.records()][1] == (b"other meta", position)
    assert [each.position for each in bench.records()][2] == following
    bench.reader.close()


def test_nothing_is_written_ahead_before_the_log_knows_what_a_meta_takes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.log.write_ahead(5) is None
    bench.append(b"the first one")
    ahead = bench.log.write_ahead(5)
    assert ahead is not None
    assert bench.log.write_ahead(5) is None  # one at a time
    ahead.stop()
    assert bench.log.write_ahead(5) is not None
    bench.log.close()
    assert bench.log.write_ahead(5) is None


@pytest.mark.parametrize("why", ["another payload's", "meta too long", "meta far too short"])
def test_where_it_does_not_fit_the_record_is_written_once_more(bench: Bench, why: str) -> None:
    payload = random.Random(why).randbytes(3 * PIECE)
    if why == "meta far too short":
        bench.append(b"", meta=bytes(3000))
    ahead = bench.begin(payload, 2 * PIECE)
    meta = bytes(1000) if why == "meta too long" else b"meta"
    position = bench.append(payload[::-1], None if why == "another payload's" else ahead, meta=meta)
    assert ahead.is_over
    assert position.meta_length == len(meta)
    assert bytes(bench.reader.read(position, verify=True)) == payload[::-1]
    bench.log.close()
    bench.reader.close()


def test_a_record_that_came_between_stays_whole(bench: Bench) -> None:
    payload = random.Random(1).randbytes(3 * PIECE)
    ahead = bench.begin(payload, PIECE + PAGE)
    between = bench.append(b"between")
    ahead.receive(memoryview(payload)[: 2 * PIECE])
    position = bench.append(payload, ahead)
    assert bytes(bench.reader.read(between, verify=True)) == b"between"
    assert bytes(bench.reader.read(position, verify=True)) == payload
    bench.log.close()
    assert [each.position for each in bench.records()][1:] == [between, position]
    bench.reader.close()


def test_a_record_for_which_there_is_no_room_goes_to_the_next_segment(tmp_path: Path) -> None:
    bench = Bench(tmp_path, segment_bytes=3 * PIECE)
    bench.append(b"the first one")
    payload = random.Random(2).randbytes(3 * PIECE)
    position = bench.append(payload, bench.begin(payload, 2 * PIECE))
    assert position.offset == FIRST_RECORD and position.segment_id == 1
    assert bytes(bench.reader.read(position, verify=True)) == payload
    bench.log.close()
    assert len(bench.records(0)) == 1 and len(bench.records(1)) == 1
    bench.reader.close()


def test_of_a_payload_that_became_no_record_nothing_is_left_after_a_crash(bench: Bench) -> None:
    payload = random.Random(3).randbytes(3 * PIECE)
    bench.begin(payload, 3 * PIECE)
    assert [each.stamp for each in bench.abandoned()] == [1]


def test_records_over_the_remains_of_one_that_never_came_are_found_after_a_crash(bench: Bench) -> None:
    payload = random.Random(4).randbytes(3 * PIECE)
    bench.begin(payload, 3 * PIECE)
    bench.append(b"over it")
    bench.append(b"behind it")
    assert [each.stamp for each in bench.abandoned()] == [1, 2, 3]


def test_a_sealed_segment_has_no_remains(bench: Bench) -> None:
    payload = random.Random(5).randbytes(3 * PIECE)
    ahead = bench.begin(payload, 3 * PIECE)
    bench.log.close()
    ahead.receive(memoryview(payload))
    assert os.path.getsize(segment_path(bench.directory, 0)) < PIECE
    assert [each.stamp for each in bench.records()] == [1]
    bench.reader.close()


def test_files_give_the_compiled_one(fd: int) -> None:
    assert isinstance(Files().write_ahead(fd, 0, 1), WriteAhead)
