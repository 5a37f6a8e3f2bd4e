"""Segments that are not on this machine: read where they are; and while their store is away, nothing takes them for
damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.archive import verify
from engine.archive.archive import Archive
from engine.archive.lifecycle import losses
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.scrub import Scrubber
from engine.archive.settings import Compaction
from engine.archive.survey import survey
from engine.errors import EngineError, SegmentCold, StoreUnreachable
from engine.index.format.entry import HEAL
from engine.index.format.types import Outcome
from engine.storage.files import Files
from engine.storage.segment import list_segments, scan
from engine.storage.segment_store import LocalSegments
from tests.archive import kept
from tests.index.entries import meaning
from tests.memory_segments import MemoryPlace, moved_away

COUNT = 12
AWAY = [StoreUnreachable("the store does not answer"), SegmentCold("in an archive class", 3600)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], object]:
    data = tmp_path_factory.mktemp("elsewhere") / "data"
    payloads = kept.filled(data, COUNT, segment_bytes=1 << 14)
    with Archive.open(data, role="keeper") as archive:
        return data, payloads, meaning(archive.parts.index)


@pytest.fixture
def moved(template: tuple[Path, dict[str, bytes], object], tmp_path: Path) -> tuple[Path, MemoryPlace]:
    """A copy of the archive of which all segments but the newest are elsewhere."""
    data = tmp_path / "data"
    shutil.copytree(template[0], data)
    segment_ids = list_segments(str(data / "segments"), Files())
    assert len(segment_ids) > 2
    return data, moved_away(data, segment_ids[:-1])


def test_an_archive_reads_checks_and_rebuilds_what_is_elsewhere(
    template: tuple[Path, dict[str, bytes], object], moved: tuple[Path, MemoryPlace]
) -> None:
    _, payloads, content = template
    data, place = moved
    for is_rebuilt in (False, True):
        if is_rebuilt:
            assert Archive.rebuild_index(data, elsewhere=place).findings == []
        with Archive.open(data, role="keeper", elsewhere=place) as archive:
            assert meaning(archive.parts.index) == content
            assert losses.outstanding(archive.parts.layout, archive.parts.files, archive.parts.index) == []
            for uid, payload in payloads.items():
                assert archive.retrieval.open(kept.current(archive, uid)).whole() == payload
            report = verify.check(archive, payloads=True)
            assert report.findings == []
            assert report.counts["instances"] == COUNT


@pytest.mark.parametrize("failure", AWAY, ids=lambda failure: type(failure).__name__)
def test_a_store_that_is_away_is_no_damage_and_heals_nothing(
    template: tuple[Path, dict[str, bytes], object], moved: tuple[Path, MemoryPlace], failure: StoreUnreachable
) -> None:
    payloads = template[1]
    data, place = moved
    uid = next(iter(payloads))
    with Archive.open(data, role="keeper", elsewhere=place) as archive:
        archive.writer("test", kept.StorageOptions(segment_bytes=kept.SEGMENT_BYTES))
        place.failure = failure
        stored = archive.retrieval.open(kept.current(archive, uid))
        scrubber = Scrubber(archive, cycle_s=86400, rate_bytes_per_s_max=1 << 30)
        scrubber.begin_pass()
        attempts = {
            "whole": stored.whole,
            "read": lambda: stored.read(0, 100),
            "verify": lambda: stored.verify_record(past_the_cache=True),
            "frames": stored.frames,
            "check": lambda: verify.check(archive, payloads=True),
        }
        for name, attempt in attempts.items():
            with pytest.raises(type(failure)):
                attempt()
                pytest.fail(name)
        assert stored.read_cached(0, 100) is None
        Compactor(archive, Compaction(), segment_bytes=1 << 20, everything=True).run()
        assert survey(archive.parts).missing == []
        assert archive.parts.index.damage() == []
        # The store cannot say whether these bytes are stored, so the sender asks again; other bytes are stored.
        again, other = kept.store(archive, [payloads[uid], kept.data_set(0, pixels=1024)])
        assert isinstance(again, StoreUnreachable)
        assert not isinstance(other, EngineError)
        assert kept.store(archive, [kept.data_set(COUNT)]) == [Outcome.STORED]
        assert archive.parts.index.damage() == []
        local = LocalSegments(archive.parts.layout.segments, Files())
        written = [record for number in local.segment_ids() for record in scan(local.open(number), number, 0)]
        assert written and not any(record.flags & HEAL for record in written)
        assert len(kept.positions(archive)) == COUNT + 1
        place.failure = None
        assert stored.whole() == payloads[uid]
        assert kept.store(archive, [payloads[uid]]) == [Outcome.DUPLICATE]
        scrubber.begin_pass()
        while not (step := scrubber.step(1 << 30)).pass_ended:
            assert step.damaged == []
    with Archive.open(data, role="keeper", elsewhere=place) as archive:
        assert verify.check(archive, payloads=True).findings == []


def test_an_archive_starts_while_the_store_is_away(moved: tuple[Path, MemoryPlace]) -> None:
    data, place = moved
    place.failure = AWAY[0]
    with Archive.open(data, role="keeper", elsewhere=place) as archive:
        assert losses.outstanding(archive.parts.layout, archive.parts.files, archive.parts.index) == []
        assert kept.store(archive, [kept.data_set(COUNT)]) == [Outcome.STORED]
    with pytest.raises(StoreUnreachable):
        Archive.rebuild_index(data, elsewhere=place)
    place.failure = None
    with Archive.open(data, role="keeper", elsewhere=place) as archive:
        assert len(kept.positions(archive)) == COUNT + 1
