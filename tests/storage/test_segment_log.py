"""SegmentLog and StreamAppender: what is appended is there, in which file, durable when, and what an error leaves."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import CorruptRecord, StorageError, StorageFailed, StorageFull
from engine.storage import hints, segment_factory
from engine.storage.reader import LogReader
from engine.storage.record import Kind, Position, Record, crc32c
from engine.storage.recovery import is_owned, recover_segment
from engine.storage.segment import FIRST_RECORD, list_segments, read_segment_header, scan, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments
from tests.faulty_files import FaultyFiles

ARCHIVE_ID = b"archive-id-16-by"
SEGMENT_BYTES = 64 << 10


class Bench:
    """A log on a real file system, with a reader beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.files = FaultyFiles()
        self.reader = LogReader(LocalSegments(self.directory, self.files))
        self.logs: list[SegmentLog] = []
        self.log = self.open()
        self.count = 0

    def open(self, **options: object) -> SegmentLog:
        settings: dict[str, object] = {"writer": "worker-0", "segment_bytes": SEGMENT_BYTES, **options}
        log = SegmentLog(self.directory, self.files, ARCHIVE_ID, **settings)  # type: ignore[arg-type]
        self.logs.append(log)
        return log

    def append(
        self, payload: bytes = b"payload", log: SegmentLog | None = None, *, write_back: bool = True
    ) -> Position:
        self.count += 1
        key = b"1.2.3.%d" % self.count
        half = len(payload) // 2
        return (log or self.log).append(
            Kind.INSTANCE,
            1,
            self.count,
            key,
            b"meta",
            [payload[:half], payload[half:]],
            len(payload),
            crc32c(payload),
            write_back=write_back,
        )

    def records(self, segment_id: int = 0) -> list[Record]:
        fd = os.open(segment_path(self.directory, segment_id), os.O_RDONLY)
        try:
            return list(scan(FileBytes(self.files, fd), segment_id, 0, verify_payload=True))
        finally:
            os.close(fd)

    def segments(self) -> list[int]:
        return list_segments(self.directory, self.files)

    def size(self, segment_id: int = 0) -> int:
        return os.path.getsize(segment_path(self.directory, segment_id))

    def hints(self, segment_id: int = 0) -> list[Record] | None:
        fd = os.open(segment_path(self.directory, segment_id), os.O_RDONLY)
        try:
            return hints.read_hints(FileBytes(self.files, fd), segment_id)
        finally:
            os.close(fd)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.files.heal()
    bench.files.before = None
    for log in bench.logs:
        log.close()
    bench.reader.close()


# -- appending ----------------------------------------------------------------------------------


def test_nothing_is_created_before_the_first_append(bench: Bench) -> None:
    assert bench.segments() == []
    assert bench.log.active_segments == []
    assert not bench.log.unsynced()
    bench.log.sync()
    bench.append()
    assert bench.segments() == [0]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096, 30_000, 200_000])
def test_an_appended_payload_is_read_back(bench: Bench, size: int) -> None:
    payload = os.urandom(size)
    bench.append(b"before")
    position = bench.append(payload)
    bench.append(b"after")
    assert bench.reader.read(position) == payload
    assert position.payload_length == size
    record = bench.reader.read_record(position)
    assert (record.kind, record.flags, record.stamp, record.key, record.meta) == (1, 1, 2, b"1.2.3.2", b"meta")


def test_one_append_is_one_write(bench: Bench) -> None:
    bench.append()
    before = bench.files.calls["pwritev"]
    bench.append(b"odd")
    assert bench.files.calls["pwritev"] == before + 1
    assert bench.files.calls["fdatasync"] == 0


def test_records_lie_end_to_end_and_are_numbered(bench: Bench) -> None:
    positions = [bench.append(bytes(size)) for size in (5, 0, 16, 100)]
    records = bench.records()
    assert [record.position for record in records] == positions
    assert [record.sequence for record in records] == [0, 1, 2, 3]
    assert positions[0].offset == FIRST_RECORD
    assert [position.end for position in positions[:-1]] == [position.offset for position in positions[1:]]
    assert bench.log.active_segments == [(0, positions[-1].end)]


