"""engine.archive.lifecycle.compaction: the space comes back, nothing alive is lost, whatever happens in between.

The kill test forks: the child opens a copy of the archive, compacts it and ends at the n-th call that changes a file;
the parent opens what is left. FILMROOM_TEST_EVERY=1 and --all kill at every call, a run else at every third.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from engine.archive import locks
from engine.archive.archive import Archive
from engine.archive.lifecycle import compaction
from engine.archive.lifecycle.compaction import Compactor, Totals
from engine.config import Compaction
from engine.errors import ArchiveInUse, SegmentGone, StorageFailed, StorageFull
from engine.index.format.types import Instance
from engine.index.upkeep import liveness
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_log import SegmentLog
from tests import effort
from tests.actors import actor
from tests.archive.filled import (
    EXPLICIT,
    all_instances,
    contents,
    findings,
    instance_query,
    opened,
    payload_of,
    segment_bytes_on_disk,
    store,
    study_query,
    uid,
)
from tests.faulty_files import FaultyFiles

EVERY = effort.amount("TEST_EVERY", 3, 1)

SEGMENT_BYTES = 64 << 10
"""Of a full segment in these tests: some ten instances."""

OPTIONS = Compaction(bytes_per_s=0)

PIXELS = 4096


def pixels(study: int, number: int) -> bytes:
    return random.Random(study * 1000 + number).randbytes(PIXELS)


def instance(study: int, number: int) -> bytes:
    return payload_of(study, 1, number, pixels=pixels(study, number))


def fill(archive: Archive, studies: range, numbers: range = range(10)) -> None:
    for number in numbers:
        store(archive, *(instance(study, number) for study in studies), segment_bytes=SEGMENT_BYTES)


def expected(*studies: int, numbers: range = range(10)) -> dict[str, bytes]:
    return {uid(study, 1, number): instance(study, number) for study in studies for number in numbers}


def compact(archive: Archive, *, everything: bool = False, options: Compaction = OPTIONS) -> Totals:
    return Compactor(archive, options, segment_bytes=SEGMENT_BYTES, everything=everything).run()


def segments(archive: Archive) -> list[int]:
    return list_segments(archive.parts.layout.segments, archive.parts.files)


def delete(archive: Archive, *studies: int) -> None:
    for study in studies:
        archive.delete(study_query(study), actor=actor(), reason="")


# What it wins ------------------------------------------------------------------------------------


def test_a_half_deleted_archive_gives_half_its_space_back(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 13))
    before = segment_bytes_on_disk(tmp_path)
    with opened(tmp_path) as archive:
        delete(archive, 1, 3, 5, 7, 9, 11)
    with opened(tmp_path) as archive:
        totals = compact(archive)
        assert contents(archive) == expected(2, 4, 6, 8, 10, 12)
        assert findings(archive) == []
        assert compact(archive) == Totals()
    after = segment_bytes_on_disk(tmp_path)
    assert after <= 0.55 * before
    assert totals.segments_removed > 6
    assert totals.segments_written >= 5
    assert totals.bytes_reclaimed >= 0.4 * before
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert contents(archive) == expected(2, 4, 6, 8, 10, 12)
        assert findings(archive) == []


def test_what_is_wholly_dead_is_removed_without_being_copied(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        for study in (1, 2, 3):
            fill(archive, range(study, study + 1), range(20))
    with opened(tmp_path) as archive:
        delete(archive, 2)
    with opened(tmp_path) as archive:
        totals = compact(archive, options=Compaction(bytes_per_s=0, dead_share_min=1.0))
        assert totals.segments_removed >= 1
        assert totals.records_copied == 0
        assert contents(archive) == expected(1, 3, numbers=range(20))
        assert findings(archive) == []


def test_below_the_share_of_dead_bytes_a_segment_is_left(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 11))
    with opened(tmp_path) as archive:
        delete(archive, 1)
        before = segments(archive)
    with opened(tmp_path) as archive:
        assert compact(archive) == Totals()
        assert segments(archive) == before
        totals = compact(archive, everything=True)
        assert totals.segments_removed >= 7
        assert contents(archive) == expected(*range(2, 11))


def test_small_segments_are_joined_and_streamed_ones_are_not_copied(tmp_path: Path) -> None:
    large = random.Random(5).randbytes(40_000)
    streamed = payload_of(50, 1, 1, pixels=large)
    for number in range(4):
        with opened(tmp_path) as archive:
            store(archive, payload_of(1, 1, number))
            if number == 0:
                archive.ingest_stream(iter([streamed]), transfer_syntax_uid=EXPLICIT)
    with opened(tmp_path) as archive:
        joined = Compaction(bytes_per_s=0, small_segments_min=3)
        total = Compactor(archive, joined, segment_bytes=16 * 100_000).run()
        # The newest stays; so does the streamed one, though it is small.
        assert (total.segments_removed, total.segments_written, total.records_copied) == (3, 1, 3)
        assert contents(archive)[uid(50, 1, 1)] == streamed
        archive.delete(study_query(50), actor=actor(""), reason="")
    with opened(tmp_path) as archive:
        total = Compactor(archive, joined, segment_bytes=16 * 100_000).run()
        assert (total.segments_removed, total.records_copied) == (1, 0)
        assert len(contents(archive)) == 4
        assert findings(archive) == []


def test_the_newest_sealed_segment_stays_so_that_its_number_is_not_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "TOMBSTONE_KEEP_S", 0)
    with opened(tmp_path) as archive:
        fill(archive, range(1, 3))
    for study in (1, 2):
        with opened(tmp_path) as archive:
            delete(archive, study)
            newest = max(segments(archive))
    with opened(tmp_path) as archive:
        compact(archive, everything=True)
        # Nothing that the two tombstones killed is left, and so they are of no use any more.
        assert newest in segments(archive)
        assert compact(archive, everything=True) == Totals()
        store(archive, instance(1, 1))
        assert max(segments(archive)) > newest
    with opened(tmp_path) as archive:
        compact(archive, everything=True)
        assert newest not in segments(archive)
        assert contents(archive) == expected(1, numbers=range(1, 2))


def test_a_copy_that_another_process_left_behind_is_taken_up(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
        delete(archive, 1)
    with opened(tmp_path) as archive:
        # What a command leaves that was killed between sealing its copy and telling the index.
        compactor = Compactor(archive, OPTIONS, segment_bytes=SEGMENT_BYTES)
        source = compactor._source(segments(archive)[0])
        assert source is not None
        copy = SegmentLog(
            archive.parts.layout.segments,
            archive.parts.files,
            archive.parts.layout.archive_id,
            writer="killed",
            segment_bytes=1 << 20,
        )
        for record in source.alive:
            compactor._copy_record(copy, record)
        ((left_behind, _),) = copy.close()
        assert left_behind not in archive.parts.index.segment_marks()
        compact(archive, everything=True)
        assert set(archive.parts.index.segment_marks()) == set(segments(archive))
        assert contents(archive) == expected(2, 3, 4)
        assert findings(archive) == []


def test_versions_tombstones_and_holds_survive(tmp_path: Path) -> None:
    other = payload_of(1, 1, 1, pixels=bytes(PIXELS))
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
        store(archive, other)
        archive.set_holds([uid(2), uid(9)], actor=actor("court"), reason="case")
        archive.release_holds([uid(9)], actor=actor("court"), reason="")
        delete(archive, 3, 4)
    with opened(tmp_path) as archive:
        compact(archive, everything=True)
        store(archive, instance(7, 1))
    with opened(tmp_path) as archive:
        assert compact(archive, everything=True).left_alone == 0
        assert findings(archive) == []
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert contents(archive) == {**expected(1, 2), **expected(7, numbers=range(1, 2))}
        (kept,) = archive.parts.index.kept_versions()
        assert archive.read(kept) == other
        assert [hold.study_instance_uid for hold in archive.parts.index.holds()] == [uid(2).encode()]
        assert findings(archive) == []


# Readers and writers beside it -------------------------------------------------------------------


def test_a_retrieval_under_way_finishes_though_its_segments_go(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
    with opened(tmp_path) as archive:
        found = archive.instances(study_query(1))
        unpinned = [Instance(**{name: getattr(one, name) for name in Instance.__slots__}) for one in found]
        stayed = archive.instances(study_query(2))
        with archive.retrieval.pin([instance.position.segment_id for instance in found]) as pin:
            assert pin.segment_ids == {one.position.segment_id for one in found}
            archive.parts.reader.close()  # nothing but the pin holds the files
            delete(archive, 1, 3)
            store(archive, instance(8, 1))
            assert compact(archive, everything=True).segments_removed >= 4
            for one in found:
                assert archive.read(one) == expected(1)[one.sop_instance_uid]
                assert b"".join(archive.pieces(one)) == expected(1)[one.sop_instance_uid]
        assert archive.parts.reader.sweep() == []
        for one in unpinned:
            with pytest.raises(SegmentGone):
                archive.read(one)
        # What has moved is found where it lies now.
        for one in stayed:
            assert archive.read(one) == expected(2)[one.sop_instance_uid]
        for one in archive.instances(study_query(4)):
            assert b"".join(archive.pieces(one)) == expected(4)[one.sop_instance_uid]


def test_a_record_that_dies_while_it_is_copied_is_dead_at_its_new_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
    with opened(tmp_path) as archive:
        delete(archive, 1)
        real = Compactor._copy_record
        deleted = threading.Event()

        def copy_and_delete(self: Compactor, copy: object, record: object) -> object:
            position = real(self, copy, record)  # type: ignore[arg-type]
            if not deleted.is_set():
                deleted.set()
                delete(archive, 2)
            return position

        monkeypatch.setattr(Compactor, "_copy_record", copy_and_delete)
        compact(archive, everything=True)
        assert contents(archive) == expected(3, 4)
        assert findings(archive) == []
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert contents(archive) == expected(3, 4)


def test_a_segment_in_which_something_came_alive_again_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 3))
    with opened(tmp_path) as archive:
        delete(archive, 1)
        before = segments(archive)
        real = archive.parts.index.alive
        asked: list[int] = []

        def alive(segment_id: int, records: list[object]) -> list[bool]:
            asked.append(segment_id)
            flags = real(segment_id, records)  # type: ignore[arg-type]
            return [True] * len(flags) if asked.count(segment_id) > 1 else flags

        monkeypatch.setattr(archive.parts.index, "alive", alive)
        assert compact(archive).segments_removed == 0
        assert set(before) <= set(segments(archive))
        monkeypatch.undo()
        assert contents(archive) == expected(2)


def test_one_process_compacts_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 3))
        compactor = Compactor(archive, OPTIONS, segment_bytes=SEGMENT_BYTES)
        with locks.caretaker(archive.parts.layout, archive.parts.files), pytest.raises(ArchiveInUse):
            compactor.step()
        assert not compactor.step()


def test_bytes_are_copied_at_the_rate_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
    with opened(tmp_path) as archive:
        delete(archive, 1, 2)
        waited: list[float] = []
        stopping = threading.Event()
        monkeypatch.setattr(stopping, "wait", lambda seconds: waited.append(seconds) or False)
        compactor = Compactor(archive, Compaction(bytes_per_s=1000), segment_bytes=SEGMENT_BYTES, stopping=stopping)
        totals = compactor.run()
        assert contents(archive) == expected(3, 4)
        # Nothing is really waited for, so each wait is as long as all that is due by then.
        assert max(waited) == pytest.approx(totals.bytes_copied / 1000 - 1.0, abs=1.5)


def test_who_is_told_to_stop_throws_the_copy_away(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
    with opened(tmp_path) as archive:
        delete(archive, 1, 2)
        before = segments(archive)
        stopping = threading.Event()
        stopping.set()
        totals = Compactor(archive, OPTIONS, segment_bytes=SEGMENT_BYTES, stopping=stopping).run()
        assert (totals.segments_removed, totals.segments_written) == (0, 0)
        assert segments(archive) == before
        assert contents(archive) == expected(3, 4)


# Damage and trouble ------------------------------------------------------------------------------


def test_a_segment_with_a_record_that_does_not_verify_is_left_alone_and_reported(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 7))
    with opened(tmp_path) as archive:
        delete(archive, 1, 2, 3)
        (bad,) = archive.instances(instance_query(4, 1, 0))
        path = Path(segment_path(archive.parts.layout.segments, bad.position.segment_id))
        data = bytearray(path.read_bytes())
        data[bad.position.payload_offset + 100] ^= 1
        path.write_bytes(data)
        archive.parts.reader.close()
        compactor = Compactor(archive, OPTIONS, segment_bytes=SEGMENT_BYTES)
        totals = compactor.run()
        assert totals.left_alone == 1
        assert totals.segments_removed >= 3
        assert bad.position.segment_id in segments(archive)
        (row,) = archive.parts.index.damage()
        assert (row.segment_id, row.offset) == bad.position[:2]
        assert row.sop_instance_uid == bad.sop_instance_uid.encode()
        assert not compactor.step()
        healthy = {
            one.sop_instance_uid: archive.read(one)
            for one in all_instances(archive)
            if one.sop_instance_uid != bad.sop_instance_uid
        }
        assert healthy == {name: data for name, data in expected(4, 5, 6).items() if name != bad.sop_instance_uid}
        # Once the damaged record is dead its segment goes as any other.
        delete(archive, 4, 5, 6)
        store(archive, instance(9, 1))
    with opened(tmp_path) as archive:
        compact(archive, everything=True)
        assert bad.position.segment_id not in segments(archive)
        assert archive.parts.index.damage() == []
        assert findings(archive) == []


def test_a_damaged_footer_leaves_a_segment_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
    with opened(tmp_path) as archive:
        delete(archive, 1, 2)
        first = segments(archive)[0]
        path = Path(segment_path(archive.parts.layout.segments, first))
        data = bytearray(path.read_bytes())
        data[-200] ^= 1
        path.write_bytes(data)
        assert compact(archive).left_alone == 1
        assert first in segments(archive)
        assert contents(archive) == expected(3, 4)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("method", ["open", "pread"])
def test_a_small_segment_that_cannot_be_looked_at_is_left_alone_and_the_others_are_joined(
    tmp_path: Path, method: str, number: int
) -> None:
    class BadSector(FaultyFiles):
        """One segment's trailer, or name, lies on it."""

        path = ""
        bad: ClassVar[set[int]] = set()

        def open(self, path: str, flags: int, mode: int = 0o640) -> int:
            if path != self.path:
                return super().open(path, flags, mode)
            if method == "open":
                raise OSError(number, os.strerror(number))
            fd = super().open(path, flags, mode)
            self.bad.add(fd)
            return fd

        def pread(self, fd: int, length: int, offset: int) -> bytes:
            if fd in self.bad and offset:
                raise OSError(number, os.strerror(number))
            return super().pread(fd, length, offset)

        def close(self, fd: int) -> None:
            self.bad.discard(fd)
            super().close(fd)

    for study in range(1, 5):
        with opened(tmp_path) as archive:
            store(archive, payload_of(study, 1, 0))
    files = BadSector()
    with opened(tmp_path, files=files) as archive:
        store(archive, payload_of(9, 1, 0))
        first = segments(archive)[0]
        archive.parts.reader.close()
        files.path = segment_path(archive.parts.layout.segments, first)
        totals = compact(archive, options=Compaction(bytes_per_s=0, small_segments_min=2))
        files.path = ""
        assert (totals.left_alone, totals.records_copied) == (1, 2)
        assert first in segments(archive)
        assert [row.segment_id for row in archive.parts.index.damage()] == [first]
        assert len(contents(archive)) == 5


