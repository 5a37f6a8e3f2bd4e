"""archive.lifecycle.ledger_copy: no deletion, hold or correction ends because one segment and the index are lost."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine import log
from engine.archive.archive import Archive
from engine.archive.lifecycle import correction, ledger_copy
from engine.archive.lifecycle.ledger_copy import LedgerCopy
from engine.config import Log
from engine.errors import DeletionRefused
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.record import Kind
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_bytes import FileBytes
from tests.actors import actor
from tests.archive.filled import contents, findings, opened, payload_of, store, study_query, uid

GONE, HELD, CORRECTED = 1, 2, 3
NAME = b"CORRECTED^NAME"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies: one deleted, one held, one corrected; each by a process of its own, so in a segment of its own."""
    data = tmp_path_factory.mktemp("stopped") / "data"
    with opened(data) as archive:
        store(archive, *(payload_of(study, 1, number) for study in (1, 2, 3) for number in range(1, 6)))
    with opened(data) as archive:
        archive.delete(study_query(GONE), actor=actor(), reason="wrong patient")
    with opened(data) as archive:
        archive.set_holds([uid(HELD)], actor=actor(), reason="court")
    with opened(data) as archive:
        correction.correct_study(archive, uid(CORRECTED), {0x00081030: NAME.decode()}, actor=actor(), reason="typo")
    return data


def _ledger_segments(data: Path) -> list[int]:
    files, segments = Files(), str(data / "segments")
    found = []
    for number in list_segments(segments, files):
        fd = files.open(segment_path(segments, number), os.O_RDONLY)
        records = hints.read_hints(FileBytes(files, fd), number) or []
        files.close(fd)
        if any(record.kind in (Kind.TOMBSTONE, Kind.HOLD, Kind.CORRECTION, Kind.TRASH) for record in records):
            found.append(number)
    return found


def _flipped(data: bytes) -> bytes:
    turned = bytearray(data)
    rng = random.Random(3)
    # Of the record, of its copy in the footer, and of the trailer.
    for start, end in ((4096, len(data) - 400), (len(data) - 300, len(data) - 130), (len(data) - 128, len(data))):
        for _ in range(20):
            turned[rng.randrange(start, max(end, start + 1))] ^= 1 << rng.randrange(8)
    return bytes(turned)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bits": lambda path: path.write_bytes(_flipped(path.read_bytes())),
    "footer overwritten": lambda path: path.write_bytes(path.read_bytes()[:4200] + random.Random(1).randbytes(900)),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:4150]),
    "gone": lambda path: path.unlink(),
}


def _damage_ledger(data: Path, damage: str) -> None:
    numbers = _ledger_segments(data)
    assert len(numbers) == 3
    for number in numbers:
        DAMAGES[damage](Path(segment_path(str(data / "segments"), number)))


def _must_hold(archive: Archive) -> None:
    assert sorted(contents(archive)) == sorted(uid(study, 1, number) for study in (2, 3) for number in range(1, 6))
    assert [hold.study_instance_uid.decode() for hold in archive.parts.index.holds()] == [uid(HELD)]
    with pytest.raises(DeletionRefused):
        archive.delete(study_query(HELD), actor=actor(), reason="late")
    assert archive.corrected(uid(CORRECTED), "")[0x00081030] == NAME
    assert archive.stats()["corrections"] == 1


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("way", ["rebuilt", "index lost"])
def test_what_the_ledger_said_holds_after_its_segments_and_the_index_are_lost(
    stopped: Path, tmp_path: Path, damage: str, way: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    _damage_ledger(data, damage)
    if way == "rebuilt":
        assert Archive.rebuild_index(data).findings
    else:
        shutil.rmtree(data / "index")
    for _ in range(2):
        with opened(data) as archive:
            _must_hold(archive)
            assert archive.losses() == []
            assert findings(archive) == []
    # It is in the log again, so that it holds without the copy too.
    os.unlink(data / "ledger.copy")
    shutil.rmtree(data / "index")
    with opened(data) as archive:
        _must_hold(archive)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_lost_everywhere_is_told(stopped: Path, tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    _damage_ledger(data, damage)
    os.unlink(data / "ledger.copy")
    shutil.rmtree(data / "index")
    for _ in range(2):
        with opened(data) as archive:
            lost = archive.losses()
            assert len({loss.segment_id for loss in lost}) == 3
            assert all("1 of its 1 records are lost" in loss.what for loss in lost)
            assert len(findings(archive)) >= 3


def test_an_archive_without_a_copy_gets_it_at_its_first_start(stopped: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    os.unlink(data / "ledger.copy")
    opened(data).close()
    _damage_ledger(data, "emptied")
    shutil.rmtree(data / "index")
    with opened(data) as archive:
        _must_hold(archive)


def test_a_place_that_a_killed_compaction_has_left_is_passed_over_if_the_record_has_another(
    stopped: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    with opened(data) as archive:
        (hold,) = archive.parts.index.holds()
        for segment_id in (0, 1 << 20):  # before and after the place where the record is
            archive.parts.index.apply([replace(hold, position=hold.position._replace(segment_id=segment_id))])
        (places,) = [places for places in archive.parts.index.ledger_places() if len(places) > 1]
        assert len(places) == 3
    os.unlink(data / "ledger.copy")
    said = io.StringIO()
    log.configure(Log(format="json"), stream=said)
    try:
        opened(data).close()
    finally:
        log.configure(Log())
    assert "cannot be copied" not in said.getvalue()
    _damage_ledger(data, "gone")
    shutil.rmtree(data / "index")
    with opened(data) as archive:
        _must_hold(archive)


def test_a_rotten_copy_is_made_whole_from_the_index(stopped: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    path = data / "ledger.copy"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"x" + lines[1][1:], *lines[2:]]))
    shutil.rmtree(data / "index")
    opened(data).close()
    _damage_ledger(data, "gone")
    shutil.rmtree(data / "index")
    with opened(data) as archive:
        _must_hold(archive)


def test_what_was_let_go_since_does_not_come_back(stopped: Path, tmp_path: Path) -> None:
    """A released hold, and an instance that was stored again after its deletion, stay what they are."""
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    with opened(data) as archive:
        archive.release_holds([uid(HELD)], actor=actor(), reason="over")
        store(archive, payload_of(GONE, 1, 1))
    shutil.rmtree(data / "index")
    with opened(data) as archive:
        assert archive.parts.index.holds() == []
        assert uid(GONE, 1, 1) in contents(archive)
        assert uid(GONE, 1, 2) not in contents(archive)


def test_a_copy_with_much_that_is_needed_no_more_is_begun_anew(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_copy, "SUPERFLUOUS_MAX", 0)
    monkeypatch.setattr(ledger_copy, "TOMBSTONE_KEEP_S", -1)
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    copy = data / "ledger.copy"
    before = copy.read_bytes()
    other = tmp_path / "other"
    with opened(other) as archive:
        store(archive, *(payload_of(9, 1, number) for number in range(1, 10)))
        for number in range(1, 10):
            archive.delete(study_query(9), actor=actor(), reason=str(number))
            store(archive, payload_of(9, 1, number))
    copy.write_bytes(before + (other / "ledger.copy").read_bytes())
    with opened(data) as archive:
        LedgerCopy(archive.parts.layout, archive.parts.files).settle(archive.parts.index, [], {})
        _must_hold(archive)
    assert sorted(copy.read_bytes().splitlines()) == sorted(before.splitlines())