def test_a_tombstone_has_no_payload(bench: Bench) -> None:
    position = bench.log.append(Kind.TOMBSTONE, 0, 9, b"1.2.3", b"", [], 0, 0)
    assert bench.records()[0].kind == Kind.TOMBSTONE
    assert bench.reader.read(position) == b""


def test_the_header_names_archive_and_writer(bench: Bench) -> None:
    bench.append()
    fd = os.open(segment_path(bench.directory, 0), os.O_RDONLY)
    header = read_segment_header(FileBytes(bench.files, fd), 0)
    os.close(fd)
    assert (header.archive_id, header.writer) == (ARCHIVE_ID, "worker-0")


def test_an_active_segment_is_allocated_ahead_and_reads_as_zeros(bench: Bench) -> None:
    end = bench.append().end
    assert bench.size() == SEGMENT_BYTES
    assert Path(segment_path(bench.directory, 0)).read_bytes()[end:].strip(b"\0") == b""


def test_without_allocation_a_segment_is_as_long_as_its_records(bench: Bench) -> None:
    log = bench.open(allocate=False)
    end = bench.append(log=log).end
    assert bench.size() == end


def test_contradicting_arguments_add_nothing(bench: Bench) -> None:
    good = bench.append()
    for length in (2, 4):
        with pytest.raises(StorageError):
            bench.log.append(1, 0, 1, b"k", b"", [b"abc"], length, 0)
    with pytest.raises(StorageError):
        bench.log.append(1, 0, 1, b"k" * 70000, b"", [], 0, 0)
    with pytest.raises(StorageError):
        bench.log.append(1, 0, 1, b"k", bytes(2 << 20), [], 0, 0)
    again = bench.append()
    assert [record.position for record in bench.records()] == [good, again]


# -- rolling and sealing ------------------------------------------------------------------------


def test_a_full_segment_is_rolled_and_sealed_when_told(bench: Bench) -> None:
    positions = [bench.append(bytes(10_000)) for _ in range(8)]
    assert positions[-1].segment_id == 1
    assert bench.log.rolled
    assert bench.hints(0) is None
    first = [position for position in positions if position.segment_id == 0]
    assert bench.log.seal_rolled() == [(0, first[-1].end)]
    assert [segment_id for segment_id, _ in bench.log.active_segments] == [1]
    assert bench.log.seal_rolled() == []
    sealed = bench.hints(0)
    assert sealed == bench.records(0)
    assert sealed is not None
    assert [record.position for record in sealed] == first
    assert bench.size(0) < SEGMENT_BYTES
    assert not is_owned(bench.files, bench.directory, 0)
    assert is_owned(bench.files, bench.directory, 1)


def test_the_footer_fits_into_the_allocated_space(bench: Bench) -> None:
    while not bench.log.rolled:
        bench.append(b"")
    bench.log.seal_rolled()
    assert bench.size(0) <= SEGMENT_BYTES


def test_a_record_larger_than_a_segment_gets_one_of_its_size(bench: Bench) -> None:
    payload = os.urandom(5 * SEGMENT_BYTES)
    bench.append()
    position = bench.append(payload)
    assert position.segment_id == 1
    assert bench.reader.read(position) == payload
    assert bench.append().segment_id == 2


def test_rolling_into_a_prepared_segment_creates_nothing(bench: Bench) -> None:
    bench.append()
    bench.log.prepare()
    bench.log.prepare()
    assert bench.segments() == [0, 1]
    assert bench.files.calls["sync_directory"] == 1
    before = bench.files.calls.copy()
    while bench.append(bytes(9000)).segment_id == 0:
        pass
    bench.files.calls.subtract(before)
    assert {name for name, count in bench.files.calls.items() if count} == {"pwritev", "write_back"}


def test_sealing_prepares_the_next_segment(bench: Bench) -> None:
    while not bench.log.rolled:
        bench.append(bytes(9000))
    bench.log.seal_rolled()
    assert bench.segments() == [0, 1, 2]
    bench.log.close()
    assert bench.segments() == [0, 1]


