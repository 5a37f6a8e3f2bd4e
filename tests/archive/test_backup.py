"""engine.archive.copies.backup, backup_check and restore: complete, incremental, never half, never silently damaged."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from engine.archive import layout as layouts
from engine.archive.archive import Archive, StorageOptions
from engine.archive.copies import backup as backups
from engine.archive.copies import backup_check, histories, log_copying
from engine.archive.copies import restore as restores
from engine.archive.copies.backup import BackupReport, back_up
from engine.archive.copies.backup_check import verify_backup
from engine.archive.copies.manifest import BackupFolder
from engine.archive.copies.replica import Replica
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.copies.restore import restore
from engine.archive.ingest.entry import make_entry, scan
from engine.archive.ingest.request import POLICIES
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.dicom.schema import STANDARD
from engine.errors import ArchiveInUse, BackupError, EngineError, StorageError
from engine.index.format.types import Level
from engine.rate_limiter import RateLimiter
from engine.storage.files import Files
from engine.storage.journal import Journal
from tests import effort
from tests.actors import actor
from tests.archive.filled import contents, findings, opened, payload_of, received, store, study_query
from tests.faulty_files import FaultyFiles, PowerCut, SimulatedDisk

if TYPE_CHECKING:
    from typing_extensions import Buffer

SEED = int(os.environ.get("FILMROOM_BACKUP_SEED", "20260102"))
STATES = int(os.environ.get("FILMROOM_BACKUP_STATES", "60"))
"""Power cuts of the backup's disk that are tried."""

EVERY = effort.amount("BACKUP_EVERY", 3, 1)
"""Of the calls before which a process is killed, every n-th is tried; 1 for the long run."""

PIXELS = bytes(range(256)) * 200


def some(study: int, count: int, pixels: bytes = PIXELS) -> list[bytes]:
    return [payload_of(study, 1, number, pixels=pixels) for number in range(count)]


def restored(source: Path, data: Path, at: datetime | None = None) -> dict[str, bytes]:
    report = restore(source, data, at=at)
    assert report.findings == []
    with opened(data) as archive:
        assert findings(archive) == []
        return contents(archive)


def is_sound(folder: Path) -> None:
    report = verify_backup(folder)
    assert report.findings == []


class Killed(BaseException):
    """This process is no more."""


class CountingFiles(Files):
    """Counts the bytes that are read and written."""

    __slots__ = ("moved",)

    def __init__(self) -> None:
        self.moved = 0

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = super().pread(fd, length, offset)
        self.moved += len(data)
        return data

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        count = super().preadv(fd, buffers, offset)
        self.moved += count
        return count

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, length: int = -1) -> None:
        self.moved += sum(memoryview(buffer).nbytes for buffer in buffers)
        super().pwritev(fd, buffers, offset, length)


