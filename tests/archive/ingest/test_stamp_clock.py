"""Stamps order records by cause and effect, whatever the clocks of machines do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.archive.archive import Archive
from engine.archive.ingest import stamp_clock
from engine.archive.ingest.stamp_clock import AHEAD_MAX_NS, StampClock
from engine.archive.lifecycle import holds
from engine.errors import EngineError
from engine.index.catalog import Catalog
from engine.index.format.types import Level, Outcome
from tests.actors import actor
from tests.archive import kept
from tests.index.entries import Tail, entry, meaning

HOUR_NS = 3600 * 1_000_000_000
NOW_NS = 1_800_000_000 * 1_000_000_000

STEPS = {
    "back": (-HOUR_NS, 0, -2 * HOUR_NS),
    "ahead": (HOUR_NS, 0, 2 * HOUR_NS),
    "1970": (1 - NOW_NS, 0, 2 - NOW_NS),
}
"""The clock at each start of the archive, relative to NOW_NS."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock that stamps are taken from; it stands still until it is set."""
    state = SimpleNamespace(now_ns=NOW_NS)
    monkeypatch.setattr(stamp_clock, "time", SimpleNamespace(time_ns=lambda: state.now_ns))
    return state


def test_stamps_rise_whatever_the_clock_does(clock: SimpleNamespace) -> None:
    stamps = StampClock()
    first = stamps.next()
    assert first == NOW_NS
    clock.now_ns -= HOUR_NS
    assert stamps.next() == first + 1
    assert stamps.next(after=first + 100) == first + 101
    clock.now_ns = NOW_NS + HOUR_NS
    assert stamps.next() == NOW_NS + HOUR_NS


def test_stamps_step_over_what_other_nodes_have_written_unless_their_clock_is_broken(clock: SimpleNamespace) -> None:
    stamps = StampClock(observed=NOW_NS + 1000)
    assert stamps.next() == NOW_NS + 1001
    assert stamps.observe(NOW_NS + HOUR_NS)
    assert stamps.observe(NOW_NS)
    assert stamps.next() == NOW_NS + HOUR_NS + 1
    assert not stamps.observe(NOW_NS + AHEAD_MAX_NS + 1)
    assert not stamps.observe((1 << 64) - 1)
    assert stamps.next() == NOW_NS + HOUR_NS + 2
    assert stamps.next(after=NOW_NS + 2 * AHEAD_MAX_NS) == NOW_NS + 2 * AHEAD_MAX_NS + 1


def test_a_writer_begins_after_the_groups_of_other_nodes(clock: SimpleNamespace, tmp_path: Path) -> None:
    kept.opened(tmp_path / "data").close()
    index = Catalog.open(str(tmp_path / "data" / "index"))
    index.apply_group(3, 1, [entry(Tail(), segment_id=3 << 48, stamp=NOW_NS + HOUR_NS)])
    index.close()
    with kept.opened(tmp_path / "data") as archive:
        assert kept.store(archive, [kept.data_set(1)]) == [Outcome.STORED]
        assert kept.current(archive, kept.uid_of(1)).stamp == NOW_NS + HOUR_NS + 1


@pytest.mark.parametrize("offsets_ns", STEPS.values(), ids=STEPS)
def test_what_is_done_later_counts_later_after_a_start_with_another_clock(
    clock: SimpleNamespace, tmp_path: Path, offsets_ns: tuple[int, ...]
) -> None:
    data, uid = tmp_path / "data", kept.uid_of(0)
    study = uid.rsplit(".", 2)[0]

    def start(number: int) -> Archive:
        clock.now_ns = NOW_NS + offsets_ns[number]
        return kept.opened(data)

    def is_held(archive: Archive) -> bool:
        return archive.parts.index.is_held(study.encode())

    with start(0) as archive:
        assert kept.store(archive, [kept.data_set(0)]) == [Outcome.STORED]
        holds.change(archive.parts, [study], is_set=True, actor=actor("test"), reason="")
    with start(1) as archive:
        assert is_held(archive)
        holds.change(archive.parts, [study], is_set=False, actor=actor("test"), reason="")
        assert not is_held(archive)
        archive.delete_instances([kept.current(archive, uid)], level=Level.IMAGE, actor=actor("test"), reason="")
        assert archive.parts.index.locate(uid.encode()) is None
    with start(2) as archive:
        assert archive.parts.index.locate(uid.encode()) is None
        assert kept.store(archive, [kept.data_set(0)]) == [Outcome.STORED]
        assert kept.current(archive, uid)
        (replaced,) = kept.store(archive, [kept.data_set(0, pixels=1024)], policy="replace")
        assert not isinstance(replaced, EngineError)
        assert archive.retrieval.open(kept.current(archive, uid)).whole() == kept.data_set(0, pixels=1024)
    with start(0) as archive:
        content = meaning(archive.parts.index)
    Archive.rebuild_index(data)
    with start(1) as archive:
        assert meaning(archive.parts.index) == content
        assert archive.retrieval.open(kept.current(archive, uid)).whole() == kept.data_set(0, pixels=1024)
        assert not is_held(archive)
