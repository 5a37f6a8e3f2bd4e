"""An archive from its bucket on a new machine: the same answers, the same bytes, and what is wrong there is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.accounts import dump
from engine.accounts.database import Database
from engine.archive import verify
from engine.archive.archive import Archive
from engine.archive.tiering import bucket_restore, connection
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.residence import Residence
from engine.errors import BackupError, CorruptRecord, ObjectWrong, StoreUnreachable
from engine.objects import pages
from engine.objects.settings import ObjectStore
from engine.storage.files import Files
from tests.archive.filled import contents, opened, store
from tests.archive.tiering.stored import PIXELS, bucket_of, fill, layout_of, publish_all, store_studies, tail_of
from tests.index.entries import meaning
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")


def said(archive: Archive) -> object:
    """What the index says, but how far each segment is applied: an unsealed one is sealed by a restore."""
    return {name: rows for name, rows in meaning(archive.parts.index).items() if name != "marks"}


def shipped(s3: S3, folder: Path) -> tuple[Path, ObjectStore, dict[str, bytes], object]:
    """An archive whose sealed segments and tail are in the bucket; and what it says."""
    data, settings = folder / "data", s3.settings(folder)
    fill(data, 1, 2, 3)
    publish_all(data, settings)
    with opened(data) as archive:
        store_studies(archive, 4, segment_bytes=1 << 20)
        tail = tail_of(data, settings)
        tail.open()
        tail.step(bucket_of(data, settings).hint_names())
        return data, settings, contents(archive), said(archive)


def test_a_new_machine_gives_the_same_answers_before_and_after_the_bytes(s3: S3, tmp_path: Path) -> None:
    data, settings, before, index = shipped(s3, tmp_path)
    new = tmp_path / "new"
    s3.requests.clear()
    report = bucket_restore.restore(settings, new)
    assert report.findings == []
    assert (report.instances, report.tail_segments) == (16, 1)
    assert report.segments > 2 and report.segment_bytes > 0
    assert [each for each in s3.requests if each[1].endswith(".seg")] == []
    with opened(new) as archive:
        assert said(archive) == index
        assert contents(archive) == before
        assert verify.check(archive, payloads=True).findings == []
        assert not [method for method, _ in s3.requests if method == "PUT"]  # a drill disturbs nobody
        store_studies(archive, 5)
        before = contents(archive)
    layout, files = layout_of(new), Files()
    remote = RemoteSegments(new, layout.archive_id, files)
    residence = Residence(layout, files, remote)
    originals = {path.name: path.read_bytes() for path in (data / "segments").glob("*.seg")}
    for name in residence.remote_names():
        assert residence.fetch(name) > 0
        path = new / "segments" / f"{name.segment_id:016x}.seg"
        assert path.read_bytes() == originals[path.name]
    assert residence.remote_names() == []
    s3.go_away()
    with opened(new) as archive:
        assert contents(archive) == before
        assert verify.check(archive, payloads=True).findings == []


def test_the_index_is_rebuilt_without_the_bucket(s3: S3, tmp_path: Path) -> None:
    _, settings, _, index = shipped(s3, tmp_path)
    bucket_restore.restore(settings, tmp_path / "new")
    s3.go_away()
    assert Archive.rebuild_index(tmp_path / "new").findings == []
    with opened(tmp_path / "new") as archive:
        assert said(archive) == index
        with pytest.raises(StoreUnreachable):
            contents(archive)
        assert archive.parts.index.damage() == []
        store_studies(archive, 6)


def test_what_the_list_does_not_show_yet_is_restored_too(s3: S3, tmp_path: Path) -> None:
    _, settings, _, index = shipped(s3, tmp_path)
    s3.fault(Fault.STALE_LIST, "GET", "/w", times=3)
    s3.fault(Fault.STALE_LIST, "GET", "/h", times=1)
    assert bucket_restore.restore(settings, tmp_path / "new").findings == []
    with opened(tmp_path / "new") as archive:
        assert said(archive) == index


def test_a_restore_that_was_killed_goes_on(s3: S3, tmp_path: Path) -> None:
    _, settings, _, index = shipped(s3, tmp_path)
    s3.fault(Fault.UNAVAILABLE, "GET", "/w", times=1)
    with pytest.raises(StoreUnreachable):
        bucket_restore.restore(settings, tmp_path / "new")
    with pytest.raises(Exception, match="unfinished restore"):
        opened(tmp_path / "new")
    assert bucket_restore.restore(settings, tmp_path / "new").findings == []
    with opened(tmp_path / "new") as archive:
        assert said(archive) == index


def test_what_is_missing_or_wrong_in_the_bucket_is_named(s3: S3, tmp_path: Path) -> None:
    _, settings, _, _ = shipped(s3, tmp_path)
    hints = s3.keys("/h/")
    stored = s3.objects[hints[0]]
    stored.data = stored.data[:-1] + bytes([stored.data[-1] ^ 1])
    del s3.objects[s3.keys("/s/")[1]]
    report = bucket_restore.restore(settings, tmp_path / "new")
    assert len([finding for finding in report.findings if "hint of" in finding]) == 1
    assert len([finding for finding in report.findings if "not whole in the bucket" in finding]) == 1
    assert 0 < report.instances < 16


def test_wrong_answers_are_asked_for_again_and_are_no_damage(s3: S3, tmp_path: Path) -> None:
    _, settings, before, _ = shipped(s3, tmp_path)
    bucket_restore.restore(settings, tmp_path / "new")
    s3.fault(Fault.WRONG_BYTES, "GET", "/s/")
    s3.fault(Fault.TRUNCATED, "GET", "/s/")
    with opened(tmp_path / "new") as archive:
        with pytest.raises(StoreUnreachable):  # the second answer was cut short
            contents(archive)
        assert contents(archive) == before
        assert archive.parts.index.damage() == []


def test_an_object_that_is_wrong_each_time_is_damage(s3: S3, tmp_path: Path) -> None:
    _, settings, _, _ = shipped(s3, tmp_path)
    bucket_restore.restore(settings, tmp_path / "new")
    for key in s3.keys("/s/"):
        data = bytearray(s3.objects[key].data)
        data[len(data) // 3] ^= 1
        s3.objects[key].data = bytes(data)
    with opened(tmp_path / "new") as archive, pytest.raises(CorruptRecord):
        contents(archive)


def test_pages_are_read_once_and_kept_on_the_disk(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "RESERVE_BYTES", 0)
    _, settings, before, _ = shipped(s3, tmp_path)
    bucket_restore.restore(settings, tmp_path / "new")
    s3.requests.clear()
    with opened(tmp_path / "new") as archive:
        assert contents(archive) == before
        count = len([target for _, target in s3.requests if "/s/" in target])
        assert count == len(s3.keys("/s/"))  # each has one page
    with opened(tmp_path / "new") as archive:
        assert contents(archive) == before
        assert len([target for _, target in s3.requests if "/s/" in target]) == count
    for path in (tmp_path / "new" / "cache" / "objects").rglob("*.kept"):
        path.write_bytes(b"rotten")
    with opened(tmp_path / "new") as archive:
        assert contents(archive) == before
        assert archive.parts.index.damage() == []


def test_accounts_come_along(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1)
    Database(data / "accounts").close()
    publish_all(data, settings)
    bucket_restore.restore(settings, tmp_path / "new")
    assert dump.text_of(tmp_path / "new") == dump.text_of(data) != ""


def test_a_bucket_with_several_archives_wants_a_name(s3: S3, tmp_path: Path) -> None:
    settings = s3.settings(tmp_path)
    with pytest.raises(BackupError, match="no archive"):
        bucket_restore.restore(settings, tmp_path / "new")
    for name in ("one", "two"):
        fill(tmp_path / name, 1)
        publish_all(tmp_path / name, settings)
    with pytest.raises(BackupError, match="several"):
        bucket_restore.restore(settings, tmp_path / "new")
    archive_id = layout_of(tmp_path / "one").archive_id
    assert bucket_restore.restore(settings, tmp_path / "new", archive_id=archive_id).instances == 4


def test_an_evicted_segment_is_read_through_and_the_newest_stays(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1, 2)
    publish_all(data, settings)
    connection.remember(data, settings, Files())
    with opened(data) as archive:
        before = contents(archive)
        layout, files = archive.parts.layout, archive.parts.files
        remote = layout.elsewhere
        assert isinstance(remote, RemoteSegments)
        residence = Residence(layout, files, remote)
        names = bucket_of(data, settings).hint_names()
        sizes = [residence.evict(name) for name in names]
        assert sizes[-1] == 0 and all(sizes[:-1])
        assert contents(archive) == before  # by the files that are still open, or the bucket
        archive.parts.reader.sweep()
        assert contents(archive) == before
        store_studies(archive, 3)
    with opened(data) as archive:
        assert len(contents(archive)) == 12
        assert archive.losses() == []
        assert verify.check(archive, payloads=True).findings == []


def test_a_segment_whose_object_is_another_is_not_evicted(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1, 2)
    publish_all(data, settings)
    layout, files = layout_of(data), Files()
    connection.remember(data, settings, files)
    residence = Residence(layout, files, RemoteSegments(data, layout.archive_id, files))
    name = bucket_of(data, settings).hint_names()[0]
    path = data / "segments" / f"{name.segment_id:016x}.seg"
    content = path.read_bytes()
    key = next(key for key in s3.keys("/s/") if str(name) in key)
    s3.objects[key].data = content[:-1]
    with pytest.raises(ObjectWrong):
        residence.evict(name)
    s3.objects[key].data = content
    path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with pytest.raises(ObjectWrong):
        residence.evict(name)
    del s3.objects[key]
    with pytest.raises(ObjectWrong):
        residence.evict(name)
    assert path.exists()


def test_an_encrypted_bucket_is_restored_with_its_key(s3: S3, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("cd" * 32)
    data, settings = tmp_path / "data", s3.settings(tmp_path, encryption_key_file=key)
    fill(data, 1)
    publish_all(data, settings)
    with opened(data) as archive:
        before = contents(archive)
        assert store(archive) == []
    bucket_restore.restore(settings, tmp_path / "new")
    with opened(tmp_path / "new") as archive:
        assert contents(archive) == before
    with pytest.raises(ObjectWrong):
        bucket_restore.restore(s3.settings(tmp_path), tmp_path / "other")
    assert PIXELS not in b"".join(stored.data for stored in s3.objects.values())
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
