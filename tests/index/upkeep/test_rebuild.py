"""The index from the log: as live writing left it, from any earlier state, and with damage in the log."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine.archive.archive import Archive
from engine.dicom import tags
from engine.errors import IndexOutdated
from engine.index.apply import bulk
from engine.index.apply.writer import Writer
from engine.index.catalog import Catalog
from engine.index.format import keys
from engine.index.format.entry import Entry, Item, Quarantined
from engine.index.format.types import Level, Query, Root, SegmentMark
from engine.index.upkeep import rebuild, restoration
from engine.index.upkeep.checkpoint import Checkpointer
from engine.index.upkeep.restoration import RestoreResult
from engine.storage.files import Files
from engine.storage.record import Kind, crc32c
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_log import SegmentLog
from tests.faulty_files import FaultyFiles
from tests.index.entries import Tail, entry, meaning, random_history, record_of

MAP_BYTES = 1 << 28
ARCHIVE_ID = bytes(range(16))


def _log(directory: Path, writer: str, segment_bytes: int = 1 << 30) -> SegmentLog:
    return SegmentLog(str(directory), Files(), ARCHIVE_ID, writer=writer, segment_bytes=segment_bytes)


def _append(log: SegmentLog, record: Item) -> Item:
    """Writes an invented record; equal checksums become equal payloads."""
    payload = b""
    if isinstance(record, Entry | Quarantined):
        payload = bytes([record.position.payload_crc % 256]) * 40
    kind, key = record_of(record).kind, record_of(record).key
    flags = record.flags if isinstance(record, Entry) else 0
    crc = crc32c(payload)
    position = log.append(kind, flags, record.stamp, key, record.pack_meta(), [payload], len(payload), crc)
    return replace(record, position=position)


def _write(index: Catalog, log: SegmentLog, records: list[Item], rng: random.Random) -> None:
    while records:
        size = rng.randrange(1, 9)
        placed = [_append(log, record) for record in records[:size]]
        del records[:size]
        index.apply(placed)
        for segment_id, end in log.seal_rolled():
            index.apply([], marks={segment_id: SegmentMark(end, True)})


def _worker(directory: str, number: int, seed: int, closes: bool) -> None:
    """One writing process: its share of a history, through a log and an index handle of its own."""
    rng = random.Random(seed + number)
    index = Catalog.open(f"{directory}/index", map_bytes=MAP_BYTES)
    log = _log(Path(directory, "segments"), f"writer {number}", 40_000)
    _write(index, log, random_history(random.Random(seed), 160)[number::2], rng)
    if closes:
        for segment_id, end in log.close():
            index.apply([], marks={segment_id: SegmentMark(end, True)})
        index.close()
    os._exit(0)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "segments").mkdir()
    (tmp_path / "index").mkdir()
    return tmp_path


def _open(archive: Path, name: str = "index") -> Catalog:
    return Catalog.open(str(archive / name), map_bytes=MAP_BYTES)


def _replay(index: Catalog, archive: Path, files: Files | None = None, **options: Any) -> rebuild.Report:
    return rebuild.replay(index, str(archive / "segments"), files or Files(), **options)


def _rebuilt(archive: Path, name: str = "again") -> Catalog:
    index, report = rebuild.rebuild(str(archive / name), str(archive / "segments"), Files())
    assert report.findings == []
    return index


def _answers(index: Catalog) -> list[Any]:
    """Answers of all levels, without their order, which is the order of arrival."""
    results = []
    for level in Level:
        keys = dict.fromkeys((tags.PatientName, tags.PatientID, tags.NumberOfPatientRelatedInstances), b"")
        if level >= Level.STUDY:
            keys |= dict.fromkeys((tags.StudyInstanceUID, tags.ModalitiesInStudy, tags.SOPClassesInStudy), b"")
        if level >= Level.SERIES:
            keys |= dict.fromkeys((tags.SeriesInstanceUID, tags.NumberOfSeriesRelatedInstances), b"")
        if level == Level.IMAGE:
            keys[tags.SOPInstanceUID] = b""
        query = Query(level, keys, Root.PATIENT, relational=True)
        results.append(sorted(tuple(match.attributes.items()) for match in index.search(query)))
    return results


@pytest.mark.parametrize(("seed", "closes"), [(1, True), (2, False), (3, True), (4, False)])
def test_a_rebuild_gives_the_index_that_two_processes_wrote_live(archive: Path, seed: int, closes: bool) -> None:
    _open(archive).close()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(str(archive), n, seed, closes)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    live = _open(archive)
    if not closes:
        # From bare segments as well: the rebuild must not depend on what the live one seals.
        shutil.copytree(archive / "segments", archive / "bare")
        bare, _ = rebuild.rebuild(str(archive / "from bare"), str(archive / "bare"), Files())
        report = _replay(live, archive)
        assert report.segments >= 2
        assert meaning(bare) == meaning(live)
        bare.close()
    content, answers = meaning(live), _answers(live)
    again = _rebuilt(archive)
    for part in content:
        assert meaning(again).get(part) == content[part], f"seed {seed}: {part}"
    assert _answers(again) == answers
    assert answers[Level.IMAGE]
    live.close()
    again.close()


def test_a_start_opens_only_segments_that_are_not_sealed(archive: Path) -> None:
    index = _open(archive)
    log = _log(archive / "segments", "writer", 40_000)
    _write(index, log, random_history(random.Random(1), 300), random.Random(1))
    segments = list_segments(str(archive / "segments"), Files())
    assert len(segments) > 5
    files = FaultyFiles()
    opened: list[str] = []
    original = files.open

    class Watched(Files):
        def open(self, path: str, flags: int, mode: int = 0o640) -> int:
            opened.append(path)
            return original(path, flags, mode)

    report = _replay(index, archive, Watched())
    assert (report.owned, report.segments, report.records) == (2, 0, 0)  # the active one and the spare
    assert len(set(opened)) == 2
    for segment_id, end in log.close():
        index.apply([], marks={segment_id: SegmentMark(end, True)})
    opened.clear()
    assert _replay(index, archive, Watched()).summary()["segments"] == 0
    assert opened == []
    index.close()


def test_the_tail_is_replayed_from_any_earlier_state(archive: Path) -> None:
    index = _open(archive)
    checkpointer = Checkpointer(index._environment, Files(), lambda: None)
    log = _log(archive / "segments", "writer", 40_000)
    rng = random.Random(9)
    records = random_history(rng, 300)
    states = []
    while records:
        part, records = records[:30], records[30:]
        _write(index, log, part, rng)
        if len(records) in (240, 150, 0):
            checkpointer.checkpoint()
            shutil.copytree(archive / "index", archive / f"state{len(states)}")
            states.append(meaning(index))
    log.close()
    _replay(index, archive)
    content = meaning(index)
    for number, state in enumerate(states):
        directory = archive / f"state{number}"
        assert restoration.restore(str(directory), Files()) == RestoreResult.CHECKPOINT
        behind = Catalog.open(str(directory), map_bytes=MAP_BYTES)
        assert meaning(behind) == state
        report = _replay(behind, archive)
        assert report.findings == []
        assert meaning(behind) == content
        assert _replay(behind, archive).segments == 0
        behind.close()
    checkpointer.close()
    index.close()


@pytest.mark.parametrize("sealed", [True, False])
def test_a_rebuild_can_be_stopped_and_started_again(
    archive: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    monkeypatch.setattr(rebuild, "BATCH", 7)
    monkeypatch.setattr(bulk, "BATCH", 7)
    index = _open(archive)
    log = _log(archive / "segments", "writer", 40_000)
    _write(index, log, random_history(random.Random(4), 200), random.Random(4))
    for segment_id, end in log.close():
        index.apply([], marks={segment_id: SegmentMark(end, True)})
    if not sealed:
        monkeypatch.setattr(rebuild, "load_sealed", lambda *arguments: False)
    content = meaning(index)
    index.close()

    class Stopped(Exception):
        pass

    original = Writer.batch
    for stop in (1, 5, 12):
        restoration.discard(str(archive / "again"), Files())
        again = _open(archive, "again")
        calls = 0

        def some(self: Writer, work: Any, stop: int = stop) -> Any:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise Stopped
            return original(self, work)

        monkeypatch.setattr(Writer, "batch", some)
        with pytest.raises(Stopped):
            _replay(again, archive)
        monkeypatch.setattr(Writer, "batch", original)
        _replay(again, archive)
        assert meaning(again) == content
        again.close()


def test_damage_is_reported_and_the_other_records_are_applied(archive: Path) -> None:
    index = _open(archive)
    log = _log(archive / "segments", "writer")
    tail = Tail()
    placed = [_append(log, entry(tail, instance=i)) for i in range(6)]
    log.sync()
    log._let_go(log._active)  # type: ignore[arg-type]  # the writer dies
    segment_id = placed[0].position.segment_id
    with open(segment_path(str(archive / "segments"), segment_id), "r+b") as file:
        file.seek(placed[2].position.payload_offset + 5)
        file.write(b"damage")
    report = _replay(index, archive)
    assert report.records == 5
    assert [finding.offset for finding in report.findings] == [placed[2].position.offset]
    assert index.locate(placed[2].sop_instance_uid) is None
    assert index.locate(placed[3].sop_instance_uid) is not None
    assert _replay(index, archive).segments == 0
    index.close()


def test_a_record_of_another_version_is_reported_and_the_others_are_applied(archive: Path) -> None:
    index = _open(archive)
    log = _log(archive / "segments", "writer")
    tail = Tail()
    _append(log, entry(tail, instance=1))
    log.append(Kind.INSTANCE, 0, 5, b"1.2", b"\x63" + bytes(50), [], 0, 0)
    log.append(9, 0, 5, b"1.2", b"", [], 0, 0)
    _append(log, entry(tail, instance=2))
    log.close()
    report = _replay(index, archive)
    assert report.records == 2
    assert len(report.findings) == 2 and "version 99" in report.findings[0].reason
    assert index.stats()["instances"] == 2
    index.close()


def test_a_damaged_footer_only_costs_a_walk(archive: Path) -> None:
    index = _open(archive)
    log = _log(archive / "segments", "writer")
    _write(index, log, random_history(random.Random(3), 120), random.Random(3))
    ((segment_id, end),) = log.close()
    index.apply([], marks={segment_id: SegmentMark(end, True)})
    with open(segment_path(str(archive / "segments"), segment_id), "r+b") as file:
        file.seek(end + 300)
        file.write(b"damage")
    again = _rebuilt(archive)
    assert meaning(again) == meaning(index)
    again.close()
    index.close()


@pytest.mark.parametrize("batch", [10, 1000])
def test_segments_without_a_footer_give_the_same_index_by_records_and_by_their_new_footer(
    archive: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(rebuild, "BATCH", batch)
    index = _open(archive)
    log = _log(archive / "segments", "writer")
    _write(index, log, random_history(random.Random(5), 120), random.Random(5))
    log._let_go(log._active)  # type: ignore[arg-type]  # the writer dies
    again = _rebuilt(archive)
    _replay(index, archive)
    assert meaning(again) == meaning(index)
    again.close()
    index.close()


def test_a_missing_segment_is_reported(archive: Path) -> None:
    index = _open(archive)
    log = _log(archive / "segments", "writer")
    index.apply([_append(log, entry(Tail()))])
    log.close()
    _replay(index, archive)
    (segment_id,) = index.segment_marks()
    Path(segment_path(str(archive / "segments"), segment_id)).unlink()
    report = _replay(index, archive)
    assert [finding.segment_id for finding in report.findings] == [segment_id]
    assert "missing" in report.findings[0].reason
    assert _replay(index, archive, only=[segment_id + 1]).findings == []
    index.close()


def test_progress_is_reported(archive: Path) -> None:
    index = _open(archive)
    log = _log(archive / "segments", "writer", 40_000)
    for record in random_history(random.Random(1), 100):
        _append(log, record)
    log.close()
    reports: list[tuple[str, int, int]] = []
    _replay(index, archive, progress=lambda *numbers: reports.append(numbers))
    assert [count for _, count, _ in reports] == list(range(reports[0][2] + 1))
    index.close()


_KILLED = """
import random, sys
from pathlib import Path
from tests.index.entries import Tail, entry
from tests.index.upkeep.test_rebuild import _append, _log, _open
archive = Path(sys.argv[1])
index = _open(archive)
log = _log(archive / "segments", "killed", 40_000)
tail = Tail()
for number in range(100_000):
    placed = [_append(log, entry(tail, study=number % 7, series=number % 3, instance=number))]
    index.apply(placed)
    print(placed[0].sop_instance_uid.decode(), flush=True)