class RecordingFiles(Files):
    """Keeps which file was written and synced, in order."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, length: int = -1) -> None:
        self.done.append(("pwritev", os.readlink(f"/proc/self/fd/{fd}")))
        super().pwritev(fd, buffers, offset, length)

    def fdatasync(self, fd: int) -> None:
        self.done.append(("fdatasync", os.readlink(f"/proc/self/fd/{fd}")))
        super().fdatasync(fd)


# What is in it -----------------------------------------------------------------------------------


def test_a_backup_beside_an_open_archive_has_everything_acknowledged_before_it(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 5))
        expected = contents(archive)
        report = back_up(archive.parts.layout, tmp_path / "backup")
        assert report.findings == []
        store(archive, *some(2, 2))
    is_sound(tmp_path / "backup")
    assert restored(tmp_path / "backup", tmp_path / "new") == expected


def test_what_was_written_behind_and_never_synced_is_in_it(tmp_path: Path) -> None:
    with opened(tmp_path / "data", role="keeper") as archive:
        writer = archive.writer("test", StorageOptions(segment_bytes=1 << 20))
        item = received(some(1, 1)[0])
        entry = make_entry(
            scan(item.payload, item.transfer_syntax_uid, STANDARD),
            STANDARD,
            transfer_syntax_uid=item.transfer_syntax_uid,
            calling_ae_title=item.calling_ae_title,
            sop_class_uid=None,
            sop_instance_uid=None,
        )
        writer.append(entry, item.payload, item.payload_length, item.payload_crc, POLICIES["keep-first"])
        writer.apply([entry])
        assert writer.log.unsynced()
        files = RecordingFiles()
        back_up(archive.parts.layout, tmp_path / "backup", files=files)
        (source,) = (tmp_path / "data" / "segments").glob("*.seg")
        (copy,) = (tmp_path / "backup" / "segments").glob("*.seg")
        assert files.done.index(("fdatasync", str(source))) < files.done.index(("pwritev", str(copy)))
        expected = contents(archive)
    assert restored(tmp_path / "backup", tmp_path / "new") == expected


def test_a_record_that_is_being_written_is_not_in_it(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3))
        expected = contents(archive)
        # As a reader finds it while the kernel still copies: the head is there, the payload is not.
        (segment,) = (tmp_path / "data" / "segments").glob("*.seg")
        store(archive, *some(2, 1))
        (torn,) = archive.instances(study_query(2))
        with segment.open("r+b") as file:
            file.seek(torn.position.payload_offset + 1000)
            file.write(bytes(torn.position.payload_length - 1000))
        back_up(archive.parts.layout, tmp_path / "backup")
    is_sound(tmp_path / "backup")
    assert restored(tmp_path / "backup", tmp_path / "new") == expected


def test_deletions_and_holds_come_back_too(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2), *some(2, 2), *some(3, 2))
        archive.delete(study_query(2), actor=actor(), reason="wrong patient")
        held = archive.instances(study_query(3))[0].study_instance_uid
        archive.set_holds([held], actor=actor(), reason="lawsuit")
        expected = contents(archive)
        back_up(archive.parts.layout, tmp_path / "backup")
    assert restored(tmp_path / "backup", tmp_path / "new") == expected
    with opened(tmp_path / "new") as archive:
        assert archive.parts.index.is_held(held.encode())
        assert archive.instances(study_query(2)) == []


def test_streamed_objects_are_in_it_once_they_are_whole(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        payload = payload_of(1, 1, 1, pixels=PIXELS * 4)

        def chunks(until: int, then: Callable[[], object]):  # type: ignore[no-untyped-def]
            yield payload[:20_000]
            yield payload[20_000:until]
            then()
            yield payload[until:]

        def meanwhile() -> None:
            assert back_up(archive.parts.layout, tmp_path / "backup").segments == 0

        archive.ingest_stream(chunks(100_000, meanwhile), transfer_syntax_uid="1.2.840.10008.1.2.1")
        assert back_up(archive.parts.layout, tmp_path / "backup").segments == 1
        expected = contents(archive)
    is_sound(tmp_path / "backup")
    assert restored(tmp_path / "backup", tmp_path / "new") == expected


def test_damage_at_the_source_neither_ends_a_backup_nor_is_hidden(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 4))
        instances = archive.instances(study_query(1))
        (segment,) = (tmp_path / "data" / "segments").glob("*.seg")
        with segment.open("r+b") as file:
            file.seek(instances[1].position.payload_offset + 5)
            file.write(b"\xff")
        back_up(archive.parts.layout, tmp_path / "backup")
    found = verify_backup(tmp_path / "backup").findings
    assert len(found) == 1 and f"offset {instances[1].position.offset}" in found[0]


def test_a_bad_block_at_the_source_costs_that_block(tmp_path: Path) -> None:
    class BadBlock(Files):
        __slots__ = ()

        def pread(self, fd: int, length: int, offset: int) -> bytes:
            if offset <= 80_000 < offset + length and length > 64 and os.readlink(f"/proc/self/fd/{fd}") == source:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(fd, length, offset)

    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 4))
    (segment,) = (tmp_path / "data" / "segments").glob("*.seg")
    source = str(segment)
    report = back_up(layouts.existing(tmp_path / "data"), tmp_path / "backup", files=BadBlock())
    assert len(report.findings) == 1 and "copied as zeros" in report.findings[0]
    (copy,) = (tmp_path / "backup" / "segments").glob("*.seg")
    whole, copied = segment.read_bytes(), copy.read_bytes()
    assert len(whole) == len(copied)
    assert 0 < sum(a != b for a, b in zip(whole, copied, strict=True)) <= 4096


# What it costs -----------------------------------------------------------------------------------


def test_one_per_cent_more_costs_about_one_per_cent(tmp_path: Path) -> None:
    pixels = bytes(512 << 10)
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 100, pixels), segment_bytes=8 << 20)
        first, second, third = CountingFiles(), CountingFiles(), CountingFiles()
        back_up(archive.parts.layout, tmp_path / "backup", files=first)
        store(archive, *some(2, 1, pixels))
        report = back_up(archive.parts.layout, tmp_path / "backup", files=second)
        assert report.copied_bytes < 1.2 * (512 << 10)
        assert second.moved <= 0.02 * first.moved
        assert back_up(archive.parts.layout, tmp_path / "backup", files=third).copied_bytes == 0
        assert third.moved <= 0.002 * first.moved
    is_sound(tmp_path / "backup")


def test_the_zeros_of_a_preallocated_segment_are_not_copied(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2), segment_bytes=64 << 20)
        report = back_up(archive.parts.layout, tmp_path / "backup")
        assert report.total_bytes == report.copied_bytes < 200_000
    report = back_up(layouts.existing(tmp_path / "data"), tmp_path / "backup")
    assert report.copied_bytes < 5_000  # the footer


def test_a_rate_limit_makes_it_wait(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 40))
        now, waited = 0.0, 0.0

        def wait(seconds: float) -> None:
            nonlocal now, waited
            now += seconds
            waited += seconds

        rate_limiter = RateLimiter(500_000, lambda: now, wait)
        report = back_up(archive.parts.layout, tmp_path / "backup", rate_limiter=rate_limiter)
    assert waited == pytest.approx(report.copied_bytes / 500_000)


# Interrupted -------------------------------------------------------------------------------------


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_copying, "RANGE_BYTES", 40 << 10)
    monkeypatch.setattr(log_copying, "PIECE_BYTES", 20 << 10)


@pytest.mark.usefixtures("small_ranges")
def test_killed_at_any_call_the_next_run_goes_on_and_copies_nothing_twice(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=150_000)
        expected = contents(archive)
        layout = archive.parts.layout
        total = back_up(layout, tmp_path / "whole").copied_bytes
        number = 1 - EVERY
        killed = True
        while killed:
            number += EVERY
            folder = tmp_path / "backup"
            shutil.rmtree(folder, ignore_errors=True)
            copied, killed = _killed_at(layout, folder, number)
            again = back_up(layout, folder)
            is_sound(folder)
            assert again.copied_bytes + copied <= total + (40 << 10), f"call {number}"
            assert again.total_bytes == total
    assert number > 60
    assert restored(folder, tmp_path / "new") == expected


def _killed_at(layout: layouts.Layout, folder: Path, number: int) -> tuple[int, bool]:
    """Runs a backup that dies before its n-th file call; what it had copied and whether it died."""
    files = FaultyFiles()
    calls = 0

    def before(method: str) -> None:
        nonlocal calls
        calls += 1
        # What a dead process does not do; but its files are closed for it, and its locks given up.
        if calls >= number and method != "close":
            raise Killed

    files.before = before
    report = BackupReport()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backups, "BackupReport", lambda: report)
            back_up(layout, folder, files=files)
    except Killed:
        return report.copied_bytes, True
    return report.copied_bytes, False


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("method", ["create", "pwritev", "fdatasync", "rename", "sync_directory", "pread", "open"])
def test_an_error_at_any_call_is_told_and_leaves_nothing_half(tmp_path: Path, method: str) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        layout = archive.parts.layout
        expected = contents(archive)
        number = 0
        while True:
            number += 1
            folder = tmp_path / f"backup{number}"
            files = FaultyFiles()
            files.fail(method, errno.EIO, at=number)
            try:
                report = back_up(layout, folder, files=files)
            except (EngineError, OSError):
                pass
            else:
                if files.calls[method] < number:
                    break
                assert report.findings or method in ("pread", "open"), f"call {number} was swallowed"
            back_up(layout, folder)
            assert not [finding for finding in verify_backup(folder).findings if "copied as zeros" in finding]
            shutil.rmtree(tmp_path / "new", ignore_errors=True)
            if method != "pread":
                is_sound(folder)
                assert restored(folder, tmp_path / "new") == expected
            shutil.rmtree(folder)
    assert number > 3


def test_a_power_cut_of_its_disk_costs_no_state_that_was_there(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        first = SourceAndDisk(tmp_path, SimulatedDisk())
        back_up(archive.parts.layout, tmp_path / "disk", files=first)
        store(archive, *some(2, 3))
        changing = _changing_calls(tmp_path, archive, first.disk)
        for state in range(STATES):
            seed = rng.randrange(1 << 30)
            disk = first.disk.after_power_cut(seed)
            disk.cut_at = rng.randint(1, changing)
            try:
                back_up(archive.parts.layout, tmp_path / "disk", files=SourceAndDisk(tmp_path, disk))
            except PowerCut:
                pass
            after = SourceAndDisk(tmp_path, disk.after_power_cut(seed + 1))
            where = f"FILMROOM_BACKUP_SEED={SEED} state {state} cut at {disk.cut_at}"
            assert verify_backup(tmp_path / "disk", files=after).findings == [], where
            assert len(BackupFolder(tmp_path / "disk", after).names()) >= 1, where
            back_up(archive.parts.layout, tmp_path / "disk", files=after)
            assert verify_backup(tmp_path / "disk", files=after).findings == [], where


def test_a_disk_of_backups_that_does_not_sync_loses_states(tmp_path: Path) -> None:
    """The control: without its syncs the test before this one must find losses."""
    rng = random.Random(SEED)
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        losses = 0
        for _ in range(20):
            disk = SimulatedDisk()
            disk.loses_syncs = True
            back_up(archive.parts.layout, tmp_path / "disk", files=SourceAndDisk(tmp_path, disk))
            after = SourceAndDisk(tmp_path, disk.after_power_cut(rng.randrange(1 << 30)))
            try:
                losses += bool(verify_backup(tmp_path / "disk", files=after).findings)
            except BackupError:
                losses += 1
        assert losses


def _changing_calls(tmp_path: Path, archive: Archive, disk: SimulatedDisk) -> int:
    copy = disk.after_power_cut(0)
    back_up(archive.parts.layout, tmp_path / "disk", files=SourceAndDisk(tmp_path, copy))
    return copy.calls


class SourceAndDisk(Files):
    """The real file system, but for the backup's folder, which lies on a simulated disk."""

    __slots__ = ("_fds", "_folder", "disk")

    def __init__(self, tmp_path: Path, disk: SimulatedDisk) -> None:
        self.disk = disk
        self._folder = str(tmp_path / "disk")
        self._fds: set[int] = set()

    def __getattribute__(self, name: str) -> object:
        if name.startswith("_") or name == "disk":
            return super().__getattribute__(name)
        real, simulated = super().__getattribute__(name), getattr(self.disk, name)

        def call(first: object, *arguments: object, **options: object) -> object:
            if name == "sync_directory" and self._folder.startswith(f"{first}/"):
                simulated(first)
            is_ours = str(first).startswith(self._folder) if isinstance(first, str) else first in self._fds
            result = (simulated if is_ours else real)(first, *arguments, **options)
            if name in ("open", "create") and is_ours:
                self._fds.add(result)  # type: ignore[arg-type]
            return result

        return call


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("at", [2, 9, 20])
def test_a_compaction_that_takes_segments_away_meanwhile_takes_nothing_from_it(tmp_path: Path, at: int) -> None:
    with opened(tmp_path / "data") as archive:
        for study in range(1, 7):
            store(archive, *some(study, 3), segment_bytes=300_000)
        first = [archive.instances(study_query(study))[0] for study in range(1, 7)]
        archive.delete_instances(first, level=Level.IMAGE, actor=actor(), reason="blurred")
        expected = contents(archive)
        files = FaultyFiles()
        removed: list[int] = []

        def before(method: str) -> None:
            if method == "pwritev" and files.calls["pwritev"] == at:
                compactor = Compactor(archive, Compaction(), segment_bytes=300_000, everything=True)
                removed.append(compactor.run().segments_removed)

        files.before = before
        report = back_up(archive.parts.layout, tmp_path / "backup", files=files)
        assert report.findings == [] and removed and removed[0]
    is_sound(tmp_path / "backup")
    assert restored(tmp_path / "backup", tmp_path / "new") == expected


