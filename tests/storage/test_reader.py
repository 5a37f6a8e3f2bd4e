"""LogReader: exact bytes or an error that names the place; few descriptors; many threads."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import CorruptRecord, SegmentGone, StorageError, StorageFailed
from engine.storage.reader import LogReader
from engine.storage.record import Position, crc32c
from engine.storage.segment import segment_path
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments
from tests.faulty_files import FaultyFiles


class Bench:
    """Ten small sealed segments of a few records."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.files = FaultyFiles()
        self.payloads: dict[Position, bytes] = {}
        rng = random.Random(5)
        log = SegmentLog(self.directory, self.files, bytes(16), writer="w", segment_bytes=40_000)
        while len(log.active_segments) < 10:
            payload = rng.randbytes(rng.randrange(9000))
            position = log.append(1, 0, 1, b"key", b"meta", [payload], len(payload), crc32c(payload))
            self.payloads[position] = payload
        log.close()
        self.position, self.payload = next((at, data) for at, data in self.payloads.items() if len(data) > 1000)
        self.reader = LogReader(LocalSegments(self.directory, self.files), open_segments_max=3)

    def flip(self, position: Position, offset: int) -> None:
        path = Path(segment_path(self.directory, position.segment_id))
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.files.heal()
    bench.reader.close()


def test_every_payload_is_read_in_every_way(bench: Bench) -> None:
    for position, payload in bench.payloads.items():
        assert bench.reader.read(position) == payload
        target = bytearray(len(payload))
        bench.reader.read_into(position, memoryview(target))
        assert target == payload
        assert bench.reader.verify(position).position == position
        assert bench.reader.read_record(position).key == b"key"


def test_a_part_of_a_payload_is_read_and_nothing_outside_it(bench: Bench) -> None:
    position, payload = bench.position, bench.payload
    target = bytearray(100)
    bench.reader.read_into(position, memoryview(target), 50)
    assert target == payload[50:150]
    bench.reader.read_into(position, memoryview(target)[:0], len(payload))
    for offset in (-1, len(payload) - 99, len(payload)):
        with pytest.raises(StorageError):
            bench.reader.read_into(position, memoryview(target), offset)
        with pytest.raises(StorageError):
            bench.reader.read_scattered(position, [memoryview(target)], offset)


def test_a_payload_is_read_into_several_buffers_end_to_end(bench: Bench) -> None:
    position, payload = bench.position, bench.payload
    for cached_only in (False, True):
        targets = [memoryview(bytearray(size)) for size in (10, 0, 300, 1)]
        if bench.reader.read_scattered(position, targets, 20, cached_only=cached_only):
            assert b"".join(targets) == payload[20:331]
        else:
            assert cached_only


def test_what_is_not_in_the_page_cache_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [memoryview(bytearray(100))]
    for cached in (0, 99):
        monkeypatch.setattr(FaultyFiles, "preadv_cached", lambda self, fd, buffers, offset, cached=cached: cached)
        assert not bench.reader.read_scattered(bench.position, targets, 0, cached_only=True)


def test_no_more_files_are_open_than_allowed_and_the_oldest_goes_first(bench: Bench) -> None:
    for position in bench.payloads:
        bench.reader.read(position)
    assert bench.files.calls["close"] - bench.files.calls["create"] == 10 - 3
    opened = bench.files.calls["open"]
    last = sorted({position.segment_id for position in bench.payloads})[-3:]
    for position in bench.payloads:
        if position.segment_id in last:
            bench.reader.read(position)
    assert bench.files.calls["open"] == opened


def test_close_and_drop_let_files_go_and_reading_opens_them_again(bench: Bench) -> None:
    closed = bench.files.calls["close"]
    bench.reader.read(bench.position)
    bench.reader.drop(bench.position.segment_id)
    bench.reader.drop(bench.position.segment_id)
    assert bench.files.calls["close"] == closed + 1
    assert bench.reader.read(bench.position) == bench.payload
    bench.reader.close()
    assert bench.files.calls["close"] == closed + 2


