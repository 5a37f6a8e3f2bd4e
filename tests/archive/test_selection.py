"""The list of a retrieval: in order, whole, and in bounded memory however long it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive.selection import Selection
from engine.errors import QueryError, StorageFull
from engine.index.format.types import Instance
from engine.storage.record import Position


def made(count: int) -> Iterator[Instance]:
    """Instances of two thousand a segment, with what an index says of each."""
    for number in range(count):
        yield Instance(
            Position(number // 2000 + 1, number * 4096, 64, 300, 3000, number),
            number,
            "1.2.840.10008.5.1.4.1.1.2",
            f"1.2.826.0.1.3680043.10.1599.{number}",
            "1.2.840.10008.1.2.1",
            f"1.2.826.0.1.{number // 500}",
            f"1.2.826.0.1.{number // 100}.1",
            1000,
            "MODALITY",
            number,
            bytes(200),
            b"ISO_IR 100",
        )


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25, 30])
def test_batches_give_what_went_in_in_its_order(tmp_path: Path, count: int) -> None:
    with Selection(made(count), tmp_path, batch=10) as selection:
        assert len(selection) == count
        assert selection.segment_ids == {each.position.segment_id for each in made(count)}
        batches = list(selection.batches())
    assert [each for batch in batches for each in batch] == list(made(count))
    assert all(len(batch) <= 10 for batch in batches)
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_it_is_an_error_that_has_a_status(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="no room"):
        Selection(made(25), tmp_path / "not there", batch=10)


def test_an_error_of_the_index_is_the_callers(tmp_path: Path) -> None:
    def broken() -> Iterator[Instance]:
        yield from made(15)
        raise QueryError("wrong")

    with pytest.raises(QueryError):
        Selection(broken(), tmp_path, batch=10)


MEASURED = """
import resource, sys
from pathlib import Path
from engine.archive.selection import Selection
from tests.archive.test_selection import made

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

Selection(made(11_000), Path(sys.argv[1])).close()
before = peak()
with Selection(made(150_000), Path(sys.argv[1])) as selection:
    count = sum(map(len, selection.batches()))
print(count, peak() - before)
"""


def test_memory_does_not_grow_with_the_length_of_the_list(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], env=env, capture_output=True, text=True, check=True
    )
    count, grown_mib = map(int, done.stdout.split())
    assert count == 150_000
    assert grown_mib < 50  # all of them at once are more than twice that