def test_two_backups_at_once_into_one_folder_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        files = FaultyFiles()
        refused: list[Exception] = []

        def before(method: str) -> None:
            if method == "pwritev" and not refused and (tmp_path / "backup" / "lock").exists():
                with pytest.raises(ArchiveInUse, match="another backup") as caught:
                    back_up(archive.parts.layout, tmp_path / "backup")
                refused.append(caught.value)

        files.before = before
        back_up(archive.parts.layout, tmp_path / "backup", files=files)
        assert refused


# Several states ----------------------------------------------------------------------------------


def test_each_state_can_be_restored_and_pruned_ones_give_their_space_back(tmp_path: Path) -> None:
    began = datetime(2026, 11, 24, tzinfo=UTC)
    states: list[dict[str, bytes]] = []
    with opened(tmp_path / "data") as archive:
        for number in range(4):
            store(archive, *some(number + 1, 2), segment_bytes=120_000)
            states.append(contents(archive))
            back_up(
                archive.parts.layout, tmp_path / "backup", now=lambda number=number: began + timedelta(hours=number)
            )
    folder = tmp_path / "backup"
    assert restored(folder, tmp_path / "at1", began + timedelta(hours=1, minutes=30)) == states[1]
    assert restored(folder, tmp_path / "at0", began) == states[0]
    assert restored(folder, tmp_path / "newest") == states[3]
    with pytest.raises(BackupError, match="or before"):
        restore(folder, tmp_path / "none", at=began - timedelta(seconds=1))

    (oldest,) = (tmp_path / "data" / "segments").glob("0000000000000000.seg")
    oldest.unlink()  # as a compaction does once everything of it lies elsewhere
    report = back_up(layouts.existing(tmp_path / "data"), folder, keep=1)
    assert (report.removed_manifests, report.removed_segments) == (4, 1)
    assert len(list((folder / "manifests").iterdir())) == 1
    is_sound(folder)


