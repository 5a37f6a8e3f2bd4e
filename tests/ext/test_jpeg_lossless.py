"""engine._ext.jpeg_lossless against an encoder that is obvious, and against bytes that are no image."""

from __future__ import annotations

import array
import random
import threading
import time

import pytest

from engine._ext import jpeg_lossless as ext
from tests.oracle import jpeg_lossless as oracle

SEED = 20261124


def picture(rows: int, columns: int, components: int, precision: int, seed: int) -> list[int]:
    """Smooth with noise and a few extremes, so that all categories of difference come up."""
    rng = random.Random(seed)
    top = (1 << precision) - 1
    values, value = [], top // 2
    for _ in range(rows * columns * components):
        value = min(max(value + rng.randint(-9, 9), 0), top)
        values.append(rng.choice((0, top, top // 2, top // 2 + 1)) if rng.random() < 0.1 else value)
    return values


def decoded(data: bytes, rows: int, columns: int, components: int = 1) -> tuple[int, list[int]]:
    target = array.array("H", bytes(2 * rows * columns * components))
    return ext.decode(data, target, rows, columns, components), target.tolist()


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("precision", [2, 8, 12, 16])
@pytest.mark.parametrize("components", [1, 3])
def test_every_predictor_gives_the_samples_back(predictor: int, precision: int, components: int) -> None:
    samples = picture(13, 17, components, precision, SEED)
    data = oracle.encode(samples, 13, 17, components, precision=precision, predictor=predictor)
    assert decoded(data, 13, 17, components) == (precision, samples)


@pytest.mark.parametrize(
    "options",
    [
        {"restart_rows": 1},
        {"restart_rows": 3},
        {"interleaved": False},
        {"interleaved": False, "restart_rows": 2, "predictor": 6},
        {"predictor": 7, "restart_rows": 5},
    ],
)
def test_restarts_and_scans_of_one_component(options: dict[str, int]) -> None:
    samples = picture(11, 5, 3, 12, SEED)
    assert decoded(oracle.encode(samples, 11, 5, 3, precision=12, **options), 11, 5, 3) == (12, samples)


def test_the_point_transform_leaves_the_lowest_bits_out() -> None:
    samples = picture(8, 8, 1, 12, SEED)
    data = oracle.encode(samples, 8, 8, precision=12, point_transform=3, predictor=4)
    assert decoded(data, 8, 8)[1] == [sample >> 3 << 3 for sample in samples]


def test_one_pixel_and_one_column() -> None:
    for rows, columns in ((1, 1), (1, 9), (9, 1)):
        samples = picture(rows, columns, 1, 16, SEED)
        assert decoded(oracle.encode(samples, rows, columns), rows, columns)[1] == samples


def test_every_cut_image_is_refused_with_a_sentence() -> None:
    data = oracle.encode(picture(6, 6, 1, 16, SEED), 6, 6)
    whole = decoded(data, 6, 6)
    for length in range(len(data) - 2):
        try:
            assert decoded(data[:length], 6, 6) == whole, length
        except ValueError as error:
            assert str(error) in ext.REASONS.values()


def test_an_image_of_another_size_is_refused_before_a_sample_is_written() -> None:
    data = oracle.encode(picture(6, 6, 1, 16, SEED), 6, 6)
    for rows, columns, components in ((5, 6, 1), (6, 7, 1), (6, 6, 3), (0, 6, 1), (70000, 6, 1)):
        with pytest.raises(ValueError, match="other rows, columns or components"):
            decoded(data, rows, columns, components)
    with pytest.raises(ValueError, match="other rows"):
        ext.decode(data, array.array("H", bytes(2)), 6, 6, 1)
    with pytest.raises(ValueError, match="no JPEG"):
        decoded(b"", 6, 6)


def test_other_processes_are_named() -> None:
    data = oracle.encode(picture(6, 6, 1, 16, SEED), 6, 6)
    with pytest.raises(ValueError, match="process 14"):
        decoded(data.replace(b"\xff\xc3", b"\xff\xc0"), 6, 6)


def test_mutated_images_decode_or_are_refused() -> None:
    originals = [
        oracle.encode(picture(7, 5, 3, 12, SEED), 7, 5, 3, precision=12, restart_rows=2, predictor=4),
        oracle.encode(picture(7, 5, 3, 16, SEED), 7, 5, 3, interleaved=False),
    ]
    for seed in range(SEED, SEED + 4000):
        rng = random.Random(seed)
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            match rng.randrange(3):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 8)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randint(1, 4))
        try:
            precision, _ = decoded(bytes(data), 7, 5, 3)
            assert 2 <= precision <= 16, f"seed {seed}"
        except ValueError as error:
            assert str(error) in ext.REASONS.values(), f"seed {seed}"


def test_the_interpreter_goes_on_meanwhile() -> None:
    rows = columns = 256
    data = oracle.encode([0] * (rows * columns), rows, columns, precision=8)
    target = array.array("H", bytes(2 * rows * columns))
    ticks = 0
    done = threading.Event()

    def work() -> None:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            ext.decode(data, target, rows, columns, 1)
        done.set()

    threading.Thread(target=work).start()
    while not done.is_set():
        ticks += 1
    assert ticks > 100
