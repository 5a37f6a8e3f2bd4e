"""The footer of a sealed segment: golden trailer, what it gives back, and what happens when it is damaged."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.errors import CorruptRecord
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.record import crc32c, encode_head, unpack_head
from engine.storage.segment import FIRST_RECORD, Damage, SegmentHeader, segment_path
from engine.storage.segment_bytes import FileBytes
from tests.faulty_files import FaultyFiles

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEADER = SegmentHeader(7, b"archive-id-16-by", 0x1122334455667788, 99, "worker-0")
TAIL = 9000
DAMAGE = (Damage(7, 5000, 800, "a hole", was_synced=False), Damage(7, 7000, 8, "größer", was_synced=True))


class Bench:
    """A file with a footer at TAIL and space behind it."""

    def __init__(self, directory: Path) -> None:
        self.files = FaultyFiles()
        self.fd = self.files.create(segment_path(str(directory), 7))
        self.files.allocate(self.fd, 0, 100_000)
        self.heads = [
            encode_head(HEADER.seed, FIRST_RECORD + 1000 * n, 1, n, n, n, 0, b"key%d" % n, b"m" * n, 500, n)
            for n in range(4)
        ]
        self.size = hints.seal(self.files, self.fd, HEADER, TAIL, self.heads, 2000, DAMAGE)

    def content(self) -> bytearray:
        return bytearray(self.files.pread(self.fd, 1 << 20, 0))

    def write(self, data: bytes | bytearray) -> None:
        self.files.truncate(self.fd, 0)
        self.files.pwritev(self.fd, [data], 0)

    def read(self) -> hints.Summary | None:
        return hints.read_summary(FileBytes(self.files, self.fd), 7)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    os.close(bench.fd)


def test_a_footer_ends_the_file_and_gives_everything_back(bench: Bench) -> None:
    assert bench.files.size(bench.fd) == bench.size
    summary = bench.read()
    assert summary is not None
    assert summary.records == [unpack_head(bytes(head), 0, 7) for head in bench.heads]
    assert tuple(summary.damage) == DAMAGE
    assert summary.records == hints.read_hints(FileBytes(bench.files, bench.fd), 7)
    assert (summary.trailer.record_count, summary.trailer.payload_bytes, summary.trailer.tail) == (4, 2000, TAIL)
    assert summary.trailer.header().seed == HEADER.seed


def test_the_trailer_is_exactly_these_bytes(bench: Bench) -> None:
    body = b"".join(bench.heads)
    trailer = bytes(bench.content()[-128:])
    hint_end = bench.size - 128
    assert trailer[:48].hex() == (
        "46494c4d5345414c"  # magic "FILMSEAL"
        "01000000"  # format
        "01000000"  # layout
        "0700000000000000"  # segment_id
        "617263686976652d69642d31362d6279"  # archive_id "archive-id-16-by"
        "8877665544332211"  # salt
    )
    assert int.from_bytes(trailer[48:56], "little") == TAIL
    assert int.from_bytes(trailer[56:64], "little") == hint_end
    assert int.from_bytes(trailer[84:88], "little") == crc32c(bench.content()[TAIL:hint_end])
    assert trailer[88:124] == bytes(36)
    assert int.from_bytes(trailer[124:], "little") == crc32c(trailer[:124])
    assert bench.content()[TAIL : TAIL + 16] == b"FILMHINT" + bytes(8)
    assert bench.content()[TAIL + 16 : TAIL + 16 + len(body)] == body


def test_a_footer_is_the_same_in_whatever_pieces_it_is_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, lengths = bench.content(), []

    class NotedFiles(Files):
        def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, length: int = -1) -> None:
            lengths.append(sum(memoryview(buffer).nbytes for buffer in buffers))
            super().pwritev(fd, buffers, offset, length)

    for piece_bytes in (1, 100, 1 << 20):
        lengths.clear()
        monkeypatch.setattr(hints, "PIECE_BYTES", piece_bytes)
        bench.files.truncate(bench.fd, TAIL)
        assert hints.seal(NotedFiles(), bench.fd, HEADER, TAIL, bench.heads, 2000, DAMAGE) == bench.size
        assert bench.content() == whole
        assert max(lengths) < piece_bytes + 200


def test_an_empty_footer_is_as_small_as_announced(bench: Bench) -> None:
    assert hints.seal(bench.files, bench.fd, HEADER, TAIL, [], 0) == TAIL + hints.FOOTER_BYTES_MIN
    assert hints.read_hints(FileBytes(bench.files, bench.fd), 7) == []


def test_a_segment_is_unsealed_unless_the_trailer_ends_the_file_exactly(bench: Bench) -> None:
    good = bench.content()
    for data in (good[:-1], good + b"\0", good + bytes(128), good[:100], b"", good[:TAIL]):
        bench.write(data)
        assert bench.read() is None
    bench.write(good)
    assert hints.read_hints(FileBytes(bench.files, bench.fd), 8) is None


def test_a_damaged_trailer_is_none_and_damaged_hints_are_named(bench: Bench) -> None:
    good = bench.content()
    for index in range(len(good) - 128, len(good)):
        data = bytearray(good)
        data[index] ^= 0x10
        bench.write(data)
        assert bench.read() is None, index
    for index in range(TAIL, len(good) - 128):
        data = bytearray(good)
        data[index] ^= 0x10
        bench.write(data)
        with pytest.raises(CorruptRecord) as caught:
            bench.read()
        assert (caught.value.segment_id, caught.value.offset) == (7, TAIL)


def test_mutated_footers_are_right_or_refused(bench: Bench) -> None:
    seed = 11
    rng = random.Random(seed)
    good = bench.content()
    expected = bench.read()
    for round_number in range(300):
        data = bytearray(good)
        start = rng.randrange(TAIL, len(data))
        length = min(rng.choice((1, 8, 64)), len(data) - start)
        data[start : start + length] = rng.randbytes(length)
        bench.write(data)
        try:
            found = bench.read()
        except CorruptRecord:
            continue
        assert found is None or (found == expected and data == good), f"seed {seed}, round {round_number}"