def test_nothing_is_pruned_while_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        for _ in range(3):
            back_up(archive.parts.layout, tmp_path / "backup")
        victim = sorted((tmp_path / "backup" / "manifests").iterdir())[0]
        victim.write_bytes(victim.read_bytes().replace(b'"format":1', b'"format":7'))
        report = back_up(archive.parts.layout, tmp_path / "backup", keep=1)
    assert report.removed_manifests == 0
    assert len(list((tmp_path / "backup" / "manifests").iterdir())) == 4


MOMENT = datetime(2026, 11, 24, tzinfo=UTC)


def two_histories(tmp_path: Path) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes]]:
    """An archive with two states in `backup`, and `new` restored from the first; what is in these, and in `new` now."""
    folder = tmp_path / "backup"
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
        first = contents(archive)
        back_up(archive.parts.layout, folder, now=lambda: MOMENT)
        store(archive, *some(2, 2))
        second = contents(archive)
        back_up(archive.parts.layout, folder, now=lambda: MOMENT + timedelta(hours=1))
    assert restored(folder, tmp_path / "new", MOMENT) == first
    with opened(tmp_path / "new") as archive:
        store(archive, *some(3, 2))
        return first, second, contents(archive)


def test_a_restored_archive_does_not_get_into_the_folder_of_the_first_one_unnoticed(tmp_path: Path) -> None:
    _, second, _ = two_histories(tmp_path)
    before = sorted(path.name for path in (tmp_path / "backup").rglob("*"))
    with opened(tmp_path / "new") as archive, pytest.raises(BackupError, match="another history.*original.*--join"):
        back_up(archive.parts.layout, tmp_path / "backup", keep=1)
    assert sorted(path.name for path in (tmp_path / "backup").rglob("*") if path.name != "lock") == [
        name for name in before if name != "lock"
    ]
    assert restored(tmp_path / "backup", tmp_path / "again") == second


