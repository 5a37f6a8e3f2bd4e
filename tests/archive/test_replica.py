"""archive.copies.replica, replication, replica_link, readonly: a second copy that follows, is read, and takes over."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from engine.archive import layout as layouts
from engine.archive.archive import Archive, StorageOptions
from engine.archive.copies import extent, replication
from engine.archive.copies.backup import back_up
from engine.archive.copies.replica import Destination, Held, Replica, Shipped, promote, read_status
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.copies.restore import restore
from engine.archive.layout import Layout
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.dimse.status import Service, status_of
from engine.errors import ArchiveInUse, ArchiveReadOnly, EngineError, ReplicationFailed, StorageError
from engine.index.format.types import Level
from engine.storage.files import Files
from engine.storage.record import Kind, crc32c
from engine.storage.segment import FIRST_RECORD, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_log import SegmentLog
from tests import effort
from tests.actors import actor
from tests.archive.filled import (
    contents,
    findings,
    opened,
    received,
    store,
    study_query,
)
from tests.archive.replicas import replicating, some
from tests.faulty_files import FaultyFiles, PowerCut, SimulatedDisk

SEED = int(os.environ.get("FILMROOM_REPLICA_SEED", "20260102"))
EVERY = effort.amount("REPLICA_EVERY", 3, 1)
"""Of the calls before which a replication is killed, every n-th is tried; 1 for the long run."""

STATES = int(os.environ.get("FILMROOM_REPLICA_STATES", "60"))
"""Power cuts of the replica's disk that are tried."""


def replicated(layout: Layout, target: Path) -> None:
    one = replicating(layout, target)
    assert one.run_once()
    one.close()


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Name → size, time of the last change, content, of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Killed(BaseException):
    """This process is no more."""


# How far a segment can be copied -----------------------------------------------------------------


@contextmanager
def a_log(tmp_path: Path, **options: int) -> Iterator[SegmentLog]:
    (tmp_path / "segments").mkdir()
    log = SegmentLog(str(tmp_path / "segments"), Files(), bytes(16), writer="test", **options)  # type: ignore[arg-type]
    yield log
    log.close()


def append(log: SegmentLog, payload: bytes) -> int:
    position = log.append(Kind.INSTANCE, 0, 1, b"1.2", b"meta", [payload], len(payload), crc32c(payload))
    return position.end


def looked(tmp_path: Path, known: int = 0) -> extent.Extent | None:
    fd = os.open(segment_path(str(tmp_path / "segments"), 0), os.O_RDONLY)
    try:
        return extent.look(FileBytes(Files(), fd), 0, lambda salt: known)
    finally:
        os.close(fd)


def test_the_extent_ends_at_the_last_whole_record_and_never_inside_one(tmp_path: Path) -> None:
    with a_log(tmp_path, segment_bytes=1 << 20) as log:
        first = append(log, b"a" * 5000)
        second = append(log, b"b" * 70_000)
        found = looked(tmp_path)
        assert found is not None and (found.end, found.is_sealed) == (second, False)
        assert looked(tmp_path, first) == looked(tmp_path, second) == found
        path = Path(segment_path(str(tmp_path / "segments"), 0))
        whole = path.read_bytes()
        for cut in (second - 100, second - 69_000, first + 100, first + 10, first + 1):
            path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
            torn = looked(tmp_path)
            assert torn is not None and torn.end == first, f"cut at {cut}"
        path.write_bytes(whole)


def test_damage_between_records_is_walked_over(tmp_path: Path) -> None:
    with a_log(tmp_path, segment_bytes=1 << 20) as log:
        first = append(log, b"a" * 5000)
        append(log, b"b" * 5000)
        third = append(log, b"c" * 5000)
        path = Path(segment_path(str(tmp_path / "segments"), 0))
        whole = path.read_bytes()
        path.write_bytes(whole[: first + 8] + b"\xff" + whole[first + 9 :])
        found = looked(tmp_path)
        assert found is not None and found.end == third
        path.write_bytes(whole)


