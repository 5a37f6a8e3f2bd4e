"""archive.lifecycle.deletion, holds, reserve_file: gone at once and for good, all or nothing, refused when held."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from engine.archive import locks
from engine.archive.archive import Archive
from engine.archive.lifecycle import deletion, holds, reserve_file
from engine.errors import ArchiveInUse, DeletionRefused, QueryError, StorageFailed, StorageFull
from engine.index.format.entry import Tombstone
from engine.index.format.types import InstanceIdentifiers, Level, Outcome, Query
from engine.storage import segment
from engine.storage.record import Kind, Record
from tests.actors import actor
from tests.archive.filled import (
    EXPLICIT,
    all_instances,
    contents,
    findings,
    instance_query,
    opened,
    payload_of,
    series_query,
    store,
    study_query,
    uid,
)
from tests.faulty_files import FaultyFiles

EVERYTHING = [(study, series, number) for study in (1, 2, 3) for series in (1, 2) for number in (1, 2)]


def fill(archive: Archive) -> None:
    store(archive, *(payload_of(*which) for which in EVERYTHING))


def left(archive: Archive) -> set[str]:
    return {instance.sop_instance_uid for instance in all_instances(archive)}


def uids(*, without: set[tuple[int, ...]]) -> set[str]:
    return {uid(*which) for which in EVERYTHING if not any(which[: len(out)] == out for out in without)}


def tombstones(data: Path) -> list[Tombstone]:
    with opened(data) as archive:
        found: list[Record] = []
        for segment_id in archive.parts.segments.segment_ids():
            found += segment.scan(archive.parts.segments.open(segment_id), segment_id, 0)
    return [Tombstone.unpack(record) for record in found if record.kind == Kind.TOMBSTONE]


@pytest.mark.parametrize(
    ("query", "gone", "counts"),
    [
        (study_query(2), (2,), (1, 2, 4)),
        (series_query(2, 1), (2, 1), (1, 1, 2)),
        (instance_query(2, 1, 2), (2, 1, 2), (1, 1, 1)),
    ],
)
def test_what_is_deleted_is_gone_at_once_and_after_a_rebuild(
    tmp_path: Path, query: Query, gone: tuple[int, ...], counts: tuple[int, int, int]
) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        answer = archive.delete(query, actor=actor("somebody"), reason="sent by mistake")
        assert (answer.studies, answer.series, answer.instances) == counts
        assert answer.bytes == sum(len(payload_of(*which)) for which in EVERYTHING if which[: len(gone)] == gone)
        assert left(archive) == uids(without={gone})
        assert archive.instances(query) == []
        assert findings(archive) == []
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert left(archive) == uids(without={gone})
        assert findings(archive) == []


@pytest.mark.parametrize("query", [study_query(2), series_query(2, 1), instance_query(2, 1, 2), study_query(9)])
def test_a_deletion_names_what_a_retrieval_would(tmp_path: Path, query: Query) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        assert sorted(archive.parts.index.identifiers(query)) == sorted(
            map(InstanceIdentifiers.of, archive.instances(query))
        )


def test_the_log_keeps_who_deleted_what_when_and_why(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        archive.delete(study_query(1), actor=actor("Zoë"), reason="x" * 5000)
        archive.delete(instance_query(2, 1, 1), actor=actor("rule"), reason="due")
    study, instance = tombstones(tmp_path)
    assert (study.level, study.uid, study.by) == (Level.STUDY, uid(1).encode(), "Zoë".encode())
    assert study.reason == b"x" * deletion.TEXT_BYTES_MAX
    assert set(study.sop_instance_uids) == {uid(*which).encode() for which in EVERYTHING if which[0] == 1}
    assert 0 < study.deleted_ns < instance.deleted_ns
    assert (instance.level, instance.uid) == (Level.IMAGE, uid(2, 1, 1).encode())
    assert instance.sop_instance_uids == (uid(2, 1, 1).encode(),)


def test_a_study_of_more_uids_than_a_record_takes_is_deleted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "UIDS_BYTES_MAX", 120)
    with opened(tmp_path) as archive:
        fill(archive)
        archive.delete(study_query(1), actor=actor(""), reason="")
        assert left(archive) == uids(without={(1,)})
    parts = tombstones(tmp_path)
    assert len(parts) > 1
    assert len({part.stamp for part in parts}) == 1
    assert sorted(one for part in parts for one in part.sop_instance_uids) == sorted(
        uid(*which).encode() for which in EVERYTHING if which[0] == 1
    )


def test_a_deleted_instance_can_be_stored_again(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        archive.delete(study_query(1), actor=actor(""), reason="")
        again = payload_of(1, 1, 1, patient_name="Other^Name")
        assert store(archive, again) == [Outcome.STORED]
        assert contents(archive)[uid(1, 1, 1)] == again
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert left(archive) == uids(without={(1,)}) | {uid(1, 1, 1)}


@pytest.mark.parametrize("streamed", [False, True])
def test_after_the_clock_was_set_back_what_is_stored_again_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    ahead_ns = time.time_ns() + 3600 * 10**9
    with opened(tmp_path) as archive:
        fill(archive)
        monkeypatch.setattr(time, "time_ns", lambda: ahead_ns)
        archive.delete(study_query(1), actor=actor(""), reason="")
        archive.set_holds([uid(2)], actor=actor(""), reason="")
        archive.release_holds([uid(2)], actor=actor(""), reason="")
        monkeypatch.undo()
    with opened(tmp_path) as archive:
        again = payload_of(1, 1, 1)
        if streamed:
            assert archive.ingest_stream(iter([again]), transfer_syntax_uid=EXPLICIT) == Outcome.STORED
        else:
            assert store(archive, again) == [Outcome.STORED]
        assert contents(archive)[uid(1, 1, 1)] == again
        assert archive.set_holds([uid(2)], actor=actor(""), reason="") == [uid(2)]
        assert archive.parts.index.is_held(uid(2).encode())
        archive.delete(study_query(1), actor=actor(""), reason="")
        assert left(archive) == uids(without={(1,)})
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert left(archive) == uids(without={(1,)})
        assert archive.parts.index.is_held(uid(2).encode())


def test_versions_kept_aside_go_with_their_instance(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        assert store(archive, payload_of(1, 1, 1, pixels=bytes(64))) == [Outcome.KEPT_ASIDE]
        assert store(archive, payload_of(2, 1, 1, pixels=bytes(64))) == [Outcome.KEPT_ASIDE]
        archive.delete(instance_query(1, 1, 1), actor=actor(""), reason="")
        assert [kept.sop_instance_uid for kept in archive.parts.index.kept_versions()] == [uid(2, 1, 1)]
        assert archive.parts.index.versions(uid(1, 1, 1).encode()) == []


def test_what_does_not_match_is_no_error_and_what_names_nothing_is_one(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        assert archive.delete(study_query(9), actor=actor(""), reason="").instances == 0
        with pytest.raises(QueryError):
            archive.delete(Query(Level.STUDY, {}), actor=actor(""), reason="")
        assert left(archive) == uids(without=set())
    assert tombstones(tmp_path) == []


def test_a_dry_run_changes_nothing_and_names_what_is_held(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        archive.set_holds([uid(1), uid(7)], actor=actor(""), reason="")
        answer = archive.delete(study_query(1), actor=actor(""), reason="", dry_run=True)
        assert (answer.dry_run, answer.instances, answer.held) == (True, 4, [uid(1)])
        assert left(archive) == uids(without=set())


# Holds -------------------------------------------------------------------------------------------


def test_nothing_of_a_held_study_is_deleted_until_the_hold_is_released(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        assert archive.set_holds([uid(1), uid(1)], actor=actor("court"), reason="case 12") == [uid(1)]
        assert archive.set_holds([uid(1)], actor=actor("court"), reason="again") == []
        for query in (study_query(1), series_query(1, 2), instance_query(1, 1, 1)):
            with pytest.raises(DeletionRefused, match="1 of 1 studies are on legal hold"):
                archive.delete(query, actor=actor(""), reason="")
        everything = all_instances(archive)
        with pytest.raises(DeletionRefused, match=f"1 of 3 .*{uid(1)}; nothing was deleted") as refused:
            archive.delete_instances(everything, level=Level.STUDY, actor=actor(""), reason="")
        assert refused.value.study_instance_uids == [uid(1)]
        assert left(archive) == uids(without=set())
        assert archive.release_holds([uid(1), uid(2)], actor=actor("court"), reason="closed") == [uid(1)]
        archive.delete(study_query(1), actor=actor(""), reason="")
        assert left(archive) == uids(without={(1,)})


def test_a_hold_survives_a_restart_and_a_rebuild_and_so_does_its_release(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        archive.set_holds([uid(1), uid(2)], actor=actor("court"), reason="case 12")
        archive.release_holds([uid(2)], actor=actor("court"), reason="")
        archive.release_holds([uid(1)], actor=actor("court"), reason="")
        archive.set_holds([uid(1)], actor=actor("court"), reason="case 13")
    for rebuild in (False, True):
        if rebuild:
            Archive.rebuild_index(tmp_path)
        with opened(tmp_path) as archive:
            (hold,) = archive.parts.index.holds()
            assert (hold.study_instance_uid, hold.by, hold.reason) == (uid(1).encode(), b"court", b"case 13")
            with pytest.raises(DeletionRefused):
                archive.delete(study_query(1), actor=actor(""), reason="")
            archive.delete(study_query(2), actor=actor(""), reason="", dry_run=True)


def test_a_hold_may_come_before_its_study(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        archive.set_holds([uid(1)], actor=actor(""), reason="")
        fill(archive)
        with pytest.raises(DeletionRefused):
            archive.delete(instance_query(1, 1, 1), actor=actor(""), reason="")


def test_a_version_of_a_held_study_holds_the_instance_that_it_is_a_version_of(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        moved = payload_of(1, 1, 1, StudyInstanceUID=uid(8))
        assert store(archive, moved) == [Outcome.KEPT_ASIDE]
        archive.set_holds([uid(8)], actor=actor(""), reason="")
        with pytest.raises(DeletionRefused):
            archive.delete(study_query(1), actor=actor(""), reason="")


def test_what_is_held_is_not_replaced_but_kept_beside_the_new_one(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        archive.set_holds([uid(1)], actor=actor(""), reason="")
        for study in (1, 2):
            new = payload_of(study, 1, 1, pixels=bytes(64))
            assert store(archive, new, policy="replace") == [Outcome.REPLACED]
            assert contents(archive)[uid(study, 1, 1)] == new
        (kept,) = archive.parts.index.kept_versions()
        assert archive.read(kept) == payload_of(1, 1, 1)


def test_no_deletion_comes_between_the_question_and_the_hold(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        deleted = threading.Event()

        def delete() -> None:
            with pytest.raises(DeletionRefused):
                archive.delete(study_query(1), actor=actor(""), reason="")
            deleted.set()

        with archive.parts.ledger.locked():
            thread = threading.Thread(target=delete)
            thread.start()
            assert not deleted.wait(0.05)
            # What set_holds does once it has the lock.
            holds._change(archive.parts, [uid(1)], True, actor(""), "")
        thread.join(60)
        assert deleted.is_set()
        assert left(archive) == uids(without=set())


def test_a_process_that_hangs_in_a_deletion_does_not_hang_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEDGER_PATIENCE_S", 0.05)
    with (
        opened(tmp_path) as archive,
        archive.parts.ledger.locked(),
        pytest.raises(ArchiveInUse),
    ):
        archive.delete(study_query(1), actor=actor(""), reason="")


# Trouble -----------------------------------------------------------------------------------------


@pytest.mark.disk
def test_on_a_full_disk_the_reserve_file_makes_room(tmp_path: Path) -> None:
    files = FaultyFiles()
    with opened(tmp_path, files=files) as archive:
        fill(archive)
        assert reserve_file.make(archive.parts.layout, files)
        assert reserve_file.make(archive.parts.layout, files)
        path = Path(reserve_file.path_of(archive.parts.layout))
        assert path.stat().st_blocks * 512 >= reserve_file.BLOCK_BYTES
        files.fail_here("create", 28)  # ENOSPC for the ledger's first segment
        archive.delete(study_query(1), actor=actor(""), reason="")
        assert left(archive) == uids(without={(1,)})
        assert not path.exists()
        assert reserve_file.make(archive.parts.layout, files)


def test_without_a_reserve_file_a_full_disk_refuses_and_nothing_changes(tmp_path: Path) -> None:
    files = FaultyFiles()
    with opened(tmp_path, files=files) as archive:
        fill(archive)
        files.fail_here("create", 28)
        with pytest.raises(StorageFull):
            archive.delete(study_query(1), actor=actor(""), reason="")
        with pytest.raises(StorageFull):
            files.fail_here("create", 28)
            archive.set_holds([uid(1)], actor=actor(""), reason="")
        assert left(archive) == uids(without=set())
        assert archive.parts.index.holds() == []
        assert findings(archive) == []
        archive.delete(study_query(1), actor=actor(""), reason="")
        assert left(archive) == uids(without={(1,)})


def test_a_reserve_file_for_which_there_is_no_room_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = FaultyFiles()
    with opened(tmp_path, files=files) as archive:
        files.fail("allocate", 28)
        assert not reserve_file.make(archive.parts.layout, files)
        assert not Path(reserve_file.path_of(archive.parts.layout)).exists()
        monkeypatch.setattr(FaultyFiles, "free_bytes", lambda self, path: reserve_file.BLOCK_BYTES * 15)
        assert not reserve_file.make(archive.parts.layout, files)
        assert not reserve_file.release(archive.parts.layout, files)


@pytest.mark.parametrize("method", ["pwritev", "fdatasync"])
def test_an_io_error_is_no_deletion_and_ends_the_ledger(tmp_path: Path, method: str) -> None:
    files = FaultyFiles()
    archive = opened(tmp_path, files=files, role="keeper")
    try:
        fill(archive)
        archive.delete(study_query(3), actor=actor(""), reason="")
        files.fail(method, 5, at=1, repeat=True)
        with pytest.raises(StorageFailed):
            archive.delete(study_query(1), actor=actor(""), reason="")
        with pytest.raises(StorageFailed):
            archive.delete(study_query(2), actor=actor(""), reason="")
        assert left(archive) == uids(without={(3,)})
        files.heal()
    finally:
        archive.close()
    with opened(tmp_path) as archive:
        assert left(archive) in (uids(without={(3,)}), uids(without={(3,), (1,)}))
        assert findings(archive) == []