def test_what_is_abandoned_is_gone_before_its_lock_is(bench: Bench) -> None:
    while len(bench.log.active_segments) < 3:
        bench.append(b"x" * 9000)
    bench.log.prepare()
    present = bench.segments()
    assert len(present) == 4
    owned: list[bool] = []

    def look(method: str) -> None:
        if method == "unlink":
            bench.files.before = None
            owned.extend(is_owned(bench.files, bench.directory, segment_id) for segment_id in bench.segments())
            bench.files.before = look

    bench.files.before = look
    bench.log.abandon()
    bench.files.before = None
    assert len(owned) == 4 + 3 + 2 + 1
    assert all(owned)
    assert bench.segments() == []
    with pytest.raises(StorageError):
        bench.append()
    assert bench.log.close() == []


def test_what_cannot_be_removed_on_abandoning_is_left_to_recovery(bench: Bench) -> None:
    while len(bench.log.active_segments) < 2:
        bench.append(b"x" * 9000)
    bench.files.fail("unlink", errno.EIO)
    with pytest.raises(StorageFailed):
        bench.log.abandon()
    (left,) = bench.segments()
    assert not is_owned(bench.files, bench.directory, left)
    assert recover_segment(bench.files, bench.directory, left, 0).records


def test_close_seals_everything_and_says_where_records_end(bench: Bench) -> None:
    ends: dict[int, int] = {}
    for _ in range(12):
        position = bench.append(bytes(10_000))
        ends[position.segment_id] = position.end
    assert bench.log.close() == sorted(ends.items())
    assert bench.log.close() == []
    assert all(bench.hints(segment_id) is not None for segment_id in ends)
    with pytest.raises(StorageError):
        bench.append()


def test_a_log_that_was_only_prepared_leaves_nothing_behind(bench: Bench) -> None:
    bench.log.prepare()
    assert bench.log.close() == []
    assert bench.segments() == []


def test_two_writers_never_share_a_segment(bench: Bench) -> None:
    other = bench.open()
    ours = {bench.append(bytes(20_000)).segment_id for _ in range(10)}
    theirs = {bench.append(bytes(20_000), other).segment_id for _ in range(10)}
    assert not ours & theirs
    assert sorted(ours | theirs) == bench.segments()


def test_an_id_that_somebody_takes_meanwhile_is_passed_over(bench: Bench) -> None:
    def race(method: str) -> None:
        if method == "create":
            bench.files.before = None
            for taken in range(3):
                Path(segment_path(bench.directory, taken)).touch()

    bench.files.before = race
    assert bench.append().segment_id == 3


def test_a_new_file_that_a_recovery_removes_at_once_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = iter([False, True, True])
    links = iter([False, True])
    monkeypatch.setattr(FaultyFiles, "lock", lambda self, fd: next(locks))
    monkeypatch.setattr(FaultyFiles, "is_linked", lambda self, fd: next(links))
    assert bench.append().segment_id == 2


# -- durability ---------------------------------------------------------------------------------


def test_sync_covers_bytes_and_names_and_costs_nothing_when_nothing_is_new(bench: Bench) -> None:
    bench.append()
    assert bench.log.unsynced()
    bench.log.sync()
    assert not bench.log.unsynced()
    assert (bench.files.calls["fdatasync"], bench.files.calls["sync_directory"]) == (1, 1)
    bench.log.sync()
    bench.append()
    bench.log.sync()
    assert (bench.files.calls["fdatasync"], bench.files.calls["sync_directory"]) == (2, 1)


def test_sync_covers_rolled_segments(bench: Bench) -> None:
    for _ in range(16):
        bench.append(bytes(10_000))
    count = len(bench.segments())
    assert count >= 3
    bench.log.sync()
    assert bench.files.calls["fdatasync"] == count
    assert not bench.log.unsynced()


def test_records_carry_how_far_the_segment_was_synced(bench: Bench) -> None:
    first = bench.append()
    bench.append()
    bench.log.sync()
    third = bench.append()
    assert [record.synced_bytes for record in bench.records()] == [0, 0, third.offset]
    assert first.offset == FIRST_RECORD


def test_what_is_appended_during_a_sync_is_not_taken_for_synced(bench: Bench) -> None:
    entered, leave = threading.Event(), threading.Event()
    bench.append()

    def wait(method: str) -> None:
        if method == "fdatasync":
            entered.set()
            assert leave.wait(60)

    bench.files.before = wait
    thread = threading.Thread(target=bench.log.sync)
    thread.start()
    assert entered.wait(60)
    bench.append()
    leave.set()
    thread.join()
    bench.files.before = None
    assert bench.log.unsynced()
    bench.log.sync()
    assert not bench.log.unsynced()


