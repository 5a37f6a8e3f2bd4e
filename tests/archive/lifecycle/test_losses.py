"""Sealed segments cut, emptied, gone or exchanged: every loss is named until it is acknowledged or put back."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.archive import layout as layouts
from engine.archive import verify
from engine.archive.archive import Archive
from engine.archive.lifecycle import losses
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.register import Register
from engine.config import Compaction
from engine.index.format.types import Outcome
from engine.storage.files import Files
from engine.storage.segment import list_segments, segment_path
from tests.actors import actor
from tests.archive import kept

COUNT = 120
SEGMENT_BYTES = 40_000
"""So that there are some of them."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("stopped") / "data"
    kept.filled(data, COUNT, pixels=512, segment_bytes=SEGMENT_BYTES)
    assert len(list_segments(str(data / "segments"), Files())) >= 3
    return data


def _exchange(path: Path, other: Path) -> None:
    os.rename(path, path.with_suffix(".x"))
    os.rename(other, path)
    os.rename(path.with_suffix(".x"), other)


def _write(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    return lambda path, other: (path.write_bytes(change(path.read_bytes())), None)[1]


def _over(data: bytes, start: int, end: int, noise: bool) -> bytes:
    filling = random.Random(1).randbytes(end - start) if noise else bytes(end - start)
    return data[:start] + filling + data[end:]


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "cut in the middle": _write(lambda data: data[: len(data) // 2]),
    "cut in the header": _write(lambda data: data[:100]),
    "emptied": _write(lambda data: b""),
    "zeros": _write(lambda data: bytes(len(data))),
    "zeros from the middle on": _write(lambda data: _over(data, len(data) // 2, len(data), False)),
    "noise from the middle on": _write(lambda data: _over(data, len(data) // 2, len(data), True)),
    "noise": _write(lambda data: random.Random(2).randbytes(len(data))),
    "gone": lambda path, other: path.unlink(),
    "replaced by another one": lambda path, other: (shutil.copy(other, path), None)[1],
}
"""Each loses something."""


def _damaged(stopped: Path, folder: Path, damage: Callable[[Path, Path], None], *, which: int = 1) -> Path:
    data = folder / "data"
    shutil.copytree(stopped, data)
    segments = str(data / "segments")
    damage(Path(segment_path(segments, which)), Path(segment_path(segments, which - 1)))
    return data


def _findings(archive: Archive) -> list[str]:
    return [str(finding) for finding in verify.check(archive, payloads=True).findings]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_rebuild_names_every_instance_that_the_old_index_knew_and_the_log_has_lost(
    stopped: Path, tmp_path: Path, damage: str
) -> None:
    data = _damaged(stopped, tmp_path, DAMAGES[damage])
    report = Archive.rebuild_index(data)
    assert report.findings
    with kept.opened(data) as archive:
        there = set(kept.positions(archive))
        lost = {kept.uid_of(number) for number in range(COUNT)} - there
        assert lost
        findings = _findings(archive)
        for uid in lost:
            assert any(uid in finding for finding in findings), uid
        assert {loss.sop_instance_uid for loss in archive.losses()} >= lost
    Archive.rebuild_index(data)
    with kept.opened(data) as archive:
        for uid in lost:
            assert any(uid in finding for finding in _findings(archive)), uid


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("lost_too", ["index", "index and list"])
def test_without_the_index_a_sealed_segment_is_kept_and_what_it_has_lost_is_told(
    stopped: Path, tmp_path: Path, damage: str, lost_too: str
) -> None:
    data = _damaged(stopped, tmp_path, DAMAGES[damage])
    shutil.rmtree(data / "index")
    if lost_too == "index and list":
        os.unlink(data / "sealed")
        if damage in ("gone", "replaced by another one"):
            pytest.skip("three of three witnesses are gone")
    for _ in range(2):
        with kept.opened(data) as archive:
            assert len(kept.positions(archive)) < COUNT
            assert any("lost" in finding for finding in _findings(archive))
    with kept.opened(data) as archive:
        layout, files = archive.parts.layout, archive.parts.files
        chosen = losses.acknowledge(layout, files, archive.parts.index, None, actor=actor())
        assert chosen
        assert not losses.outstanding(layout, files, archive.parts.index)
        remaining = _findings(archive)
    with kept.opened(data) as archive:
        assert _findings(archive) == remaining
        assert not any("not acknowledged" in finding for finding in remaining)
    Archive.rebuild_index(data)
    with kept.opened(data) as archive:
        assert not archive.losses()


@pytest.mark.parametrize("is_index_lost", [False, True])
def test_a_segment_that_has_lost_its_header_and_its_footer_has_lost_nothing(
    stopped: Path, tmp_path: Path, is_index_lost: bool
) -> None:
    data = _damaged(stopped, tmp_path, _write(lambda data: bytes(4096) + data[4096:-2000]))
    if is_index_lost:
        shutil.rmtree(data / "index")
    else:
        assert Archive.rebuild_index(data).findings == []
    with kept.opened(data) as archive:
        assert len(kept.positions(archive)) == COUNT
        assert _findings(archive) == []


@pytest.mark.parametrize("is_index_lost", [False, True])
def test_two_exchanged_segments_get_their_names_back(stopped: Path, tmp_path: Path, is_index_lost: bool) -> None:
    data = _damaged(stopped, tmp_path, _exchange)
    if is_index_lost:
        shutil.rmtree(data / "index")
    else:
        Archive.rebuild_index(data)
    with kept.opened(data) as archive:
        assert len(kept.positions(archive)) == COUNT
        assert _findings(archive) == []


def test_an_exchange_that_was_cut_off_is_ended(stopped: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    shutil.rmtree(data / "index")
    segments = str(data / "segments")
    os.rename(segment_path(segments, 1), segment_path(segments, 1) + ".moved")
    with kept.opened(data) as archive:
        assert len(kept.positions(archive)) == COUNT


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("replaced by another one",)])
def test_a_segment_that_is_put_back_ends_its_losses_at_the_next_rebuild(
    stopped: Path, tmp_path: Path, damage: str
) -> None:
    data = _damaged(stopped, tmp_path, DAMAGES[damage])
    shutil.rmtree(data / "index")
    with kept.opened(data) as archive:
        assert _findings(archive)
    shutil.copy(segment_path(str(stopped / "segments"), 1), segment_path(str(data / "segments"), 1))
    assert Archive.rebuild_index(data).findings == []
    with kept.opened(data) as archive:
        assert len(kept.positions(archive)) == COUNT
        assert _findings(archive) == []


def test_what_is_sent_again_is_lost_no_more(stopped: Path, tmp_path: Path) -> None:
    data = _damaged(stopped, tmp_path, DAMAGES["cut in the middle"])
    Archive.rebuild_index(data)
    with kept.opened(data, segment_bytes=SEGMENT_BYTES) as archive:
        left = archive.losses()
        kept.store(archive, [kept.data_set(number) for number in range(COUNT)])
        after = archive.losses()
        assert {loss.sop_instance_uid for loss in left} - {""}
        assert {loss.sop_instance_uid for loss in after} == {""}


def test_what_was_compacted_away_is_no_loss(tmp_path: Path) -> None:
    data = tmp_path / "data"
    kept.filled(data, COUNT, pixels=512, segment_bytes=SEGMENT_BYTES)
    with kept.opened(data, segment_bytes=SEGMENT_BYTES) as archive:
        replaced = [kept.data_set(number, pixels=600) for number in range(COUNT)]
        assert set(kept.store(archive, replaced, policy="replace")) == {Outcome.REPLACED}
    with kept.opened(data) as archive:
        totals = Compactor(archive, Compaction(), segment_bytes=SEGMENT_BYTES, everything=True).run()
        assert totals.segments_removed
    shutil.rmtree(data / "index")
    with kept.opened(data) as archive:
        assert len(kept.positions(archive)) == COUNT
        assert _findings(archive) == []


def test_an_archive_without_the_list_gets_it_at_its_first_start(stopped: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    os.unlink(data / "sealed")
    with kept.opened(data) as archive:
        assert _findings(archive) == []
        known = Register(archive.parts.layout, archive.parts.files).load()
        assert known.is_whole
        assert sorted(known.by_id) == list_segments(archive.parts.layout.segments, archive.parts.files)
        assert all(sealed.salt >= 0 and sealed.records > 0 for sealed in known.by_id.values())


def test_a_rotten_line_of_the_list_is_noticed_and_the_list_made_whole_at_the_next_start(
    stopped: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    path = data / "sealed"
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:] + content)
    layout = layouts.existing(data)
    assert not Register(layout, Files()).load().is_whole
    kept.opened(data).close()
    known = Register(layout, Files()).load()
    assert known.is_whole
    assert sorted(known.by_id) == list_segments(layout.segments, Files())
