"""engine._ext.crc32c against the published vectors, the bitwise oracle and its own software path."""

from __future__ import annotations

import random
import threading

import pytest

from engine._ext import crc32c as ext
from tests.oracle import crc32c as oracle

VECTORS = {
    "nothing": (b"", 0x00000000),
    "the check string": (b"123456789", 0xE3069283),
    "32 zeros (RFC 3720 B.4)": (bytes(32), 0x8A9136AA),
    "32 ones (RFC 3720 B.4)": (b"\xff" * 32, 0x62A8AB43),
    "ascending (RFC 3720 B.4)": (bytes(range(32)), 0x46DD794E),
    "descending (RFC 3720 B.4)": (bytes(reversed(range(32))), 0x113FDB5C),
    "an iSCSI read (RFC 3720 B.4)": (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 0000040000000014 00000018 28000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
    ),
}
LANES = (256, 3 * 256, 3 * 4096)
"""Where the fast paths change from one way of taking bytes to the next; see ext/crc32c_impl.h."""
EDGES = sorted({n * lane + step for lane in LANES for n in (1, 2, 3) for step in (-9, -8, -1, 0, 1, 7, 8, 9)})


@pytest.fixture(scope="module")
def noise() -> bytes:
    return random.Random(3720).randbytes(64 << 10)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("function", [ext.crc32c, ext.crc32c_by_lanes, ext.crc32c_by_table, oracle.crc32c])
def test_published_vectors(name: str, function: object) -> None:
    data, expected = VECTORS[name]
    assert callable(function)
    assert function(data) == expected


def test_every_short_length_at_every_alignment_agrees_with_the_oracle(noise: bytes) -> None:
    view = memoryview(noise)
    for length in range(70):
        for start in range(9):
            piece = view[start : start + length]
            expected = oracle.crc32c(bytes(piece))
            assert ext.crc32c(piece) == expected, (start, length)
            assert ext.crc32c_by_table(piece) == expected, (start, length)


@pytest.mark.parametrize("length", EDGES)
def test_lengths_around_a_change_of_lanes_agree_with_the_oracle(noise: bytes, length: int) -> None:
    piece = noise[5 : 5 + length]
    expected = oracle.crc32c(piece)
    assert ext.crc32c(piece) == expected
    assert ext.crc32c_by_lanes(piece) == expected
    assert ext.crc32c_by_table(piece) == expected


def test_all_paths_agree_on_random_pieces(noise: bytes) -> None:
    rng = random.Random(1)
    view = memoryview(noise)
    for _ in range(500):
        start, end = sorted((rng.randrange(len(noise)), rng.randrange(len(noise))))
        value = rng.getrandbits(32)
        expected = ext.crc32c_by_table(view[start:end], value)
        assert ext.crc32c(view[start:end], value) == expected, (start, end, value)
        assert ext.crc32c_by_lanes(view[start:end], value) == expected, (start, end, value)


def test_pieces_chain_to_the_sum_of_the_whole(noise: bytes) -> None:
    rng = random.Random(2)
    whole = ext.crc32c(noise)
    for _ in range(50):
        crc = at = 0
        while at < len(noise):
            step = rng.choice((1, 7, 100, 4095, 5000, 20000))
            crc = ext.crc32c(noise[at : at + step], crc)
            at += step
        assert crc == whole


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda data: memoryview(data).cast("H")])
def test_any_contiguous_buffer_is_taken(noise: bytes, make: object) -> None:
    assert callable(make)
    assert ext.crc32c(make(noise)) == ext.crc32c(noise)


def test_a_buffer_with_gaps_and_a_value_out_of_range_are_refused(noise: bytes) -> None:
    with pytest.raises(BufferError):
        ext.crc32c(memoryview(noise)[::2])
    with pytest.raises(OverflowError):
        ext.crc32c(noise, -1)
    with pytest.raises(OverflowError):
        ext.crc32c(noise, 1 << 32)
    with pytest.raises(TypeError):
        ext.crc32c("text")  # type: ignore[arg-type]


def test_a_buffer_is_released_afterwards() -> None:
    data = bytearray(10000)
    ext.crc32c(data)
    data.clear()


def test_threads_do_not_disturb_each_other(noise: bytes) -> None:
    expected = ext.crc32c_by_table(noise)
    wrong: list[int] = []

    def run() -> None:
        wrong.extend(crc for crc in (ext.crc32c(noise) for _ in range(200)) if crc != expected)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