def test_two_histories_that_share_a_folder_are_restored_and_pruned_each_for_itself(tmp_path: Path) -> None:
    first, second, third = two_histories(tmp_path)
    folder = tmp_path / "backup"
    with opened(tmp_path / "new") as archive:
        report = back_up(archive.parts.layout, folder, join=True, now=lambda: MOMENT + timedelta(hours=2))
        assert (report.other_histories, report.findings) == (1, [])
        lineage = archive.parts.layout.lineage
    is_sound(folder)
    with pytest.raises(BackupError, match=f"original .2 states.*{lineage} .1 states.*--lineage"):
        restore(folder, tmp_path / "which")
    for name, wanted, at in (("original", second, None), (lineage[:8], third, None), ("original", first, MOMENT)):
        with opened(restored_to(folder, tmp_path / f"of {name} {at}", at, name)) as archive:
            assert contents(archive) == wanted
    assert restored(folder, tmp_path / "at1", MOMENT + timedelta(hours=1)) == second  # before there were two
    for _ in range(2):
        for data in ("data", "new"):
            report = back_up(layouts.existing(tmp_path / data), folder, keep=1)
            assert report.findings == []
    assert [row["lineage"] for row in histories.listed(folder)] == ["original", lineage]
    is_sound(folder)
    for name, wanted in (("original", second), (lineage, third)):
        with opened(restored_to(folder, tmp_path / f"last of {name}", None, name)) as archive:
            assert contents(archive) == wanted