def test_a_segment_without_records_or_without_a_header_has_nothing_to_copy(tmp_path: Path) -> None:
    with a_log(tmp_path, segment_bytes=1 << 20) as log:
        log.prepare()
        found = looked(tmp_path)
        assert found is not None and found.is_empty and found.end == FIRST_RECORD
        path = Path(segment_path(str(tmp_path / "segments"), 0))
        path.write_bytes(bytes(8192))
        assert looked(tmp_path) is None


# Following ---------------------------------------------------------------------------------------


def test_a_replica_follows_its_source_and_can_be_read_all_the_time(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=200_000)
        one = replicating(archive.parts.layout, tmp_path / "replica")
        assert one.run_once()
        with opened(tmp_path / "replica") as reader:
            assert contents(reader) == contents(archive)
            for study in range(2, 8):
                store(archive, *some(study, 3))
                assert one.run_once()
                assert reader.parts.keeper is not None
                reader.parts.keeper.follow()
                assert contents(reader) == contents(archive)
                assert findings(reader) == []
            archive.delete(study_query(3), actor=actor(), reason="wrong patient")
            one.run_once()
            reader.parts.keeper.follow()
            assert contents(reader) == contents(archive)
            assert reader.instances(study_query(3)) == []
        one.close()


def test_it_follows_by_itself_while_it_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        replicated(archive.parts.layout, tmp_path / "replica")
        with opened(tmp_path / "replica") as reader:
            store(archive, *some(2, 1))
            replicated(archive.parts.layout, tmp_path / "replica")
            wait = threading.Event().wait
            for _ in range(500):
                if contents(reader) == contents(archive):
                    break
                wait(0.02)
            assert contents(reader) == contents(archive)


def test_a_pass_without_news_reads_next_to_nothing_and_writes_no_segment(tmp_path: Path) -> None:
    files = FaultyFiles()
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 6), segment_bytes=200_000)
        one = Replication(
            archive.parts.layout,
            lambda: Replica(tmp_path / "replica", archive.parts.layout.archive_id, "", files),
            Status("there"),
            files=files,
        )
        one.run_once()
        before = snapshot(tmp_path / "replica" / "segments")
        one.run_once()
        files.calls.clear()
        one.run_once()
        segments = len(list((tmp_path / "data" / "segments").iterdir()))
        assert files.calls["pread"] <= 1 + 4 * segments
        assert files.calls["fdatasync"] == 0
        assert snapshot(tmp_path / "replica" / "segments") == before
        one.close()


def test_what_is_not_durable_at_the_source_is_made_so_before_it_is_shipped(tmp_path: Path) -> None:
    done: list[tuple[str, str]] = []

    class Recording(Files):
        __slots__ = ()

        def fdatasync(self, fd: int) -> None:
            done.append(("synced", os.readlink(f"/proc/self/fd/{fd}")))
            super().fdatasync(fd)

        def pwritev(self, fd: int, buffers: Sequence[bytes], offset: int, length: int = -1) -> None:  # type: ignore[override]
            done.append(("written", os.readlink(f"/proc/self/fd/{fd}")))
            super().pwritev(fd, buffers, offset, length)

    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        one = Replication(
            archive.parts.layout,
            lambda: Replica(tmp_path / "replica", archive.parts.layout.archive_id, "", Recording()),
            Status("there"),
            files=Recording(),
        )
        one.run_once()
        one.close()
    (name,) = (path.name for path in (tmp_path / "replica" / "segments").iterdir())
    source = done.index(("synced", str(tmp_path / "data" / "segments" / name)))
    target = done.index(("written", str(tmp_path / "replica" / "segments" / name)))
    durable = done.index(("synced", str(tmp_path / "replica" / "segments" / name)))
    counted = done.index(("written", str(tmp_path / "replica" / "replica.journal")))
    assert source < target < durable < counted


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PIECE_BYTES", 20 << 10)
    monkeypatch.setattr(replication, "COMMIT_BYTES", 40 << 10)