def test_a_segment_is_not_closed_under_a_running_fdatasync(bench: Bench) -> None:
    """Sealing closes the file while another thread is in fdatasync on it: the descriptor must stay valid."""
    entered, leave = threading.Event(), threading.Event()
    while not bench.log.rolled:
        bench.append(bytes(9000))
    syncing = threading.Thread(target=bench.log.sync, name="sync")

    def wait(method: str) -> None:
        if method == "fdatasync" and threading.current_thread() is syncing and not entered.is_set():
            entered.set()
            assert leave.wait(60)

    bench.files.before = wait
    syncing.start()
    assert entered.wait(60)
    closed = bench.files.calls["close"]
    assert [segment_id for segment_id, _ in bench.log.seal_rolled()] == [0]
    assert bench.files.calls["close"] == closed
    leave.set()
    syncing.join()
    assert bench.files.calls["close"] == closed + 1
    assert bench.log.failed is None
    assert bench.hints(0) is not None


def test_appends_syncs_and_seals_at_once_lose_nothing(bench: Bench) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def run(call: str) -> None:
        try:
            while not stop.is_set():
                getattr(bench.log, call)()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in ("sync", "seal_rolled", "prepare", "unsynced")]
    for thread in threads:
        thread.start()
    payloads = {}
    for index in range(400):
        payload = bytes([index % 256]) * (index * 37 % 3000)
        payloads[bench.append(payload)] = payload
    stop.set()
    for thread in threads:
        thread.join()
    bench.log.close()
    assert errors == []
    assert all(bench.reader.read(position) == payload for position, payload in payloads.items())
    found = [record.position for segment_id in bench.segments() for record in bench.hints(segment_id) or []]
    assert sorted(found) == sorted(payloads)


def test_write_back_is_started_only_when_wanted(bench: Bench) -> None:
    bench.append()
    assert bench.files.calls["write_back"] == 1
    bench.append(write_back=False)
    assert bench.files.calls["write_back"] == 1


# -- a full disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("partial_bytes", [0, 1, 63, 64, 80, 500, 5000])
@pytest.mark.parametrize("allocate", [True, False])
def test_a_refused_append_leaves_no_trace_and_the_next_one_works(
    bench: Bench, partial_bytes: int, allocate: bool
) -> None:
    log = bench.open(allocate=allocate)
    first = bench.append(b"first", log)
    bench.files.fail("pwritev", errno.ENOSPC, partial_bytes=partial_bytes)
    with pytest.raises(StorageFull):
        bench.append(os.urandom(4000), log)
    assert log.active_segments == [(0, first.end)]
    assert [record.position for record in bench.records()] == [first]
    second = bench.append(b"second", log)
    third = bench.append(os.urandom(300), log)
    log.sync()
    assert [record.position for record in bench.records()] == [first, second, third]
    log.close()
    assert [record.position for record in bench.hints() or []] == [first, second, third]


def test_remains_that_cannot_be_removed_end_the_log(bench: Bench) -> None:
    bench.append()
    bench.files.fail("pwritev", errno.ENOSPC, partial_bytes=100)
    bench.files.fail("truncate", errno.EIO)
    with pytest.raises(StorageFailed):
        bench.append(bytes(500))
    with pytest.raises(StorageFailed):
        bench.append()


@pytest.mark.parametrize("call", ["create", "pwritev", "allocate"])
def test_a_segment_that_cannot_be_made_refuses_the_append_and_leaves_no_file(bench: Bench, call: str) -> None:
    bench.files.fail(call, errno.ENOSPC, repeat=True)
    for _ in range(2):
        with pytest.raises(StorageFull):
            bench.append()
    assert bench.segments() == []
    bench.files.heal()
    assert bench.reader.read(bench.append(b"there is room again")) == b"there is room again"


def test_a_disk_that_cannot_hold_a_whole_segment_gives_a_smaller_one(bench: Bench) -> None:
    bench.files.fail("allocate", errno.ENOSPC)
    bench.append()
    assert FIRST_RECORD < bench.size() < SEGMENT_BYTES