def restored_to(folder: Path, data: Path, at: datetime | None, lineage: str) -> Path:
    assert restore(folder, data, at=at, lineage=lineage).findings == []
    return data


def test_what_one_history_left_half_is_not_continued_by_another(tmp_path: Path) -> None:
    _, second, third = two_histories(tmp_path)
    folder = tmp_path / "backup"
    back_up(layouts.existing(tmp_path / "new"), folder, join=True)
    for data, number in (("data", 4), ("new", 5), ("data", 6)):
        with opened(tmp_path / data) as archive:
            store(archive, *some(number, 2))
        with pytest.raises(Killed):
            back_up(layouts.existing(tmp_path / data), folder, files=KilledBeforeManifest())
    for data in ("new", "data"):
        assert back_up(layouts.existing(tmp_path / data), folder).findings == []
    is_sound(folder)
    for name, data in (("original", "data"), (layouts.existing(tmp_path / "new").lineage, "new")):
        with opened(tmp_path / data) as archive:
            wanted = contents(archive)
        with opened(restored_to(folder, tmp_path / f"of {data}", None, name)) as archive:
            assert contents(archive) == wanted
            assert (second if data == "data" else third).items() <= wanted.items()


class KilledBeforeManifest(Files):
    """The process is killed when it writes a manifest."""

    __slots__ = ()

    def create(self, path: str) -> int:
        if "/manifests/" in path:
            raise Killed
        return super().create(path)

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        if "/manifests/" in path and flags & os.O_CREAT:
            raise Killed
        return super().open(path, flags, mode)


@pytest.mark.parametrize("clone_stores", [True, False])
def test_a_clone_that_goes_another_way_is_a_finding_and_prunes_nothing_of_the_first(
    tmp_path: Path, clone_stores: bool
) -> None:
    folder = tmp_path / "backup"
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
    shutil.copytree(tmp_path / "data", tmp_path / "clone")
    with opened(tmp_path / "data") as archive:
        store(archive, *some(2, 2))
        wanted = contents(archive)
    if clone_stores:
        with opened(tmp_path / "clone") as archive:
            store(archive, *some(3, 2))
    assert back_up(layouts.existing(tmp_path / "data"), folder, now=lambda: MOMENT).findings == []
    report = back_up(layouts.existing(tmp_path / "clone"), folder, keep=1)
    assert ["was rolled back, or is a clone" in finding for finding in report.findings] == [True]
    back_up(layouts.existing(tmp_path / "clone"), folder, keep=1)
    assert restored(folder, tmp_path / "first", MOMENT) == wanted
    report = back_up(layouts.existing(tmp_path / "data"), folder, keep=1)
    assert bool(report.findings) == clone_stores
    assert restored(folder, tmp_path / "last") == wanted
    is_sound(folder)


def test_the_same_segment_with_other_bytes_is_kept_beside_the_first(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
        back_up(archive.parts.layout, tmp_path / "backup", now=lambda: MOMENT)
        wanted = contents(archive)
    (segment,) = (tmp_path / "data" / "segments").glob("*.seg")
    content = bytearray(segment.read_bytes())
    (copied,) = (tmp_path / "backup" / "segments").iterdir()
    content[copied.stat().st_size - 100] ^= 1
    segment.write_bytes(content)
    report = back_up(layouts.existing(tmp_path / "data"), tmp_path / "backup", keep=1)
    assert "has other bytes than were backed up" in report.findings[0]
    assert restored(tmp_path / "backup", tmp_path / "first", MOMENT) == wanted


def test_a_replica_is_a_history_beside_its_source(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 2))
        layout = archive.parts.layout
        back_up(layout, tmp_path / "backup")
        replica = Replica(tmp_path / "replica", layout.archive_id, layout.lineage)
        Replication(layout, lambda: replica, Status("replica")).run_once()
        replica.close()
    with pytest.raises(BackupError, match="This one, replica:original"):
        back_up(layouts.existing(tmp_path / "replica"), tmp_path / "backup")


def test_a_folder_in_which_an_older_version_mixed_two_histories_goes_on(tmp_path: Path) -> None:
    """Versions before 2026-11-29 let every history of an archive into one folder."""
    two_histories(tmp_path)
    folder = tmp_path / "backup"
    back_up(layouts.existing(tmp_path / "new"), folder, join=True)
    for manifest in (folder / "manifests").iterdir():
        assert b'"role"' not in manifest.read_bytes()  # as they wrote it
    assert back_up(layouts.existing(tmp_path / "data"), folder).other_histories == 1
    assert back_up(layouts.existing(tmp_path / "new"), folder).other_histories == 1
    is_sound(folder)


