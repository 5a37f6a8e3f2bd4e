"""recover_segment: a torn tail of every length, damage that is kept, files that hold nothing, and doing it twice."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest

from engine.errors import StorageError, StorageFull
from engine.storage import hints
from engine.storage.reader import LogReader
from engine.storage.record import HEADER_BYTES, Position, crc32c
from engine.storage.recovery import Recovery, is_owned, recover_segment
from engine.storage.segment import FIRST_RECORD, list_segments, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments
from tests.faulty_files import FaultyFiles

PAYLOADS = (b"a" * 30, b"", os.urandom(700), b"d" * 77)


class Bench:
    """An unsealed segment as a killed writer leaves it, and copies of it to spoil."""

    def __init__(self, directory: Path, *, allocate: bool = True, sync_after: int = 0) -> None:
        self.files = FaultyFiles()
        (directory / "log").mkdir()
        self.directory = str(directory / "log")
        log = SegmentLog(self.directory, self.files, bytes(16), writer="w", segment_bytes=20_000, allocate=allocate)
        self.positions: list[Position] = []
        for count, payload in enumerate(PAYLOADS, 1):
            position = log.append(1, 0, count, b"key%d" % count, b"meta", [payload], len(payload), crc32c(payload))
            self.positions.append(position)
            if count == sync_after:
                log.sync()
        self.path = segment_path(self.directory, 0)
        self.content = Path(self.path).read_bytes()
        self.end = self.positions[-1].end
        self.log = log

    def put(self, content: bytes | bytearray) -> None:
        """A new file in the place of the old one, which its writer still holds."""
        temporary = f"{self.path}.new"
        Path(temporary).write_bytes(content)
        os.rename(temporary, self.path)

    def recover(self, start_offset: int = 0, *, seal: bool = True) -> Recovery:
        return recover_segment(self.files, self.directory, 0, start_offset, seal=seal)

    def hints(self) -> list[Position] | None:
        fd = os.open(self.path, os.O_RDONLY)
        records = hints.read_hints(FileBytes(self.files, fd), 0)
        os.close(fd)
        return None if records is None else [record.position for record in records]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def places(recovery: Recovery) -> list[Position]:
    return [record.position for record in recovery.records]


# -- clean and torn tails -----------------------------------------------------------------------


@pytest.mark.parametrize("allocate", [True, False])
def test_a_whole_segment_is_sealed_and_all_its_records_given(tmp_path: Path, allocate: bool) -> None:
    bench = Bench(tmp_path, allocate=allocate)
    bench.put(bench.content)
    recovery = bench.recover()
    assert places(recovery) == bench.positions
    assert recovery[1:] == (bench.end, (), "", True, True)
    assert bench.hints() == bench.positions
    assert os.path.getsize(bench.path) < 20_000
    reader = LogReader(LocalSegments(bench.directory, bench.files))
    for position, payload in zip(bench.positions, PAYLOADS, strict=True):
        assert reader.read(position) == payload
        reader.verify(position)
    reader.close()


@pytest.mark.parametrize("then", ["nothing", "zeros", "noise"])
def test_a_torn_tail_of_every_length_is_cut_at_the_last_whole_record(bench: Bench, then: str) -> None:
    last = bench.positions[-1]
    noise = random.Random(20261130).randbytes(3000)
    for length in range(last.record_bytes + 1):
        kept = bench.content[: last.offset + length]
        # Noise that continues with the byte that is missing would make the record whole.
        noise = bytes(byte ^ 0xFF for byte in bench.content[len(kept) : len(kept) + 1]) + noise[1:]
        bench.put(kept + {"nothing": b"", "zeros": bytes(3000), "noise": noise}[then])
        recovery = bench.recover()
        padding = last.record_bytes - HEADER_BYTES - last.key_length - last.meta_length - last.payload_length
        whole = length == last.record_bytes or (then != "nothing" and length >= last.record_bytes - padding)
        expected = bench.positions if whole else bench.positions[:-1]
        assert places(recovery) == expected, length
        assert recovery.written_bytes == expected[-1].end
        assert recovery.damage == ()
        if then == "nothing":
            assert bool(recovery.torn) == (0 < length < last.record_bytes)
        assert bench.hints() == expected
        again = bench.recover()
        assert again == Recovery(recovery.records, recovery.written_bytes)


def test_recovery_without_sealing_cuts_and_may_be_done_again(bench: Bench) -> None:
    last = bench.positions[-1]
    bench.put(bench.content[: last.offset + 70] + bytes(500))
    recovery = bench.recover(seal=False)
    assert not recovery.sealed
    assert os.path.getsize(bench.path) == last.offset
    assert places(recovery) == bench.positions[:-1]
    assert bench.recover(seal=False)[:3] == recovery[:3]
    assert bench.recover().sealed
    assert bench.hints() == bench.positions[:-1]


def test_only_records_from_the_start_offset_on_are_news(bench: Bench) -> None:
    for start, expected in ((0, 0), (FIRST_RECORD, 0), (bench.positions[2].offset, 2), (bench.end, 4)):
        bench.put(bench.content)
        assert places(bench.recover(start)) == bench.positions[expected:]
        assert bench.hints() == bench.positions
        assert places(bench.recover(start)) == bench.positions[expected:]


def test_payloads_that_the_index_has_are_not_read_again(bench: Bench) -> None:
    bench.put(bench.content)
    bench.recover(bench.end)
    assert bench.files.calls["preadv"] == 0


@pytest.mark.parametrize("header", [True, False])
def test_what_was_never_written_is_not_read(bench: Bench, header: bool) -> None:
    """A preallocated gigabyte must not be read from end to end after a crash."""
    fd = os.open(bench.path + ".new", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bench.content[: bench.end] if header else bytes(FIRST_RECORD), 0)
    bench.files.allocate(fd, 0, 256 << 20)
    os.close(fd)
    os.rename(bench.path + ".new", bench.path)
    before = bench.files.calls["pread"]
    assert places(bench.recover()) == (bench.positions if header else [])
    assert bench.files.calls["pread"] - before < 40


def test_recovery_is_durable(bench: Bench) -> None:
    bench.put(bench.content)
    before = bench.files.calls.copy()
    bench.recover()
    assert bench.files.calls["fdatasync"] - before["fdatasync"] == 2
    assert bench.files.calls["sync_directory"] - before["sync_directory"] == 1


# -- damage -------------------------------------------------------------------------------------


def test_any_flipped_bit_before_the_last_record_is_reported_and_nothing_is_cut(bench: Bench) -> None:
    bad = bench.positions[2]
    for offset in range(bad.offset, bad.payload_offset + bad.payload_length, 5):
        content = bytearray(bench.content)
        content[offset] ^= 4
        bench.put(content)
        recovery = bench.recover()
        assert places(recovery) == [*bench.positions[:2], bench.positions[3]], offset
        assert [(found.offset, found.length_bytes) for found in recovery.damage] == [(bad.offset, bad.record_bytes)]
        assert recovery.torn == ""
        assert Path(bench.path).read_bytes()[: bench.end] == content[: bench.end]
        again = bench.recover()
        assert (again.records, again.damage) == (recovery.records, recovery.damage)


@pytest.mark.parametrize(("sync_after", "was_synced"), [(0, False), (2, False), (3, True)])
def test_a_hole_in_unsynced_writes_is_told_from_the_loss_of_synced_ones(
    tmp_path: Path, sync_after: int, was_synced: bool
) -> None:
    bench = Bench(tmp_path, sync_after=sync_after)
    bad = bench.positions[2]
    content = bytearray(bench.content)
    content[bad.offset : bad.end] = bytes(bad.record_bytes)
    bench.put(content)
    recovery = bench.recover()
    assert [found.was_synced for found in recovery.damage] == [was_synced]
    assert places(recovery) == [*bench.positions[:2], bench.positions[3]]


def test_what_the_index_has_is_never_cut(bench: Bench) -> None:
    last = bench.positions[-1]
    for bad in (last.offset, last.offset + 20, last.offset + 62):
        content = bytearray(bench.content)
        content[bad] ^= 0xFF
        bench.put(content)
        recovery = bench.recover(bench.end)
        assert recovery.records == []
        assert recovery.written_bytes == bench.end
        assert [(found.offset, found.was_synced) for found in recovery.damage] == [(last.offset, True)]
        assert Path(bench.path).read_bytes()[: bench.end] == content[: bench.end]
        assert bench.hints() == bench.positions[:-1]
        assert bench.recover(bench.end).damage == recovery.damage


def test_a_file_that_lost_what_the_index_has_is_reported(bench: Bench) -> None:
    bench.put(bench.content[: bench.positions[2].offset])
    recovery = bench.recover(bench.end)
    assert recovery.written_bytes == bench.positions[2].offset
    bench.put(bench.content[: bench.positions[2].offset + 8])
    assert bench.recover(bench.end).damage[0].was_synced


def test_a_missing_file_is_damage_if_the_index_has_records_of_it(bench: Bench) -> None:
    os.unlink(bench.path)
    assert bench.recover() == Recovery([], 0, sealed=False)
    assert bench.recover(bench.end).damage[0].was_synced


# -- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"FILM", bytes(100), bytes(FIRST_RECORD), bytes(20_000)])
def test_a_file_that_never_got_a_header_is_removed(bench: Bench, content: bytes) -> None:
    bench.put(content)
    assert bench.recover()[:3] == ([], 0, ())
    assert list_segments(bench.directory, bench.files) == []


def test_a_segment_without_records_is_removed(bench: Bench) -> None:
    for content in (bench.content[:FIRST_RECORD], bench.content[:FIRST_RECORD] + bytes(10_000)):
        bench.put(content)
        assert bench.recover()[:3] == ([], 0, ())
        assert not os.path.exists(bench.path)


def test_a_torn_first_record_is_removed_with_its_file(bench: Bench) -> None:
    bench.put(bench.content[: FIRST_RECORD + 70])
    recovery = bench.recover()
    assert recovery[:3] == ([], 0, ())
    assert recovery.torn
    assert not os.path.exists(bench.path)


def test_a_lost_header_before_records_sets_the_file_aside(bench: Bench) -> None:
    content = bytes(FIRST_RECORD) + bench.content[FIRST_RECORD:]
    bench.put(content)
    recovery = bench.recover()
    assert recovery.records == []
    assert recovery.damage[0].offset == 0
    assert list_segments(bench.directory, bench.files) == []
    assert Path(f"{bench.path}.damaged").read_bytes() == content


def test_a_lost_header_of_a_sealed_segment_costs_nothing(bench: Bench) -> None:
    bench.put(bench.content)
    bench.recover()
    content = Path(bench.path).read_bytes()
    bench.put(bytes(FIRST_RECORD) + content[FIRST_RECORD:])
    assert places(bench.recover()) == bench.positions


# -- sealed segments ----------------------------------------------------------------------------


def test_a_sealed_segment_is_left_as_it_is(bench: Bench) -> None:
    bench.put(bench.content)
    bench.recover()
    content = Path(bench.path).read_bytes()
    writes = bench.files.calls["pwritev"]
    assert places(bench.recover()) == bench.positions
    assert bench.files.calls["pwritev"] == writes
    assert Path(bench.path).read_bytes() == content


def test_a_damaged_footer_is_made_again(bench: Bench) -> None:
    bench.put(bench.content)
    bench.recover()
    content = Path(bench.path).read_bytes()
    spoiled = bytearray(content)
    spoiled[bench.end + 30] ^= 1
    bench.put(spoiled)
    assert places(bench.recover()) == bench.positions
    assert Path(bench.path).read_bytes() == content


def test_a_damaged_trailer_is_made_again(bench: Bench) -> None:
    bench.put(bench.content)
    bench.recover()
    content = Path(bench.path).read_bytes()
    for length in (1, 50, 128, 150, len(content) - bench.end):
        bench.put(content[:-length])
        assert places(bench.recover()) == bench.positions
        assert Path(bench.path).read_bytes() == content


def test_sealing_that_was_cut_off_is_done_again(bench: Bench) -> None:
    bench.put(bench.content)
    bench.recover()
    sealed = Path(bench.path).read_bytes()
    footer = sealed[bench.end :]
    for length in range(0, len(footer), 3):
        bench.put(sealed[: bench.end + length] + bytes(9000))
        recovery = bench.recover()
        assert places(recovery) == bench.positions
        assert recovery.torn == "" or length < 8
        assert Path(bench.path).read_bytes() == sealed


# -- owners, full and ill disks -----------------------------------------------------------------


def test_a_living_writer_is_left_alone(bench: Bench) -> None:
    assert is_owned(bench.files, bench.directory, 0)
    with pytest.raises(StorageError, match="living writer"):
        bench.recover()
    bench.log.close()
    assert not is_owned(bench.files, bench.directory, 0)
    assert not is_owned(bench.files, bench.directory, 17)
    assert places(bench.recover()) == bench.positions


def test_a_full_disk_leaves_the_segment_unsealed_and_its_records_usable(bench: Bench) -> None:
    bench.put(bench.content)
    bench.files.fail("pwritev", errno.ENOSPC, partial_bytes=20)
    recovery = bench.recover()
    assert not recovery.sealed
    assert places(recovery) == bench.positions
    assert bench.recover().sealed
    assert bench.hints() == bench.positions


def test_a_block_that_cannot_be_read_is_damage_and_not_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put(bench.content)
    bad = bench.positions[2]
    preadv = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset == bad.payload_offset:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    recovery = bench.recover()
    assert places(recovery) == [*bench.positions[:2], bench.positions[3]]
    assert "cannot be read" in recovery.damage[0].reason


def test_a_copied_segment_recovers_elsewhere(bench: Bench, tmp_path: Path) -> None:
    """Nothing in a segment depends on where its directory is."""
    (tmp_path / "copy").mkdir()
    bench.log.close()
    shutil.copy(bench.path, tmp_path / "copy")
    recovery = recover_segment(bench.files, str(tmp_path / "copy"), 0, 0)
    assert places(recovery) == bench.positions


# -- what the disk does not read now, and what we lack ------------------------------------------


def _call_that_reads(bench: Bench, at: int) -> int:
    """Which pread of a recovery is the first one that reads at this offset or after."""
    calls: list[int] = []

    class Watched(FaultyFiles):
        def pread(self, fd: int, length: int, offset: int) -> bytes:
            calls.append(offset + length)
            return super().pread(fd, length, offset)

    recover_segment(Watched(), bench.directory, 0, 0)
    return next(number for number, end in enumerate(calls, 1) if end > at)


@pytest.mark.parametrize("method", ["pread", "preadv"])
def test_what_cannot_be_read_is_neither_cut_nor_sealed(bench: Bench, method: str) -> None:
    """Each read of a recovery fails once: whatever it was for, the next recovery finds everything."""
    bench.put(bench.content)
    bench.recover()
    count = bench.files.calls[method]
    assert count >= 3
    for at in range(1, count + 1):
        bench.put(bench.content)
        bench.files.fail(method, errno.EIO, at=at)
        try:
            found = bench.recover()
            if bench.hints() is None:
                assert found.damage
                assert found.written_bytes == 0
        except StorageError as error:
            assert "left as it is" in str(error)
            assert Path(bench.path).read_bytes() == bench.content
        bench.files.heal()
        assert places(bench.recover()) == bench.positions, at
        assert bench.hints() == bench.positions


def test_a_failing_read_of_the_header_does_not_set_the_segment_aside(bench: Bench) -> None:
    bench.put(bench.content)
    bench.files.fail("pread", errno.EIO, at=_call_that_reads(bench, 0))
    bench.put(bench.content)
    with pytest.raises(StorageError, match="left as it is"):
        bench.recover()
    assert os.listdir(bench.directory) == [os.path.basename(bench.path)]


def test_the_copy_of_the_header_that_a_power_cut_tore_is_mended(bench: Bench) -> None:
    for at in (0, FIRST_RECORD // 2):
        torn = bytearray(bench.content)
        torn[at : at + 512] = bytes(512)
        bench.put(torn)
        assert places(bench.recover()) == bench.positions
        assert Path(bench.path).read_bytes()[:FIRST_RECORD] == bench.content[:FIRST_RECORD]


def test_want_of_descriptors_is_no_damage(bench: Bench) -> None:
    bench.put(bench.content)
    bench.files.fail("open", errno.EMFILE)
    with pytest.raises(StorageFull):
        bench.recover()
    bench.files.fail("open", errno.EMFILE)
    with pytest.raises(StorageFull):
        is_owned(bench.files, bench.directory, 0)
    bench.files.fail("open", errno.EIO)
    with pytest.raises(StorageError, match="cannot be opened"):
        is_owned(bench.files, bench.directory, 0)