"""


@pytest.mark.parametrize("acked", [1, 40, 300])
def test_records_applied_before_a_kill_are_present_after_it(archive: Path, acked: int) -> None:
    _open(archive).close()
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(archive)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    uids = [process.stdout.readline().strip() for _ in range(acked)]
    process.send_signal(signal.SIGKILL)
    uids += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    assert restoration.restore(str(archive / "index"), Files()) == RestoreResult.AS_IS
    index = _open(archive)
    report = _replay(index, archive)
    assert report.findings == []
    assert all(index.locate(uid.encode()) is not None for uid in uids)
    again = _rebuilt(archive)
    assert meaning(again) == meaning(index)
    again.close()
    index.close()


def _age(archive: Path) -> None:
    index = _open(archive)
    environment = index._environment
    environment.write(lambda txn: txn.put(keys.META_FORMAT, keys.U32.pack(99), db=environment.meta), lambda: None)
    index.close()


def test_an_index_of_another_format_is_refused(archive: Path) -> None:
    _age(archive)
    with pytest.raises(IndexOutdated, match="format 99"):
        _open(archive)
    _rebuilt(archive, "index").close()


def test_an_index_that_lacks_tables_of_this_format_is_refused_and_not_changed(archive: Path) -> None:
    _age(archive)
    environment = lmdb.open(str(archive / "index"), max_dbs=50, map_size=MAP_BYTES)
    with environment.begin(write=True) as txn:
        txn.drop(environment.open_db(b"holds", txn=txn))
    environment.close()
    with pytest.raises(IndexOutdated, match="format 99"):
        _open(archive)
    environment = lmdb.open(str(archive / "index"), max_dbs=50, map_size=MAP_BYTES)
    with pytest.raises(lmdb.NotFoundError):
        environment.open_db(b"holds", create=False)
    environment.close()


def test_the_keeper_rebuilds_an_index_of_another_format(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "data", create=True) as opened:
        layout = opened.parts.layout
        log = SegmentLog(layout.segments, Files(), layout.archive_id, writer="writer", segment_bytes=1 << 20)
        record = _append(log, entry(Tail()))
        log.close()
    _age(Path(layout.index).parent)
    with Archive.open(tmp_path / "data") as opened:
        assert isinstance(record, Entry)
        assert opened.parts.index.locate(record.sop_instance_uid) is not None