def test_a_state_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    two_histories(tmp_path)
    with pytest.raises(BackupError) as caught:
        restore(tmp_path / "backup", tmp_path / "none", at=MOMENT - timedelta(days=1))
    for moment in (MOMENT, MOMENT + timedelta(hours=1)):
        assert moment.astimezone().isoformat(timespec="seconds") in str(caught.value)


def test_progress_moves_with_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_check, "PIECE_BYTES", 4096)
    monkeypatch.setattr(log_copying, "PIECE_BYTES", 4096)
    monkeypatch.setattr(restores, "PIECE_BYTES", 4096)
    told: dict[str, list[int]] = {"backup": [], "verify": [], "restore": []}
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 4))
        back_up(archive.parts.layout, tmp_path / "b", progress=lambda what, done, total: told["backup"].append(done))
    verify_backup(tmp_path / "b", progress=lambda what, done, total: told["verify"].append(done))
    restore(
        tmp_path / "b",
        tmp_path / "new",
        progress=lambda what, done, total: told["restore"].append(done) if what == "bytes" else None,
    )
    for steps in told.values():
        assert len(set(steps)) >= max(steps) // 4096


def test_a_copy_that_was_lost_is_made_again(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 4), segment_bytes=120_000)
        back_up(archive.parts.layout, tmp_path / "backup")
        copies = sorted((tmp_path / "backup" / "segments").iterdir())
        copies[0].unlink()
        os.truncate(copies[1], 5000)
        assert len(verify_backup(tmp_path / "backup").findings) >= 2
        back_up(archive.parts.layout, tmp_path / "backup")
    is_sound(tmp_path / "backup")


# Where to ----------------------------------------------------------------------------------------


def test_a_destination_that_is_not_for_this_archive_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive, opened(tmp_path / "other") as other:
        back_up(other.parts.layout, tmp_path / "taken")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("mine")
        for where, why in (
            (tmp_path / "taken", "another archive"),
            (tmp_path / "data" / "backup", "data directory"),
            (tmp_path / "full", "not empty"),
            (tmp_path / "no" / "mount" / "point", "does not exist"),
        ):
            with pytest.raises(BackupError, match=why):
                back_up(archive.parts.layout, where)
        (tmp_path / "link").symlink_to(tmp_path / "data")
        with pytest.raises(BackupError, match="data directory"):
            back_up(archive.parts.layout, tmp_path / "link" / "backup")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.txt"]


@pytest.mark.parametrize("key", ["id", "salt", "copy"])
def test_a_manifest_that_was_tampered_with_names_no_path(tmp_path: Path, key: str) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        back_up(archive.parts.layout, tmp_path / "backup")
    (path,) = (tmp_path / "backup" / "manifests").iterdir()
    body = orjson.loads(path.read_bytes())["manifest"]
    body["segments"][0][key] = "../../../../etc/x"
    from engine.archive.copies.manifest import _digest

    path.write_bytes(orjson.dumps({"manifest": body, "blake2b": _digest(orjson.dumps(body))}))
    with pytest.raises(BackupError, match="no whole manifest"):
        restore(tmp_path / "backup", tmp_path / "new")
    assert any("no whole manifest" in finding for finding in verify_backup(tmp_path / "backup").findings)


# Damage ------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_found_by_verification_and_by_a_restore(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        back_up(archive.parts.layout, tmp_path / "backup")
    victims = [*(tmp_path / "backup" / "segments").iterdir(), *(tmp_path / "backup" / "manifests").iterdir()]
    for round_ in range(20):
        victim = rng.choice(victims)
        whole = victim.read_bytes()
        at = rng.randrange(len(whole))
        victim.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        where = f"FILMROOM_BACKUP_SEED={SEED} round {round_}: {victim.name} byte {at}"
        assert any(victim.name in finding for finding in verify_backup(tmp_path / "backup").findings), where
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        with pytest.raises(BackupError):
            restore(tmp_path / "backup", tmp_path / "new")
        with pytest.raises(StorageError, match="unfinished restore|no archive"):
            layouts.existing(tmp_path / "new")
        victim.write_bytes(whole)
    is_sound(tmp_path / "backup")