def _dead_but_needed(archive: Archive, numbers: range) -> None:
    """Each UID stored, sent with other bytes under keep-first, then under replace.

    The first record is dead, and without it the version that was kept aside would have been replaced.
    """
    for word, policy in (("first", "keep-first"), ("kept aside", "keep-first"), ("last", "replace")):
        for number in numbers:
            again = payload_of(1, 1, number, StudyDescription=word, pixels=pixels(1, number))
            store(archive, again, segment_bytes=SEGMENT_BYTES, policy=policy)


def _versions(archive: Archive, numbers: range) -> list[tuple[int, bytes]]:
    return [
        (version.stamp, archive.read(version))
        for number in numbers
        for version in archive.parts.index.versions(uid(1, 1, number).encode())
    ]


@pytest.mark.parametrize("everything", [False, True])
def test_what_is_dead_and_must_stay_is_not_copied_again_and_again(tmp_path: Path, everything: bool) -> None:
    numbers = range(40)
    with opened(tmp_path) as archive:
        _dead_but_needed(archive, numbers)
    with opened(tmp_path) as archive:
        delete_numbers = range(0, 40, 7)
        for number in delete_numbers:
            archive.delete(instance_query(1, 1, number), actor=actor(), reason="")
        before = _versions(archive, numbers)
        compactor = Compactor(archive, OPTIONS, segment_bytes=SEGMENT_BYTES, everything=everything)
        steps = 0
        while compactor.step():
            steps += 1
            assert steps < 50, "it does not end"
        assert compactor.totals.records_copied <= 3 * len(numbers)
        assert _versions(archive, numbers) == before
        # A process that comes later has nothing to copy either.
        again = compact(archive, everything=everything)
        assert (again.records_copied, again.segments_written) == (0, 0)
    with opened(tmp_path) as archive:
        again = compact(archive, everything=everything)
        assert again.records_copied <= SEGMENT_BYTES // PIXELS  # of the segment that was the newest
        assert compact(archive, everything=everything).records_copied == 0
        assert _versions(archive, numbers) == before
        assert findings(archive) == []