@pytest.mark.usefixtures("small_pieces")
def test_killed_at_any_call_it_catches_up(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        expected = contents(archive)
        number = 1 - EVERY
        killed = True
        while killed:
            number += EVERY
            target = tmp_path / "replica"
            shutil.rmtree(target, ignore_errors=True)
            killed = _killed_at(archive.parts.layout, target, number)
            replicated(archive.parts.layout, target)
            if number % 9 == 1 or not killed:
                with opened(target) as reader:
                    assert contents(reader) == expected, f"call {number}"
                    assert findings(reader) == [], f"call {number}"
            for copy in (target / "segments").iterdir():
                content = copy.read_bytes()
                source = (tmp_path / "data" / "segments" / copy.name).read_bytes()
                assert source[: len(content)] == content, f"call {number}"
        assert number > 30


def _killed_at(layout: Layout, target: Path, number: int) -> bool:
    files = FaultyFiles()
    calls = 0

    def before(method: str) -> None:
        nonlocal calls
        calls += 1
        # What a dead process does not do; but its files are closed for it, and its locks given up.
        if calls >= number and method != "close":
            raise Killed

    files.before = before
    one = replicating(layout, target, files=files)
    try:
        one.run_once()
    except Killed:
        return True
    finally:
        one.close()
    return False


@pytest.mark.usefixtures("small_pieces")
def test_a_disk_there_that_does_not_sync_loses_what_was_counted(tmp_path: Path) -> None:
    """The control: without its syncs the test after this one must find losses."""
    rng = random.Random(SEED)
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        layout, target = archive.parts.layout, Path("/there/replica")
        losses = 0
        for _ in range(20):
            disk = SimulatedDisk()
            disk.make_directory("/there")
            disk.sync_directory("/")
            disk.loses_syncs = True
            one = replicating(layout, target, files=disk)
            one.run_once()
            after = disk.after_power_cut(rng.randrange(1 << 30))
            try:
                held = Replica(target, layout.archive_id, "", after).held()
            except EngineError:
                held = {}
            losses += any(held.get(segment_id, Held(0, 0, False)) < item for segment_id, item in one._held.items())
        assert losses


@pytest.mark.usefixtures("small_pieces")
def test_a_power_cut_there_costs_nothing_that_was_counted_as_replicated(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        layout, target = archive.parts.layout, Path("/there/replica")
        first = SimulatedDisk()
        first.make_directory("/there")
        first.sync_directory("/")
        replicating(layout, target, files=first).run_once()
        store(archive, *some(2, 3))
        whole = first.after_power_cut(0)
        replicating(layout, target, files=whole).run_once()
        for state in range(STATES):
            where = f"FILMROOM_REPLICA_SEED={SEED} state {state}"
            disk = first.after_power_cut(rng.randrange(1 << 30))
            disk.cut_at = rng.randint(1, whole.calls)
            counted: dict[int, Held] = {}
            one = replicating(layout, target, connect=lambda disk=disk: Replica(target, layout.archive_id, "", disk))  # type: ignore[misc]
            with suppress(PowerCut):
                one.run_once()
            counted = dict(one._held)
            after = disk.after_power_cut(rng.randrange(1 << 30))
            again = Replica(target, layout.archive_id, "", after)
            held = again.held()
            for segment_id, item in counted.items():
                assert held[segment_id].length >= item.length, where
            for segment_id, item in held.items():
                copy = after.content(segment_path(again.layout.segments, segment_id))[: item.length]
                assert Path(segment_path(layout.segments, segment_id)).read_bytes()[: item.length] == copy, where
            again.close()
            replicating(layout, target, files=after).run_once()
            for path in (tmp_path / "data" / "segments").iterdir():
                name = str(target / "segments" / path.name)
                if after.exists(name):
                    copy = after.content(name)
                    assert path.read_bytes()[: len(copy)] == copy, where


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("method", ["create", "pwritev", "fdatasync", "sync_directory", "rename"])
def test_an_error_at_any_call_there_makes_it_wait_and_loses_nothing(tmp_path: Path, method: str) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        number = 0
        while True:
            number += 1
            target = tmp_path / f"replica{number}"
            files = FaultyFiles()
            files.fail(method, errno.EIO, at=number)
            one = replicating(archive.parts.layout, target, files=files)
            failed = False
            while True:
                try:
                    if one.run_once():
                        break
                except (EngineError, OSError):
                    failed = True
                    one.close()
            one.close()
            if not failed:
                assert files.calls[method] < number, f"call {number} was swallowed"
                break
            with opened(target) as reader:
                assert contents(reader) == contents(archive), f"call {number}"
            shutil.rmtree(target)
        assert number > 1


def test_while_the_destination_is_gone_it_waits_shows_its_lag_and_makes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "PAUSE_S", (0.01, 0.02))
    seen: list[dict[str, object]] = []
    stop = threading.Event()
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        layout = archive.parts.layout
        opened_once: list[bool] = []

        def connect() -> Destination:
            found = Replica(tmp_path / "replica", layout.archive_id, "", create=not opened_once)
            opened_once.append(True)
            return found

        def on_status(status: Status) -> None:
            seen.append(status.describe(status.updated_s))
            states = [told["state"] for told in seen]
            if states.count("caught up") == 1 and "waiting" not in states:
                (tmp_path / "replica").rename(tmp_path / "unplugged")
                store(archive, *some(2, 2))
                one.close()
            elif seen[-1]["state"] == "waiting" and states.count("waiting") == 3:
                assert not (tmp_path / "replica").exists()
                (tmp_path / "unplugged").rename(tmp_path / "replica")
            elif seen[-1]["state"] == "caught up" and "waiting" in states:
                stop.set()

        one = Replication(
            layout, connect, Status("there"), on_status=on_status, status_path=str(tmp_path / "data" / "status.json")
        )
        one.run(stop, 0.01)
        waiting = next(told for told in seen if told["state"] == "waiting")
        assert "gone" in str(waiting["error"]) and waiting["lag_bytes"] > 100_000  # type: ignore[operator]
        assert seen[-1]["lag_bytes"] == 0 and seen[-1]["error"] == ""
        status = read_status(str(tmp_path / "data" / "status.json"))
        assert status is not None and status["state"] == "caught up"
        with opened(tmp_path / "replica") as reader:
            assert contents(reader) == contents(archive)


@pytest.mark.usefixtures("small_pieces")
def test_a_compacted_segment_goes_there_only_after_all_that_took_its_place_has_come(tmp_path: Path) -> None:
    steps: list[tuple[str, set[str]]] = []
    target = tmp_path / "replica"

    class Watching(Replica):
        def commit(self, shipped: Sequence[Shipped]) -> None:
            super().commit(shipped)
            steps.append(("commit", {f"{item.segment_id:016x}.seg" for item in shipped if item.is_sealed}))

        def remove(self, segment_ids: Sequence[int]) -> None:
            steps.append(("remove", {f"{segment_id:016x}.seg" for segment_id in segment_ids}))
            super().remove(segment_ids)

    with opened(tmp_path / "data") as archive:
        for study in range(1, 11):
            store(archive, *some(study, 3), segment_bytes=400_000)
        layout = archive.parts.layout
        one = replicating(layout, target, connect=lambda: Watching(target, layout.archive_id, ""))
        one.run_once()
        with opened(target) as reader:
            archive.delete_instances(
                [archive.instances(study_query(study))[0] for study in range(1, 5)],
                level=Level.IMAGE,
                actor=actor("t"),
                reason="r",
            )
            before = {path.name for path in (tmp_path / "data" / "segments").iterdir()}
            totals = Compactor(archive, Compaction(), segment_bytes=400_000, everything=True).run()
            assert totals.segments_removed
            after = {path.name for path in (tmp_path / "data" / "segments").iterdir()}
            steps.clear()
            while not one.run_once():
                continue
            removed = [names for what, names in steps if what == "remove"]
            assert set().union(*removed) == before - after
            first = next(number for number, (what, _) in enumerate(steps) if what == "remove")
            committed = set().union(*(names for what, names in steps[:first] if what == "commit"))
            assert {name for name in after - before if _is_sealed(tmp_path / "data" / "segments" / name)} <= committed
            assert {path.name for path in (target / "segments").iterdir()} <= after
            assert reader.parts.keeper is not None
            reader.parts.keeper.follow()
            assert contents(reader) == contents(archive)
            assert findings(reader) == []
        one.close()
    with opened(target) as reader:
        assert findings(reader) == []


def _is_sealed(path: Path) -> bool:
    return path.read_bytes()[-128:].startswith(b"FILMSEAL")


def test_a_removed_segment_stays_there_for_a_while_for_those_who_read(tmp_path: Path) -> None:
    now = 1000.0
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        layout = archive.parts.layout
        one = Replication(
            layout,
            lambda: Replica(tmp_path / "replica", layout.archive_id, ""),
            Status("there"),
            remove_after_s=60.0,
            clock_s=lambda: now,
        )
        one.run_once()
        (tmp_path / "data" / "segments" / f"{0:016x}.seg").unlink()
        copy = tmp_path / "replica" / "segments" / f"{0:016x}.seg"
        one.run_once()
        now += 59
        one.run_once()
        assert copy.exists()
        now += 1
        one.run_once()
        assert not copy.exists()
        one.close()


def test_an_empty_mount_point_in_place_of_the_source_removes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3))
        layout = archive.parts.layout
    one = replicating(layout, tmp_path / "replica")
    one.run_once()
    before = snapshot(tmp_path / "replica" / "segments")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    with pytest.raises(StorageError, match="no archive"):
        one.run_once()
    shutil.copy(tmp_path / "elsewhere" / "archive.json", tmp_path / "data")
    (tmp_path / "data" / "segments").mkdir()
    one.run_once()
    one.close()
    assert snapshot(tmp_path / "replica" / "segments") == before


