"""Backups and replicas of an archive whose segments are in part in the bucket only: what they lack is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.backup_check import verify_backup
from engine.archive.copies.replica import Replica
from engine.archive.copies.replication import Replication
from engine.archive.copies.replication_status import Status
from engine.archive.lifecycle.scrub import Scrubber
from engine.archive.tiering import connection
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.residence import Residence
from engine.storage.files import Files
from tests.archive.tiering.stored import bucket_of, fill, layout_of, publish_all
from tests.objects.s3 import S3

pytest.importorskip("obstore", reason="obstore is not installed")


@pytest.fixture
def data(s3: S3, tmp_path: Path) -> Path:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1, 2)
    publish_all(data, settings)
    connection.remember(data, settings, Files())
    return data


def evict_all(data: Path, s3: S3) -> int:
    """Evicts all segments but the newest."""
    layout, files = layout_of(data), Files()
    residence = Residence(layout, files, RemoteSegments(data, layout.archive_id, files))
    names = bucket_of(data, s3.settings(data.parent)).hint_names()
    return sum(residence.evict(name) > 0 for name in names)


def test_a_backup_keeps_what_it_has_and_says_what_it_lacks(s3: S3, data: Path, tmp_path: Path) -> None:
    first = back_up(layout_of(data), tmp_path / "safe")
    assert evict_all(data, s3) == first.segments - 1
    second = back_up(layout_of(data), tmp_path / "safe", keep=1)
    assert (second.segments, second.findings, second.copied_bytes) == (first.segments, [], 0)
    assert verify_backup(tmp_path / "safe").findings == []
    other = back_up(layout_of(data), tmp_path / "other")
    assert other.segments == 1
    assert [f"{first.segments - 1} segments are in the object store only" in each for each in other.findings] == [True]


def test_a_replica_keeps_what_it_has(s3: S3, data: Path, tmp_path: Path) -> None:
    layout = layout_of(data)

    def replicate() -> Status:
        status = Status("there")
        replication = Replication(
            layout, lambda: Replica(tmp_path / "replica", layout.archive_id, lineage=""), status, remove_after_s=0.0
        )
        replication.run_once()
        replication.run_once()
        replication.close()
        return status

    replicate()
    files = {path.name: path.read_bytes() for path in (tmp_path / "replica" / "segments").glob("*.seg")}
    assert evict_all(data, s3) > 1
    assert replicate().findings == []
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "replica" / "segments").glob("*.seg")}


def test_a_scrub_reads_nothing_from_the_bucket(s3: S3, data: Path) -> None:
    evict_all(data, s3)
    s3.requests.clear()
    with Archive.open(data, role="keeper") as archive:
        scrubber = Scrubber(archive, cycle_s=86400, rate_bytes_per_s_max=1 << 30)
        scrubber.begin_pass()
        while not (step := scrubber.step(1 << 30)).pass_ended:
            assert step.damaged == []
    assert s3.requests == []