@pytest.mark.parametrize("method", ["create", "allocate", "pwritev"])
def test_without_room_for_a_copy_nothing_changes(tmp_path: Path, method: str) -> None:
    files = FaultyFiles()
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
        delete(archive, 1, 2)
    with opened(tmp_path, files=files) as archive:
        before = segments(archive)
        files.fail(method, 28, repeat=True)
        with pytest.raises(StorageFull):
            compact(archive)
        files.heal()
        assert segments(archive) == before
        assert contents(archive) == expected(3, 4)
        compact(archive)
        assert findings(archive) == []


def test_an_io_error_ends_the_copy_and_loses_nothing(tmp_path: Path) -> None:
    files = FaultyFiles()
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
        delete(archive, 1, 2)
    with opened(tmp_path, files=files) as archive:
        files.fail("pwritev", 5, at=3)
        with pytest.raises(StorageFailed):
            compact(archive)
        assert contents(archive) == expected(3, 4)
    with opened(tmp_path) as archive:
        compact(archive)
        assert contents(archive) == expected(3, 4)
        assert findings(archive) == []


def test_without_a_checkpoint_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "CHECKPOINT_PATIENCE_S", 0.0)
    with opened(tmp_path) as archive:
        fill(archive, range(1, 5))
        delete(archive, 1, 2)
    with opened(tmp_path) as archive:
        before = segments(archive)
        assert archive.parts.keeper is not None
        monkeypatch.setattr(archive.parts.keeper, "checkpoint", lambda: None)
        archive.parts.keeper._stop.set()
        compact(archive)
        assert set(before) <= set(segments(archive))
        assert contents(archive) == expected(3, 4)
        monkeypatch.undo()
        compact(archive)
        assert not set(before[:-1]) & set(segments(archive))
        assert contents(archive) == expected(3, 4)
        assert findings(archive) == []