# Other histories ---------------------------------------------------------------------------------


def test_a_source_with_another_history_is_refused_and_nothing_is_lost_there(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
        back_up(archive.parts.layout, tmp_path / "backup")
        store(archive, *some(2, 2))
        replicated(archive.parts.layout, tmp_path / "replica")
        expected = contents(archive)
    before = snapshot(tmp_path / "replica" / "segments")
    restore(tmp_path / "backup", tmp_path / "restored")
    with pytest.raises(ReplicationFailed, match="another history") as caught:
        replicated(layouts.existing(tmp_path / "restored"), tmp_path / "replica")
    assert caught.value.is_final
    # The same without the lineage to tell: the segments themselves do.
    restored = layouts.existing(tmp_path / "restored")
    layouts.describe(Layout(restored.data, restored.archive_id), Files())
    with pytest.raises(ReplicationFailed, match="gone another way") as caught:
        replicated(layouts.existing(tmp_path / "restored"), tmp_path / "replica")
    assert caught.value.is_final
    assert snapshot(tmp_path / "replica" / "segments") == before
    with opened(tmp_path / "replica") as reader:
        assert contents(reader) == expected


def test_other_bytes_at_the_join_are_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        replicated(archive.parts.layout, tmp_path / "replica")
        store(archive, *some(2, 1))
        (copy,) = (tmp_path / "replica" / "segments").iterdir()
        content = bytearray(copy.read_bytes())
        content[-100] ^= 1
        copy.write_bytes(content)
        with pytest.raises(ReplicationFailed, match="other bytes"):
            replicated(archive.parts.layout, tmp_path / "replica")


def test_a_segment_number_that_comes_again_replaces_the_old_one(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        layout = archive.parts.layout
    replicated(layout, tmp_path / "replica")
    shutil.rmtree(tmp_path / "data" / "segments")
    shutil.rmtree(tmp_path / "data" / "index")
    (tmp_path / "data" / "segments").mkdir()
    (tmp_path / "data" / "index").mkdir()
    with opened(tmp_path / "data") as archive:
        store(archive, *some(2, 1))
    replicated(layout, tmp_path / "replica")
    for path in (tmp_path / "data" / "segments").iterdir():
        assert (tmp_path / "replica" / "segments" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_that_is_no_replica_of_this_archive_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive, opened(tmp_path / "other") as other:
        replicated(other.parts.layout, tmp_path / "taken")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("mine")
        for where, why in (
            (tmp_path / "taken", "another archive"),
            (tmp_path / "other", "archive of its own"),
            (tmp_path / "full", "not empty"),
            (tmp_path / "no" / "mount", "does not exist"),
        ):
            with pytest.raises(ReplicationFailed, match=why):
                Replica(where, archive.parts.layout.archive_id, "")
        with pytest.raises(ReplicationFailed, match="is gone"):
            Replica(tmp_path / "new", archive.parts.layout.archive_id, "", create=False)
        one = Replica(tmp_path / "new", archive.parts.layout.archive_id, "")
        with pytest.raises(ArchiveInUse, match="a replication is writing"):
            Replica(tmp_path / "new", archive.parts.layout.archive_id, "")
        one.close()


@pytest.mark.parametrize("offset", [0, 5, 20, 100])
def test_a_segment_grows_at_its_end_only(tmp_path: Path, offset: int) -> None:
    one = Replica(tmp_path / "replica", bytes(16), "")
    one.write(7, 1, 0, b"0123456789")
    one.commit([Shipped(7, 1, 10, False)])
    one.write(7, 1, 10, b"abcde")
    with pytest.raises(ReplicationFailed, match="ends at 15"):
        one.write(7, 1, offset, b"x")
    with pytest.raises(ReplicationFailed, match="another one"):
        one.write(7, 2, 15, b"x")
    one.write(7, 1, 10, b"ABCDE")  # after a lost connection, from what was committed on
    one.sync([Shipped(7, 1, 15, False)])
    one.write(7, 1, 15, b"FGHIJ")
    one.write(7, 1, 15, b"fghij")  # after a failure of the source, from what was synced on
    one.write(7, 1, 10, b"ABCDE")
    with pytest.raises(ReplicationFailed, match="not come whole"):
        one.commit([Shipped(7, 1, 16, True)])
    one.commit([Shipped(7, 1, 15, True)])
    with pytest.raises(ReplicationFailed, match="whole here already"):
        one.write(7, 1, 15, b"x")
    assert one.held() == {7: Held(1, 15, True, crc32c(b"0123456789ABCDE"))}
    one.close()


# Read only ---------------------------------------------------------------------------------------


def test_a_replica_takes_no_instance_no_deletion_and_no_compaction(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
        replicated(archive.parts.layout, tmp_path / "replica")
    with opened(tmp_path / "replica") as reader:
        before = snapshot(tmp_path / "replica" / "segments")
        assert reader.is_read_only
        for payload in (some(1, 1)[0], some(2, 1)[0]):
            with pytest.raises(ArchiveReadOnly, match="is a replica") as caught:
                reader.ingest_batch([received(payload)])
        assert status_of(caught.value, Service.STORE) == 0x0124
        chunks = iter([some(3, 1)[0]])
        with pytest.raises(ArchiveReadOnly):
            reader.ingest_stream(chunks, transfer_syntax_uid="1.2.840.10008.1.2.1")
        with pytest.raises(ArchiveReadOnly):
            reader.delete(study_query(1), actor=actor(), reason="no")
        with pytest.raises(ArchiveReadOnly):
            reader.set_holds(["1.2.3"], actor=actor(), reason="no")
        with pytest.raises(ArchiveReadOnly):
            Compactor(reader, Compaction(), segment_bytes=1 << 20)
        assert len(contents(reader)) == 2
    assert snapshot(tmp_path / "replica" / "segments") == before


def test_a_reader_leaves_a_torn_and_unsealed_log_as_it_is(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
        replicated(archive.parts.layout, tmp_path / "replica")
        expected = contents(archive)
    (copy,) = (tmp_path / "replica" / "segments").iterdir()
    with copy.open("ab") as file:
        file.write(b"FRec" + bytes(500))  # the beginning of what comes next
    before = snapshot(tmp_path / "replica" / "segments")
    with opened(tmp_path / "replica") as reader:
        reader.recover_dead_writers()
        assert contents(reader) == expected
        assert findings(reader) == []
    report = Archive.rebuild_index(tmp_path / "replica")
    assert report.records == 2
    with opened(tmp_path / "replica") as reader:
        assert contents(reader) == expected
    assert snapshot(tmp_path / "replica" / "segments") == before


@pytest.mark.parametrize("stop", ["clean", "killed", "no index"])
def test_where_nothing_can_be_written_an_archive_is_read_as_it_lies(tmp_path: Path, stop: str) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2), *some(2, 1))
        archive.delete(study_query(2), actor=actor(), reason="wrong patient")
        expected = contents(archive)
        if stop == "killed":
            # A checkpoint may be on its way, under a name of its own until it is whole.
            shutil.copytree(tmp_path / "data", tmp_path / "medium", ignore=shutil.ignore_patterns("checkpoint.*"))
    if stop != "killed":
        shutil.copytree(tmp_path / "data", tmp_path / "medium")
    if stop == "no index":
        shutil.rmtree(tmp_path / "medium" / "index")
    before = snapshot(tmp_path / "medium")
    before.pop("index/lock.mdb", None)  # LMDB keeps its readers there, where it can be written
    with Archive.open(tmp_path / "medium", role="reader") as reader:
        assert contents(reader) == expected
        assert findings(reader) == []
        assert reader.stats()["instances"] == 2
        with pytest.raises(ArchiveReadOnly, match="cannot be written"):
            reader.ingest_batch([received(some(3, 1)[0])])
        with pytest.raises(ArchiveReadOnly):
            reader.parts.ledger.writer()
    after = snapshot(tmp_path / "medium")
    after.pop("index/lock.mdb", None)
    assert after == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("is_live", [False, True])
def test_a_read_only_mount_is_noticed(tmp_path: Path, is_live: bool) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
        expected = contents(archive)
        if is_live:
            with mounted_read_only(tmp_path / "data", tmp_path / "mount"):
                read_as(expected, tmp_path / "mount", lambda: store(archive, *some(2, 2)))
    if not is_live:
        with mounted_read_only(tmp_path / "data", tmp_path / "mount"):
            read_as(expected, tmp_path / "mount", lambda: None)


def read_as(expected: dict[str, bytes], mount: Path, meanwhile: Callable[[], object]) -> None:
    with Archive.open(mount) as reader:
        assert reader.is_read_only
        assert contents(reader) == expected
        meanwhile()
        assert contents(reader) == expected  # as it was when it was opened
        assert findings(reader) == []


@contextmanager
def mounted_read_only(folder: Path, mount: Path) -> Iterator[None]:
    mount.mkdir()
    done = subprocess.run(["mount", "--bind", folder, mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no bind mount here: {done.stderr.decode()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", mount], check=True)
        yield
    finally:
        subprocess.run(["umount", mount], check=True)


# Promotion ---------------------------------------------------------------------------------------


def test_a_promoted_replica_is_an_archive_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=200_000)
        one = replicating(archive.parts.layout, tmp_path / "replica")
        one.run_once()
        store(archive, *some(2, 1))  # lost with the source: it was not shipped any more
        with pytest.raises(ArchiveInUse, match="a replication is writing"):
            promote(tmp_path / "replica")
        one.close()
        with opened(tmp_path / "replica"), pytest.raises(ArchiveInUse, match="kept by another"):
            promote(tmp_path / "replica")
        layout = promote(tmp_path / "replica")
        assert layout.lineage and layout.archive_id == archive.parts.layout.archive_id
        with pytest.raises(ReplicationFailed, match="was promoted, and continues"):
            one.run_once()
    assert all(_is_sealed(path) for path in (tmp_path / "replica" / "segments").iterdir())
    with opened(tmp_path / "replica") as promoted:
        assert not promoted.is_read_only
        store(promoted, *some(3, 2))
        assert len(contents(promoted)) == 5
        assert findings(promoted) == []
    with pytest.raises(ReplicationFailed, match="no replica"):
        promote(tmp_path / "replica")


def test_the_status_of_a_source_is_kept_beside_the_replica(tmp_path: Path) -> None:
    one = Replica(tmp_path / "replica", bytes(16), "")
    told: Mapping[str, object] = {"state": "caught up", "lag_bytes": 0}
    one.tell(told)
    one.close()
    assert read_status(str(tmp_path / "replica" / "replica.json")) == told
    (tmp_path / "replica" / "replica.json").write_bytes(b"{half")
    assert read_status(str(tmp_path / "replica" / "replica.json")) is None


def test_writers_of_a_replica_are_told_before_they_write(tmp_path: Path) -> None:
    one = Replica(tmp_path / "replica", bytes(16), "")
    one.close()
    with opened(tmp_path / "replica") as reader:
        writer = reader.writer("test", StorageOptions())
        writer.log.prepare()
        writer.log.sync()
        writer.seal_rolled()
        with pytest.raises(ArchiveReadOnly):
            writer.log.append(Kind.INSTANCE, 0, 1, b"1.2", b"", [b"x"], 1, crc32c(b"x"))
    assert list((tmp_path / "replica" / "segments").iterdir()) == []