def test_a_running_read_ends_undisturbed_when_its_segment_is_dropped(bench: Bench) -> None:
    def drop(method: str) -> None:
        if method == "pread":
            bench.files.before = None
            bench.reader.drop(bench.position.segment_id)
            os.unlink(segment_path(bench.directory, bench.position.segment_id))

    bench.files.before = drop
    assert bench.reader.read(bench.position) == bench.payload


def open_descriptors(bench: Bench) -> int:
    """Of segment files, of this process."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith(bench.directory)
        except FileNotFoundError:
            continue
    return count


def unlink_all(bench: Bench) -> None:
    for segment_id in {position.segment_id for position in bench.payloads}:
        os.unlink(segment_path(bench.directory, segment_id))


def test_what_is_pinned_is_read_though_its_file_is_gone(bench: Bench) -> None:
    with bench.reader.pin([position.segment_id for position in bench.payloads]) as pin:
        assert pin.segment_ids == {position.segment_id for position in bench.payloads}
        unlink_all(bench)
        bench.reader.sweep()
        bench.reader.close()
        for position, payload in bench.payloads.items():
            assert bench.reader.read(position) == payload
        assert open_descriptors(bench) == len(pin.segment_ids)
    assert open_descriptors(bench) == 0
    for position in bench.payloads:
        with pytest.raises(SegmentGone) as caught:
            bench.reader.read(position)
        assert (caught.value.segment_id, caught.value.offset) == position[:2]


def test_a_segment_stays_pinned_until_the_last_pin_is_closed_or_forgotten(bench: Bench) -> None:
    segment_id = bench.position.segment_id
    first, second = bench.reader.pin([segment_id, segment_id]), bench.reader.pin([segment_id])
    unlink_all(bench)
    first.close()
    first.close()
    bench.reader.sweep()
    assert bench.reader.read(bench.position) == bench.payload
    del second
    with pytest.raises(SegmentGone):
        bench.reader.read(bench.position)
    assert open_descriptors(bench) == 0


def test_pins_are_bounded_and_leave_out_what_is_gone(bench: Bench) -> None:
    ids = sorted({position.segment_id for position in bench.payloads})
    reader = LogReader(LocalSegments(bench.directory, bench.files), open_segments_max=1, pinned_segments_max=3)
    os.unlink(segment_path(bench.directory, ids[0]))
    with reader.pin(ids) as pin, reader.pin(ids[1:3]) as same:
        assert pin.segment_ids == set(ids[1:4])
        assert same.segment_ids == set(ids[1:3])
        assert reader.pin(ids[5:]).segment_ids == frozenset()
    with reader.pin(ids[5:]) as later:
        assert len(later.segment_ids) == 3
    reader.close()


def test_a_sweep_lets_go_of_removed_files_and_of_no_others(bench: Bench) -> None:
    ids = sorted({position.segment_id for position in bench.payloads})
    for position in bench.payloads:
        if position.segment_id in ids[:3]:
            bench.reader.read(position)
    assert bench.reader.sweep() == []
    assert open_descriptors(bench) == 3
    os.unlink(segment_path(bench.directory, ids[1]))
    assert bench.reader.sweep() == [ids[1]]
    assert open_descriptors(bench) == 2


def test_a_flipped_bit_in_a_payload_is_found_when_verified(bench: Bench) -> None:
    bench.flip(bench.position, bench.position.payload_offset + 500)
    for read in (bench.reader.read, bench.reader.verify):
        with pytest.raises(CorruptRecord) as caught:
            read(bench.position)
        assert (caught.value.segment_id, caught.value.offset) == bench.position[:2]
    assert len(bench.reader.read(bench.position, verify=False)) == len(bench.payload)
    with pytest.raises(CorruptRecord):
        bench.reader.check(bench.position, crc32c(bench.payload) ^ 1)
    bench.reader.check(bench.position, crc32c(bench.payload))


def test_a_flipped_bit_in_a_head_is_found(bench: Bench) -> None:
    for offset in (0, 9, 63, 64, 70):
        bench.flip(bench.position, bench.position.offset + offset)
        with pytest.raises(CorruptRecord):
            bench.reader.read_record(bench.position)
        bench.flip(bench.position, bench.position.offset + offset)
    bench.reader.read_record(bench.position)


def test_a_position_that_the_record_contradicts_is_refused(bench: Bench) -> None:
    with pytest.raises(CorruptRecord, match="another record"):
        bench.reader.read_record(bench.position._replace(payload_crc=1))


def test_a_lost_header_block_costs_nothing_in_a_sealed_segment(bench: Bench) -> None:
    path = Path(segment_path(bench.directory, bench.position.segment_id))
    data = bytearray(path.read_bytes())
    data[:4096] = bytes(4096)
    path.write_bytes(data)
    assert bench.reader.read_record(bench.position).position == bench.position


@pytest.mark.parametrize("length", [1 << 35, 1 << 62])
def test_no_memory_is_allocated_for_a_length_that_the_segment_does_not_have(bench: Bench, length: int) -> None:
    with pytest.raises(CorruptRecord, match="the file ends after"):
        bench.reader.read(bench.position._replace(payload_length=length))


@pytest.mark.parametrize("keep", [0, 4096, 4200])
def test_a_file_that_ends_too_early_is_corrupt(bench: Bench, keep: int) -> None:
    os.truncate(segment_path(bench.directory, bench.position.segment_id), keep)
    target = memoryview(bytearray(len(bench.payload)))
    for read in (
        lambda: bench.reader.read(bench.position),
        lambda: bench.reader.read_into(bench.position, target),
        lambda: bench.reader.verify(bench.position),
    ):
        with pytest.raises(CorruptRecord):
            read()


@pytest.mark.parametrize("call", ["pread", "preadv"])
def test_an_unreadable_block_is_corrupt(bench: Bench, call: str) -> None:
    bench.reader.read(bench.position)
    bench.files.fail(call, errno.EIO, repeat=True)
    with pytest.raises(CorruptRecord, match="cannot be read"):
        if call == "pread":
            bench.reader.read(bench.position)
        else:
            bench.reader.read_into(bench.position, memoryview(bytearray(10)))


def test_a_missing_segment_is_corrupt_and_a_lack_of_descriptors_is_not(bench: Bench) -> None:
    with pytest.raises(CorruptRecord, match="missing"):
        bench.reader.read(bench.position._replace(segment_id=999))
    bench.files.fail("open", errno.EMFILE)
    with pytest.raises(StorageError) as caught:
        bench.reader.read(bench.position)
    assert not isinstance(caught.value, (CorruptRecord, StorageFailed))
    assert bench.reader.read(bench.position) == bench.payload


def test_another_process_s_segment_can_be_synced(bench: Bench) -> None:
    before = bench.files.calls.copy()
    bench.reader.sync(bench.position.segment_id)
    bench.reader.sync(bench.position.segment_id)
    assert bench.files.calls["fdatasync"] - before["fdatasync"] == 2
    assert bench.files.calls["sync_directory"] - before["sync_directory"] == 1
    with pytest.raises(CorruptRecord):
        bench.reader.sync(999)
    bench.files.fail("fdatasync", errno.EIO)
    with pytest.raises(StorageFailed):
        bench.reader.sync(bench.position.segment_id)


def test_threads_share_a_reader(bench: Bench) -> None:
    errors: list[BaseException] = []

    def run(seed: int) -> None:
        rng = random.Random(seed)
        positions = list(bench.payloads)
        try:
            for _ in range(300):
                position = rng.choice(positions)
                assert bench.reader.read(position) == bench.payloads[position]
                if rng.random() < 0.1:
                    bench.reader.drop(rng.choice(positions).segment_id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