# Killed at every call ----------------------------------------------------------------------------


class KilledAt(FaultyFiles):
    """Ends the process at the n-th call that changes something, before it or after it."""

    CHANGING = ("create", "pwritev", "fdatasync", "sync_directory", "unlink", "truncate", "allocate", "rename")
    __slots__ = ("changing", "kill_at")

    def __init__(self, kill_at: int) -> None:
        super().__init__()
        self.kill_at = kill_at
        self.changing = 0
        self.before = self._count

    def _count(self, method: str) -> None:
        if method in self.CHANGING and threading.current_thread() is threading.main_thread():
            self.changing += 1
            if self.changing == self.kill_at:
                os._exit(9)


def compact_in_child(data: Path, kill_at: int) -> tuple[int, int]:
    """Exit code of a child that compacts, 9 when it was killed, and how many calls it made if it was not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            archive = opened(data)
            # Opening is not what is looked at here.
            files = KilledAt(kill_at)
            archive.parts.files = files
            archive.parts.reader._files = files
            compact(archive, everything=True)
            os.write(write, str(files.changing).encode())
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        calls = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), int(calls or 0)


@pytest.fixture(scope="module")
def half_deleted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("half") / "d"
    with opened(data) as archive:
        fill(archive, range(1, 5), range(4))
        fill(archive, range(5, 6), range(14))
        store(archive, payload_of(2, 1, 1, pixels=bytes(PIXELS)))
        archive.set_holds([uid(2)], actor=actor(""), reason="")
        archive.ingest_stream(iter([instance(6, 1)]), transfer_syntax_uid=EXPLICIT)
        archive.ingest_stream(iter([instance(7, 1)]), transfer_syntax_uid=EXPLICIT)
        delete(archive, 1, 3, 5, 6)
    yield data


def test_a_kill_at_any_call_loses_nothing_and_the_next_pass_ends_what_it_began(
    tmp_path: Path, half_deleted: Path
) -> None:
    wanted = {**expected(2, 4, numbers=range(4)), **expected(7, numbers=range(1, 2))}
    copy = tmp_path / "whole"
    shutil.copytree(half_deleted, copy)
    code, calls = compact_in_child(copy, 0)
    assert code == 0
    assert calls > 20
    end_state = sorted(path.stat().st_size for path in (copy / "segments").glob("*.seg"))
    for kill_at in range(1, calls + 1, EVERY):
        data = tmp_path / f"killed at {kill_at}"
        shutil.copytree(half_deleted, data)
        assert compact_in_child(data, kill_at) == (9, 0), kill_at
        with opened(data) as archive:
            assert contents(archive) == wanted, kill_at
            assert findings(archive) == [], kill_at
            assert len(list(archive.parts.index.kept_versions())) == 1, kill_at
            assert archive.parts.index.is_held(uid(2).encode()), kill_at
            compact(archive, everything=True)
            assert contents(archive) == wanted, kill_at
            assert findings(archive) == [], kill_at
            assert set(archive.parts.index.segment_marks()) == set(segments(archive)), kill_at
        assert sum(path.stat().st_size for path in (data / "segments").glob("*.seg")) <= sum(end_state) + 16384, kill_at
        Archive.rebuild_index(data)
        with opened(data) as archive:
            assert contents(archive) == wanted, f"{kill_at}, after a rebuild"
            assert findings(archive) == []
        shutil.rmtree(data)