def test_a_new_segment_takes_a_quarter_of_a_small_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaultyFiles, "free_bytes", lambda self, path: 100_000)
    bench.append()
    assert bench.size() == 25_000


def test_the_reserve_stays_free(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1_000_000
    monkeypatch.setattr(FaultyFiles, "free_bytes", lambda self, path: free)
    log = bench.open(reserve_bytes=900_000, allocate=False)
    bench.append(log=log)
    free = 899_999
    with pytest.raises(StorageFull):
        bench.append(log=log)
    with pytest.raises(StorageFull):
        log.begin_stream(1, 0, 0, b"k", 0)
    free = 990_000
    bench.append(log=log)


def test_a_footer_without_room_is_written_later(bench: Bench) -> None:
    while not bench.log.rolled:
        bench.append(bytes(9000))
    bench.files.fail("pwritev", errno.ENOSPC)
    assert bench.log.seal_rolled() == []
    assert bench.log.rolled
    bench.append()
    assert [segment_id for segment_id, _ in bench.log.seal_rolled()] == [0]


# -- an ill disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["pwritev", "write_back"])
def test_an_io_error_in_an_append_is_final(bench: Bench, call: str) -> None:
    bench.append()
    bench.files.fail(call, errno.EIO, partial_bytes=200)
    with pytest.raises(StorageFailed):
        bench.append(bytes(1000))
    bench.files.heal()
    for use in (bench.append, bench.log.sync):
        with pytest.raises(StorageFailed):
            use()
    assert bench.log.failed is not None
    assert bench.log.close() == []
    assert bench.hints() is None


@pytest.mark.parametrize("call", ["fdatasync", "sync_directory"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failed_sync_is_final_and_never_repeated(bench: Bench, call: str, number: int) -> None:
    bench.append()
    bench.files.fail(call, number)
    with pytest.raises(StorageFailed):
        bench.log.sync()
    calls = bench.files.calls[call]
    for use in (bench.log.sync, bench.append):
        with pytest.raises(StorageFailed):
            use()
    bench.log.close()
    assert bench.files.calls[call] == calls
    assert bench.hints() is None


@pytest.mark.parametrize("call", ["fdatasync", "pwritev", "truncate"])
def test_an_io_error_while_sealing_is_final_and_the_records_are_recovered(bench: Bench, call: str) -> None:
    positions = []
    while not bench.log.rolled:
        positions.append(bench.append(bytes(9000)))
    bench.log.sync()
    bench.files.fail(call, errno.EIO)
    with pytest.raises(StorageFailed):
        bench.log.seal_rolled()
    with pytest.raises(StorageFailed):
        bench.append()
    bench.log.close()
    for segment_id in bench.segments():
        recovered = recover_segment(bench.files, bench.directory, segment_id, 0)
        assert [record.position for record in recovered.records] == [
            position for position in positions if position.segment_id == segment_id
        ]
        assert not recovered.damage


def test_every_call_failing_in_turn_never_loses_what_was_synced(tmp_path: Path) -> None:
    """Fail the n-th call, for n = 1, 2, … until none fails: after each, recovery finds what sync had promised."""
    calls = ("create", "pwritev", "allocate", "fdatasync", "sync_directory", "truncate", "write_back", "unlink")
    for call in calls:
        for at in range(1, 200):
            directory = tmp_path / f"{call}-{at}"
            directory.mkdir()
            bench = Bench(directory)
            bench.files.fail(call, errno.EIO, at=at, partial_bytes=at * 100)
            safe: list[Position] = []
            failed = False
            try:
                unsafe: list[Position] = []
                for index in range(12):
                    unsafe.append(bench.append(bytes([index]) * 9000))
                    if index % 3 == 2:
                        bench.log.sync()
                        safe += unsafe
                        unsafe = []
                        bench.log.seal_rolled()
                bench.log.close()
            except StorageFailed:
                failed = True
                with pytest.raises(StorageFailed):
                    bench.append()
                bench.log.close()
            bench.files.heal()
            found: set[Position] = set()
            for segment_id in bench.segments():
                recovery = recover_segment(bench.files, bench.directory, segment_id, 0)
                assert not recovery.damage
                found |= {record.position for record in recovery.records}
            assert set(safe) <= found, (call, at)
            for position in safe:
                bench.reader.read(position)
            bench.reader.close()
            if not failed:
                break
        else:
            pytest.fail(f"{call} never stopped failing")


# -- streams ------------------------------------------------------------------------------------


def stream(bench: Bench, payload: bytes, meta: bytes = b"meta", *, meta_max: int = 100) -> Position:
    appender = bench.log.begin_stream(Kind.INSTANCE, 3, 77, b"1.2.840", meta_max)
    for at in range(0, len(payload), 70_001):
        piece = payload[at : at + 70_001]
        appender.write([piece[:10], piece[10:]], len(piece))
    return appender.finish(meta, crc32c(payload))


@pytest.mark.parametrize("size", [0, 1, 8, 100_000, 1 << 20])
@pytest.mark.parametrize("meta_max", [4, 5, 100, 60_000])
def test_a_streamed_object_is_read_back_and_sealed(bench: Bench, size: int, meta_max: int) -> None:
    payload = os.urandom(size)
    position = stream(bench, payload, meta_max=meta_max)
    assert bench.reader.read(position) == payload
    assert bench.reader.verify(position).meta == b"meta"
    record = bench.hints(position.segment_id)
    assert record == bench.records(position.segment_id)
    assert record is not None
    assert (record[0].position, record[0].flags, record[0].stamp) == (position, 3, 77)


def test_a_finished_stream_is_durable_without_a_sync_of_the_log(bench: Bench) -> None:
    stream(bench, bytes(100))
    assert bench.files.calls["fdatasync"] == 2
    assert bench.files.calls["sync_directory"] == 1


def test_streams_and_appends_do_not_meet(bench: Bench) -> None:
    first = bench.append()
    streamed = stream(bench, bytes(1000))
    second = bench.append()
    assert (first.segment_id, second.segment_id) == (0, 0)
    assert streamed.segment_id == 1


def test_an_aborted_stream_leaves_no_file(bench: Bench) -> None:
    appender = bench.log.begin_stream(1, 0, 0, b"k", 10)
    appender.write([bytes(1000)], 1000)
    assert bench.segments() == [0]
    appender.abort()
    appender.abort()
    assert bench.segments() == []
    with pytest.raises(StorageError):
        appender.write([b"x"], 1)
    with pytest.raises(StorageError):
        appender.finish(b"", 0)


def test_an_unfinished_stream_is_given_up_at_close(bench: Bench) -> None:
    bench.log.begin_stream(1, 0, 0, b"k", 10).write([bytes(1000)], 1000)
    bench.log.close()
    assert bench.segments() == []


def test_more_meta_than_announced_is_refused(bench: Bench) -> None:
    appender = bench.log.begin_stream(1, 0, 0, b"k", 3)
    with pytest.raises(StorageError):
        appender.finish(b"four", 0)
    with pytest.raises(StorageError):
        bench.log.begin_stream(1, 0, 0, b"k", 70_000)


def test_write_back_of_a_stream_is_started_as_it_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.storage.stream_appender.WRITE_BACK_BYTES", 100_000)
    stream(bench, bytes(1_000_000))
    assert bench.files.calls["write_back"] >= 6


def test_a_full_disk_ends_a_stream_and_not_the_log(bench: Bench) -> None:
    appender = bench.log.begin_stream(1, 0, 0, b"k", 3)
    appender.write([bytes(1000)], 1000)
    bench.files.fail("pwritev", errno.ENOSPC, partial_bytes=10)
    with pytest.raises(StorageFull):
        appender.write([bytes(1000)], 1000)
    appender.abort()
    bench.append()


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "sync_directory"])
def test_an_io_error_in_a_stream_ends_the_log(bench: Bench, call: str) -> None:
    appender = bench.log.begin_stream(1, 0, 0, b"k", 3)
    appender.write([bytes(1000)], 1000)
    bench.files.fail(call, errno.EIO)
    with pytest.raises(StorageFailed):
        appender.finish(b"", crc32c(bytes(1000)))
    appender.abort()
    with pytest.raises(StorageFailed):
        bench.append()


def test_a_stream_that_was_cut_off_is_removed_by_recovery(bench: Bench) -> None:
    appender = bench.log.begin_stream(1, 0, 0, b"k", 3)
    appender.write([os.urandom(300_000)], 300_000)
    with pytest.raises(StorageError, match="living writer"):
        recover_segment(bench.files, bench.directory, 0, 0)
    fd = appender._segment.fd  # type: ignore[union-attr]
    os.close(os.dup(fd))
    bench.files.close(fd)
    recovery = recover_segment(bench.files, bench.directory, 0, 0)
    assert (recovery.records, recovery.written_bytes, recovery.damage) == ([], 0, ())
    assert bench.segments() == []


def test_a_position_after_the_end_is_corrupt_and_not_a_crash(bench: Bench) -> None:
    position = bench.append(b"payload")
    with pytest.raises(CorruptRecord):
        bench.reader.read(position._replace(offset=10 * SEGMENT_BYTES))


def test_records_over_prewritten_blocks_are_found_again(bench: Bench) -> None:
    log = bench.open(prewrite_bytes=1 << 20, segment_bytes=1 << 21)
    log.prepare()
    payloads = [os.urandom(size) for size in (0, 1, 4000, 4096, 5000, 100_000)]
    positions = [bench.append(payload, log) for payload in payloads]
    log.sync()
    assert bench.files.calls["write_zeros"] >= 1
    segment_id = positions[0].segment_id
    assert [record.position for record in bench.records(segment_id)] == positions
    assert [bench.reader.read(position) for position in positions] == payloads
    log.close()
    assert [bench.reader.read(position) for position in positions] == payloads


def test_prewriting_ends_with_patience(bench: Bench) -> None:
    log = bench.open(prewrite_bytes=1 << 20, segment_bytes=1 << 21)
    log.prepare(patience_s=0)
    assert bench.files.calls["write_zeros"] == 0
    assert bench.reader.read(bench.append(b"payload", log)) == b"payload"


def test_what_is_prepared_is_prewritten_later_step_by_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_factory, "PREWRITE_LATER_BYTES", 1 << 18)
    log = bench.open(prewrite_bytes=1 << 20, segment_bytes=1 << 21)
    assert log.is_prewritten, "nothing is prepared"
    log.prepare(patience_s=0)
    steps = 0
    while not log.is_prewritten:
        log.prewrite()
        steps += 1
    assert steps == bench.files.calls["write_zeros"] == 4
    log.prewrite()
    assert bench.files.calls["write_zeros"] == 4
    position = bench.append(b"payload", log)
    assert log.is_prewritten, "the active segment is left alone"
    assert bench.reader.read(position) == b"payload"