def test_a_salvage_takes_all_but_what_is_damaged_and_names_that(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 4))
        back_up(archive.parts.layout, tmp_path / "backup")
        expected = contents(archive)
        lost = archive.instances(study_query(1))[1]
    (copy,) = (tmp_path / "backup" / "segments").iterdir()
    with copy.open("r+b") as file:
        file.seek(lost.position.payload_offset + 10)
        file.write(b"\xff\xfe\xfd")
    report = restore(tmp_path / "backup", tmp_path / "new", salvage=True)
    assert any(copy.name in finding for finding in report.findings)
    with opened(tmp_path / "new") as archive:
        kept = contents(archive)
    assert kept == {uid: data for uid, data in expected.items() if uid != lost.sop_instance_uid}


# Restoring ---------------------------------------------------------------------------------------


def test_a_restore_killed_at_any_call_is_no_archive_and_goes_on_when_run_again(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 3), segment_bytes=120_000)
        back_up(archive.parts.layout, tmp_path / "backup")
        expected = contents(archive)
    number = 1 - EVERY
    killed = True
    while killed:
        number += EVERY
        data = tmp_path / f"new{number}"
        killed = _restore_killed_at(tmp_path / "backup", data, number)
        if killed and not (data / "archive.json").exists():
            with pytest.raises(StorageError, match="unfinished restore|no archive"):
                layouts.existing(data)
            if (data / "restore.json").exists():
                with pytest.raises(StorageError, match="unfinished restore"):
                    Archive.open(data, create=True)
        if killed and not ((data / "archive.json").exists() and not (data / "restore.json").exists()):
            assert restore(tmp_path / "backup", data).findings == [], f"call {number}"
        if number % 9 == 0 or not killed:
            with opened(data) as archive:
                assert contents(archive) == expected, f"call {number}"
        shutil.rmtree(data)
    assert number > 40


def _restore_killed_at(source: Path, data: Path, number: int) -> bool:
    files = FaultyFiles()
    calls = 0

    def before(method: str) -> None:
        nonlocal calls
        calls += 1
        if calls >= number and method != "close":
            raise Killed

    files.before = before
    try:
        restore(source, data, files=files)
    except Killed:
        return True
    return False


def test_a_restore_into_anything_but_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        back_up(archive.parts.layout, tmp_path / "backup")
        back_up(archive.parts.layout, tmp_path / "backup")
    before = sorted(path.name for path in (tmp_path / "data").rglob("*"))
    with pytest.raises(BackupError, match="not empty"):
        restore(tmp_path / "backup", tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").rglob("*")) == before
    with pytest.raises(BackupError, match="holds no backup"):
        restore(tmp_path / "data", tmp_path / "new")
    names = BackupFolder(tmp_path / "backup", Files()).names()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "restore.json").write_bytes(orjson.dumps({"manifest": names[0]}))
    with pytest.raises(BackupError, match="another restore"):
        restore(tmp_path / "backup", tmp_path / "half")


def test_a_restored_archive_takes_instances_and_has_a_lineage_of_its_own(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as archive:
        store(archive, *some(1, 1))
        back_up(archive.parts.layout, tmp_path / "backup")
        original = archive.parts.layout
    restore(tmp_path / "backup", tmp_path / "new")
    with opened(tmp_path / "new") as archive:
        assert archive.parts.layout.archive_id == original.archive_id
        assert archive.parts.layout.lineage and archive.parts.layout.lineage != original.lineage
        store(archive, *some(2, 2))
        assert archive.stats()["instances"] == 3
        assert findings(archive) == []


# Parts -------------------------------------------------------------------------------------------


def test_a_journal_gives_back_every_note_but_a_torn_last_one(tmp_path: Path) -> None:
    path = str(tmp_path / "notes")
    journal = Journal(path, Files())
    journal.append([(1, "a"), (2, "b")])
    journal.append([(3, "c")])
    journal.close()
    whole = (tmp_path / "notes").read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        (tmp_path / "notes").write_bytes(whole[:cut])
        journal = Journal(path, Files())
        assert journal.notes == [[1, "a"], [2, "b"], [3, "c"]][: sum(end <= cut for end in ends)]
        journal.append([(9, "z")])
        journal.close()
        journal = Journal(path, Files())
        assert journal.notes[-1] == [9, "z"]
        journal.replace([(7, "only")])
        journal.append([(8, "more")])
        journal.close()
        journal = Journal(path, Files())
        assert journal.notes == [[7, "only"], [8, "more"]]
        journal.close()
