"""archive.lifecycle.trash: gone for everybody, restored whole, emptied for good, and the same after every restart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.archive.admin import trash as trash_facts
from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.replica import Replica
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.copies.restore import restore as restore_backup
from engine.archive.lifecycle import reserve_file, trash
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.settings import Compaction
from engine.errors import ArchiveReadOnly, DeletionRefused, NotInTrash, RetentionRefused, StorageFailed, StorageFull
from engine.index.catalog import Catalog
from engine.index.format.types import Level, Query
from engine.storage.files import Files
from tests.actors import actor
from tests.archive.filled import (
    contents,
    findings,
    instance_query,
    opened,
    payload_of,
    segment_bytes_on_disk,
    series_query,
    store,
    study_query,
    uid,
)
from tests.faulty_files import FaultyFiles

EVERYTHING = [(study, series, number) for study in (1, 2, 3) for series in (1, 2) for number in (1, 2)]
ME = actor("somebody")


def fill(archive: Archive, *, segment_bytes: int = 1 << 20) -> None:
    store(archive, *(payload_of(*which) for which in EVERYTHING), segment_bytes=segment_bytes)


def put(archive: Archive, query: Query) -> str:
    (number,) = archive.delete(query, actor=ME, reason="by mistake", into_trash=True).trash
    return number


def restore(archive: Archive, number: str, series: str = "") -> int:
    return trash.restore(archive.parts, number, series_instance_uid=series, actor=ME, reason="needed").instances


def expected(*, without: tuple[int, ...] = (9,)) -> dict[str, bytes]:
    return {uid(*which): payload_of(*which) for which in EVERYTHING if which[: len(without)] != without}


def listed(archive: Archive, days: float = 30.0) -> list[dict[str, object]]:
    return list(trash_facts.list_all(archive, days, values=True))


def compact(archive: Archive) -> None:
    Compactor(archive, Compaction(), segment_bytes=1 << 20, everything=True).run()


@pytest.mark.parametrize(
    ("query", "gone"),
    [(study_query(2), (2,)), (series_query(2, 1), (2, 1)), (instance_query(2, 1, 2), (2, 1, 2))],
)
def test_what_is_in_the_trash_is_gone_at_once_and_comes_back_whole(
    tmp_path: Path, query: Query, gone: tuple[int, ...]
) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        number = put(archive, query)
        assert contents(archive) == expected(without=gone) and archive.instances(query) == []
        assert archive.was_deleted(uid(2, 1, 2))
        assert archive.was_entity_deleted(uid(2), uid(2, 1)) == (len(gone) < 3)
        assert archive.stats()["trashed"] == len(EVERYTHING) - len(expected(without=gone))
        assert findings(archive) == []
        (entry,) = listed(archive)
        assert (entry["number"], entry["by"], entry["reason"]) == (number, "somebody", "by mistake")
        assert entry["instances"] == archive.stats()["trashed"] and entry["study_instance_uid"] == uid(2)
        assert entry["shown"]["PatientName"] == "Doe^Jane"  # type: ignore[index]
    for rebuild in (False, True):
        if rebuild:
            Archive.rebuild_index(tmp_path)
        with opened(tmp_path) as archive:
            assert contents(archive) == expected(without=gone)
            assert [one["number"] for one in listed(archive)] == [number]
    with opened(tmp_path) as archive:
        restore(archive, number)
        assert contents(archive) == expected() and listed(archive) == []
        assert archive.stats()["trashed"] == archive.stats()["trashed_bytes"] == 0
        with pytest.raises(NotInTrash):
            restore(archive, number)
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert contents(archive) == expected() and findings(archive) == []


def test_what_a_full_disk_put_twice_into_the_trash_comes_back_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        assert reserve_file.make(archive.parts.layout, archive.parts.files)
        ballast, apply = Path(reserve_file.path_of(archive.parts.layout)), Catalog.apply

        def apply_if_there_is_room(*args: Any, **options: Any) -> Any:
            if ballast.exists():
                raise StorageFull("the index cannot be written, 0 bytes are free")
            return apply(*args, **options)

        monkeypatch.setattr(Catalog, "apply", apply_if_there_is_room)
        number = put(archive, study_query(2))
        assert contents(archive) == expected(without=(2,)) and len(listed(archive)) == 1
        restore(archive, number)
    # Of a second record in the log a new index would put the study into the trash again.
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert contents(archive) == expected() and listed(archive) == []


def test_a_compaction_keeps_what_is_in_the_trash_and_frees_what_it_was_emptied_of(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, segment_bytes=1 << 14)
        number = put(archive, study_query(1))
        archive.delete(study_query(2), actor=ME, reason="final")
        other = put(archive, study_query(3))
        store(archive, payload_of(4))
    with opened(tmp_path) as archive:
        before = segment_bytes_on_disk(tmp_path)
        compact(archive)
        assert segment_bytes_on_disk(tmp_path) < before
        assert archive.stats()["trashed"] == 8
        restore(archive, number)
        names = set(contents(archive))
        assert names == {uid(*which) for which in EVERYTHING if which[0] == 1} | {uid(4, 1, 1)}
        assert trash.empty(archive.parts, [other], actor=ME, reason="").instances == 4
        kept = segment_bytes_on_disk(tmp_path)
        compact(archive)
        assert segment_bytes_on_disk(tmp_path) < kept and findings(archive) == []
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert set(contents(archive)) == names and listed(archive) == []


def test_one_series_of_a_study_in_the_trash_is_restored_and_the_others_stay(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        first = put(archive, series_query(1, 1))
        number = put(archive, study_query(1))
        assert [entry["level"] for entry in listed(archive)] == ["study", "series"]
        with pytest.raises(NotInTrash):
            restore(archive, number, uid(1, 1))
        assert restore(archive, number, uid(1, 2)) == 2
        assert contents(archive) == expected(without=(1, 1))
        assert [entry["number"] for entry in listed(archive)] == [first]
        assert restore(archive, first) == 2
        assert contents(archive) == expected()


def test_an_instance_that_is_sent_again_stays_beside_the_one_in_the_trash(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        number = put(archive, study_query(1))
        other = payload_of(1, 1, 1, StudyDescription="Another")
        store(archive, other, payload_of(1, 1, 2))
        assert len(contents(archive)) == len(EVERYTHING) - 2
        assert listed(archive)[0]["instances"] == 4
        restore(archive, number)
        assert contents(archive) == {**expected(), uid(1, 1, 1): other}
        (version,) = archive.parts.index.kept_versions()
        assert archive.read(version) == payload_of(1, 1, 1)
        assert findings(archive) == []


def test_a_hold_forbids_the_trash_and_its_emptying_and_no_restoration(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        archive.set_holds([uid(1)], actor=ME, reason="court")
        with pytest.raises(DeletionRefused):
            put(archive, study_query(1))
        assert contents(archive) == expected()
        number, other = put(archive, study_query(2)), put(archive, study_query(3))
        archive.set_holds([uid(2)], actor=ME, reason="court")
        with pytest.raises(DeletionRefused):
            trash.empty(archive.parts, [other, number], actor=ME, reason="")
        emptied = trash.empty(archive.parts, None, actor=ME, reason="")
        assert (emptied.entries, emptied.held) == (1, 1)
        assert restore(archive, number) == 4
        assert contents(archive) == expected(without=(3,))


def test_the_trash_empties_itself_of_what_is_old_enough_unless_the_clock_jumped(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        put(archive, study_query(1))
        now_ns = time.time_ns()
        assert trash.expire(archive.parts, 1.0, now_ns, actor=ME).entries == 0
        with pytest.raises(RetentionRefused):
            trash.expire(archive.parts, 1.0, now_ns + 400 * trash.DAY_NS, actor=ME)
        assert len(listed(archive)) == 1
        assert trash.expire(archive.parts, 1.0, now_ns + 2 * trash.DAY_NS, actor=ME).instances == 4
        put(archive, study_query(2))
        assert trash.expire(archive.parts, 1.0, now_ns + 400 * trash.DAY_NS, actor=ME, is_confirmed=True).instances == 4
        assert listed(archive) == [] and set(contents(archive)) == {uid(*which) for which in EVERYTHING[8:]}


def test_a_final_deletion_ends_what_is_in_the_trash_under_its_uids(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        put(archive, instance_query(1, 1, 1))
        store(archive, payload_of(1, 1, 1))
        archive.delete(study_query(1), actor=ME, reason="final")
        assert listed(archive) == [] and archive.stats()["trashed"] == 0
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert listed(archive) == [] and contents(archive) == expected(without=(1,))


def test_several_studies_make_several_entries_and_very_many_uids_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.archive.lifecycle.deletion.UIDS_BYTES_MAX", 120)
    with opened(tmp_path) as archive:
        fill(archive)
        everything = [one for study in (1, 2, 3) for one in archive.instances(study_query(study))]
        result = archive.delete_instances(everything, level=Level.IMAGE, actor=ME, reason="", into_trash=True)
        assert len(result.trash) == 3 and contents(archive) == {}
        entries = listed(archive)
        assert [(entry["instances"], entry["series"]) for entry in entries] == [(4, 2)] * 3
        assert sum(int(str(entry["bytes"])) for entry in entries) == result.bytes
        for number in result.trash:
            restore(archive, number)
        assert contents(archive) == expected()


def _race(*works: Callable[[], object]) -> list[int]:
    """Runs these at once. Returns the numbers of those that found the entry in the trash."""
    barrier = threading.Barrier(len(works))
    done: list[int] = []

    def run(number: int, work: Callable[[], object]) -> None:
        barrier.wait()
        try:
            work()
            done.append(number)
        except NotInTrash:
            pass

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def test_of_a_restoration_and_an_emptying_at_once_one_succeeds(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive)
        for study in (1, 2, 3):
            number = put(archive, study_query(study))
            (done,) = _race(
                partial(restore, archive, number),
                partial(trash.empty, archive.parts, [number], actor=ME, reason=""),
                partial(restore, archive, number),
            )
            is_restored = uid(study, 1, 1) in contents(archive)
            assert is_restored == (done != 1) and listed(archive) == []


@pytest.mark.parametrize("method", ["pwritev", "fdatasync"])
def test_an_io_error_is_no_restoration_and_ends_the_ledger(tmp_path: Path, method: str) -> None:
    files = FaultyFiles()
    archive = opened(tmp_path, files=files)
    try:
        fill(archive)
        number = put(archive, study_query(1))
        files.fail(method, 5, at=1, repeat=True)
        with pytest.raises(StorageFailed):
            restore(archive, number)
        with pytest.raises(StorageFailed):
            trash.empty(archive.parts, [number], actor=ME, reason="")
        assert contents(archive) == expected(without=(1,)) and len(listed(archive)) == 1
        files.heal()
    finally:
        archive.close()
    with opened(tmp_path) as archive:
        is_restored = contents(archive) == expected()
        assert is_restored or (contents(archive) == expected(without=(1,)) and len(listed(archive)) == 1)
        assert findings(archive) == []


def test_a_backup_and_a_replica_have_the_same_trash_and_restore_from_it(tmp_path: Path) -> None:
    data, replica = tmp_path / "data", tmp_path / "replica"
    with opened(data) as archive:
        fill(archive)
        number = put(archive, study_query(1))
        other = put(archive, study_query(2))
        restore(archive, other)
        back_up(archive.parts.layout, tmp_path / "backup", files=Files())
        layout = archive.parts.layout
        follower = Replication(
            layout, lambda: Replica(replica, layout.archive_id, layout.lineage, None), Status(str(replica))
        )
        assert follower.run_once()
        with Archive.open(replica, role="reader") as reader:
            assert contents(reader) == expected(without=(1,)) and [one["number"] for one in listed(reader)] == [number]
            with pytest.raises(ArchiveReadOnly):
                restore(reader, number)
        restore(archive, number)
        assert follower.run_once()
        follower.close()
    with Archive.open(replica, role="reader") as reader:
        assert contents(reader) == expected() and listed(reader) == []
    restore_backup(tmp_path / "backup", tmp_path / "restored", files=Files())
    with opened(tmp_path / "restored") as archive:
        assert contents(archive) == expected(without=(1,))
        restore(archive, number)
        assert contents(archive) == expected() and findings(archive) == []
