"""Walking over segments: clean ends, torn tails, damage, and what must never pass for a record."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import CorruptRecord, TornTail
from engine.storage.record import HEADER_BYTES, MAGIC, Record, crc32c, encode_head
from engine.storage.segment import (
    FIRST_RECORD,
    FOOTER_MAGIC,
    LAYOUT_STREAM,
    Damage,
    SegmentHeader,
    Walk,
    list_segments,
    read_segment_header,
    scan,
    segment_path,
)
from engine.storage.segment_bytes import FileBytes
from tests.faulty_files import FaultyFiles

HEADER = SegmentHeader(5, b"archive-id-16-by", 0x1122334455667788, 99, "worker-0")


class Bench:
    """A segment file that is written by hand."""

    def __init__(self, directory: Path) -> None:
        self.files = FaultyFiles()
        self.path = segment_path(str(directory), 5)
        self.fd = self.files.create(self.path)
        self.data = bytearray(HEADER.encode())
        self.offsets: list[int] = []

    def add(self, payload: bytes, *, header: SegmentHeader = HEADER, key: bytes = b"key", meta: bytes = b"meta") -> int:
        offset = len(self.data)
        head = encode_head(header.seed, offset, 1, 0, 7, len(self.offsets), 0, key, meta, len(payload), crc32c(payload))
        self.data += head + payload
        self.data += bytes(-len(self.data) % 8)
        self.offsets.append(offset)
        return offset

    def write(self, data: bytes | bytearray | None = None) -> None:
        self.files.truncate(self.fd, 0)
        self.files.pwritev(self.fd, [self.data if data is None else data], 0)

    def scan(self, start: int = 0, *, end: int | None = None, verify: bool = False) -> list[Record]:
        return list(scan(FileBytes(self.files, self.fd), 5, start, end=end, verify_payload=verify))

    def walk(self, *, verify: bool = True) -> tuple[list[Record], list[Damage], Walk]:
        walk = Walk(
            FileBytes(self.files, self.fd),
            read_segment_header(FileBytes(self.files, self.fd), 5),
            verify_payload=verify,
        )
        items = list(walk)
        records = [item for item in items if isinstance(item, Record)]
        return records, [item for item in items if isinstance(item, Damage)], walk


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    os.close(bench.fd)


def offsets(records: list[Record]) -> list[int]:
    return [record.position.offset for record in records]


# -- the header and the name --------------------------------------------------------------------


def test_a_header_comes_back_as_it_went_in(bench: Bench) -> None:
    bench.write()
    assert read_segment_header(FileBytes(bench.files, bench.fd), 5) == HEADER
    assert len(HEADER.encode()) == FIRST_RECORD


def test_either_copy_of_the_header_is_enough(bench: Bench) -> None:
    for damaged in (slice(0, 512), slice(2048, 2560), slice(30, 31), slice(2100, 2101)):
        data = bytearray(bench.data)
        data[damaged] = bytes(byte ^ 0xFF for byte in data[damaged])
        bench.write(data)
        assert read_segment_header(FileBytes(bench.files, bench.fd), 5) == HEADER


@pytest.mark.parametrize(
    "content",
    [b"", b"FILMSEG\0", bytes(FIRST_RECORD), os.urandom(FIRST_RECORD)],
    ids=["empty", "short", "zeros", "noise"],
)
def test_what_is_no_segment_is_refused(bench: Bench, content: bytes) -> None:
    bench.write(content)
    with pytest.raises(CorruptRecord):
        read_segment_header(FileBytes(bench.files, bench.fd), 5)


def test_a_segment_under_another_name_is_refused(bench: Bench) -> None:
    bench.write()
    with pytest.raises(CorruptRecord, match="this file is segment"):
        read_segment_header(FileBytes(bench.files, bench.fd), 6)


def test_a_long_writer_label_is_cut_and_not_refused(bench: Bench) -> None:
    header = SegmentHeader(5, bytes(16), 1, 2, "ä" * 100)
    bench.write(header.encode())
    assert read_segment_header(FileBytes(bench.files, bench.fd), 5).writer.startswith("ä" * 31)


def test_only_segment_names_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("000000000000000a.seg", "0000000000000002.seg", "a.seg", "0000000000000003.seg.damaged", "x"):
        (tmp_path / name).touch()
    assert list_segments(str(tmp_path), FaultyFiles()) == [2, 10]


# -- clean segments -----------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", bytes(1), bytes(8), bytes(70), bytes(1 << 20), FOOTER_MAGIC + bytes(100)])
def test_zeros_a_footer_and_the_end_of_the_file_are_clean_ends(bench: Bench, tail: bytes) -> None:
    for size in (0, 1, 7, 8, 100000, 3):
        bench.add(os.urandom(size))
    bench.write(bytes(bench.data) + tail)
    for verify in (False, True):
        assert offsets(bench.scan(verify=verify)) == bench.offsets


def test_a_segment_without_records_is_clean(bench: Bench) -> None:
    bench.write()
    assert bench.scan() == []
    bench.write(bytes(bench.data) + bytes(10000))
    assert bench.scan() == []


def test_a_scan_starts_and_ends_where_it_is_told(bench: Bench) -> None:
    for _ in range(6):
        bench.add(bytes(1000))
    bench.write()
    assert offsets(bench.scan(bench.offsets[2])) == bench.offsets[2:]
    assert offsets(bench.scan(bench.offsets[2], end=bench.offsets[4])) == bench.offsets[2:4]
    assert bench.scan(len(bench.data)) == []


def test_heads_are_read_by_few_calls_and_payloads_not_at_all(bench: Bench) -> None:
    for _ in range(300):
        bench.add(bytes(100))
    for _ in range(20):
        bench.add(bytes(100_000))
    bench.write()
    before = bench.files.calls["pread"]
    assert len(bench.scan()) == 320
    assert bench.files.calls["pread"] - before < 40
    assert bench.files.calls["preadv"] == 0


@pytest.mark.parametrize("read_bytes_max", [1, 100])
def test_short_reads_change_nothing(bench: Bench, read_bytes_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (10, 500, 20):
        bench.add(os.urandom(size))
    bench.write()
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, length, at: pread(fd, min(length, read_bytes_max), at))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:read_bytes_max]], at))
    assert offsets(bench.scan(verify=True)) == bench.offsets


# -- torn and damaged segments ------------------------------------------------------------------


def test_a_last_record_cut_at_any_byte_is_a_torn_tail(bench: Bench) -> None:
    bench.add(b"first" * 20)
    last = bench.add(b"last" * 40)
    whole = bytes(bench.data)
    for length in range(last + 1, len(whole)):
        bench.write(whole[:length])
        with pytest.raises(TornTail) as caught:
            bench.scan(verify=True)
        assert caught.value.offset == last, length


def test_a_last_record_that_is_zeros_from_any_byte_on_is_torn_or_clean_but_never_whole(bench: Bench) -> None:
    bench.add(b"first" * 20)
    last = bench.add(b"last" * 40)
    whole = bytes(bench.data)
    for length in range(last, len(whole) - 1):
        bench.write(whole[:length] + bytes(20000))
        if whole[length:].strip(b"\0") == b"":
            continue
        records, damage, walk = bench.walk()
        assert offsets(records) == bench.offsets[:1]
        assert (walk.tail, damage) == (last, [])
        # Without its magic it cannot be told from space that was never written, and does not need to be.
        assert bool(walk.torn) == (length >= last + 4 or whole[last:length].strip(b"\0") != b"")


def test_a_bad_payload_is_only_found_when_payloads_are_verified(bench: Bench) -> None:
    bench.add(b"first" * 20)
    last = bench.add(b"last" * 40)
    bench.data[-10] ^= 1
    bench.write()
    assert len(bench.scan()) == 2
    with pytest.raises(TornTail, match="payload"):
        bench.scan(verify=True)
    assert last == bench.offsets[-1]


def test_any_flipped_bit_before_a_whole_record_is_corruption_and_the_rest_is_kept(bench: Bench) -> None:
    bench.add(b"a" * 30)
    bad = bench.add(b"b" * 30)
    good = bench.add(b"c" * 30)
    padding = good - bad - HEADER_BYTES - 7 - 30
    for index in range(bad, good - padding):
        data = bytearray(bench.data)
        data[index] ^= 0x40
        bench.write(data)
        records, damage, walk = bench.walk()
        assert offsets(records) == [bench.offsets[0], good], index
        assert [(found.offset, found.length_bytes) for found in damage] == [(bad, good - bad)]
        assert (walk.tail, walk.torn) == (len(bench.data), "")
        with pytest.raises(CorruptRecord) as caught:
            bench.scan(verify=True)
        assert (caught.value.segment_id, caught.value.offset) == (5, bad)


def test_zeros_before_a_whole_record_are_corruption_too(bench: Bench) -> None:
    bench.add(b"a" * 30)
    bad = bench.add(os.urandom(3000))
    good = bench.add(b"c" * 30)
    bench.data[bad:good] = bytes(good - bad)
    bench.write(bytes(bench.data) + bytes(5000))
    records, damage, _ = bench.walk()
    assert offsets(records) == [bench.offsets[0], good]
    assert damage[0].offset == bad


def test_several_bad_records_in_a_row_are_one_damage(bench: Bench) -> None:
    for _ in range(6):
        bench.add(os.urandom(200))
    for index in (1, 2, 4):
        bench.data[bench.offsets[index] + 20] ^= 1
    bench.write()
    records, damage, _ = bench.walk()
    assert offsets(records) == [bench.offsets[index] for index in (0, 3, 5)]
    assert [found.offset for found in damage] == [bench.offsets[1], bench.offsets[4]]


def test_two_torn_records_at_the_end_are_one_torn_tail(bench: Bench) -> None:
    for _ in range(4):
        bench.add(os.urandom(200))
    bench.data[bench.offsets[2]] ^= 1
    bench.data[bench.offsets[3] + 100] ^= 1
    bench.write()
    records, damage, walk = bench.walk()
    assert offsets(records) == bench.offsets[:2]
    assert damage == []
    assert walk.tail == bench.offsets[2]
    assert walk.torn


def test_a_record_inside_a_payload_never_passes_for_one(bench: Bench) -> None:
    """What a peer sends as pixel data may be a copy of a segment: of another one, or of this one, moved."""
    bench.add(b"genuine" * 10)
    copied = bytes(bench.data[FIRST_RECORD:])
    stranger = SegmentHeader(5, b"archive-id-16-by", 1, 99, "worker-0")
    inner_offset = len(bench.data) + HEADER_BYTES + 7 + 1
    forged = encode_head(stranger.seed, inner_offset, 1, 0, 7, 9, 0, b"key", b"meta", 0, 0)
    bad = bench.add(b"x" + bytes(forged) + copied + MAGIC * 1000)
    assert bench.data.find(forged) % 8 == 0
    bench.data[bad] ^= 1
    bench.write()
    records, _, walk = bench.walk()
    assert offsets(records) == bench.offsets[:1]
    assert walk.torn


def test_a_record_that_stands_here_a_second_time_is_refused(bench: Bench) -> None:
    """Numbers run upwards: an old record in the place of a new one is no record."""
    bench.add(b"a" * 100)
    bench.offsets.clear()
    bench.add(b"b" * 100)
    bench.write()
    _, _, walk = bench.walk()
    assert "number" in walk.torn


def test_a_streamed_segment_is_not_searched(bench: Bench) -> None:
    header = SegmentHeader(5, HEADER.archive_id, HEADER.salt, 99, "w", LAYOUT_STREAM)
    bench.data[:] = header.encode()
    bench.add(os.urandom(100_000), header=header)
    bench.data[FIRST_RECORD : FIRST_RECORD + HEADER_BYTES] = bytes(HEADER_BYTES)
    bench.write()
    before = bench.files.calls["pread"]
    records, damage, walk = bench.walk()
    assert (records, damage, walk.torn, walk.tail) == ([], [], "", FIRST_RECORD)
    assert bench.files.calls["pread"] - before <= 3


def test_blocks_that_cannot_be_read_are_damage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        bench.add(os.urandom(20_000))
    bench.write()
    bad = bench.offsets[2] // 4096
    pread, preadv = os.pread, os.preadv

    def touches(length: int, at: int) -> bool:
        return at // 4096 <= bad <= (at + length - 1) // 4096

    def failing_pread(fd: int, length: int, at: int) -> bytes:
        if touches(length, at):
            raise OSError(5, "Input/output error")
        return pread(fd, length, at)

    def failing_preadv(fd: int, buffers: list[memoryview], at: int) -> int:
        if touches(sum(map(len, buffers)), at):
            raise OSError(5, "Input/output error")
        return preadv(fd, buffers, at)

    monkeypatch.setattr(os, "pread", failing_pread)
    monkeypatch.setattr(os, "preadv", failing_preadv)
    records, damage, walk = bench.walk()
    assert offsets(records) == [bench.offsets[index] for index in (0, 3, 4)]
    assert [found.offset for found in damage] == [bench.offsets[1]]
    assert walk.torn == ""


def test_mutated_segments_give_records_or_damage_and_nothing_else(bench: Bench) -> None:
    seed = 20
    rng = random.Random(seed)
    for _ in range(8):
        bench.add(rng.randbytes(rng.randrange(600)))
    bench.write()
    genuine = {(record.position, record.key, record.meta) for record in bench.walk()[0]}
    for round_number in range(300):
        data = bytearray(bench.data)
        for _ in range(rng.randint(1, 6)):
            start = rng.randrange(FIRST_RECORD, len(data))
            length = min(rng.choice((1, 4, 64, 512)), len(data) - start)
            data[start : start + length] = rng.choice((bytes(length), rng.randbytes(length), data[:length]))
        bench.write(data)
        for verify in (False, True):
            records, _, walk = bench.walk(verify=verify)
            found = {(record.position, record.key, record.meta) for record in records}
            assert found <= genuine, f"seed {seed}, round {round_number}"
            assert walk.tail <= len(data)