@pytest.mark.parametrize("prewritten", [0, 1 << 18])
def test_no_record_lies_where_zeros_are_being_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, prewritten: int
) -> None:
    monkeypatch.setattr(segment_factory, "PREWRITE_LATER_BYTES", 1 << 18)
    log = bench.open(prewrite_bytes=1 << 20, segment_bytes=1 << 21)
    log.prepare(patience_s=0)
    if prewritten:
        log.prewrite()
    stored: dict[Position, bytes] = {}

    def store_beside(method: str) -> None:
        if method == "write_zeros":  # which come after the records
            for size in (100, 100_000, 100_000, 100_000, 300):
                payload = os.urandom(size)
                stored[bench.append(payload, log)] = payload

    bench.files.before = store_beside
    log.prewrite()
    bench.files.before = None
    log.sync()
    by_segment = Counter(position.segment_id for position in stored)
    assert by_segment == ({1: 5} if not prewritten else {0: 3, 1: 2}), "segment 0 is the prepared one"
    for size in (100, 100_000):
        payload = os.urandom(size)
        stored[bench.append(payload, log)] = payload
    log.seal_rolled()
    assert {position: bench.reader.read(position) for position in stored} == stored
    log.close()
    assert {position: bench.reader.read(position) for position in stored} == stored
    found = {record.position for segment_id in bench.segments() for record in bench.records(segment_id)}
    assert found == set(stored)


def test_zeros_that_cannot_be_written_end_the_log(bench: Bench) -> None:
    log = bench.open(prewrite_bytes=1 << 20, segment_bytes=1 << 21)
    log.prepare(patience_s=0)
    bench.files.fail("write_zeros", errno.EIO)
    with pytest.raises(StorageFailed):
        log.prewrite()
    with pytest.raises(StorageFailed):
        bench.append(b"payload", log)
