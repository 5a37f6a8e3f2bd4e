"""Patients, orders and messages in the bucket: what was acknowledged is restored on a new machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.admin import encryption
from engine.archive.archive import Archive
from engine.archive.copies import shipped_logs
from engine.archive.hospital import open_orders
from engine.archive.messages import open_journal
from engine.archive.tiering import bucket_restore
from engine.archive.tiering.publisher import Publisher
from engine.errors import StoreUnreachable
from engine.keys import key_file
from engine.objects.settings import ObjectStore
from engine.orders.registry import NoRules
from engine.storage.keyring import KEYRING
from tests.archive.filled import opened, payload_of, store
from tests.archive.hospital import admit, content, fill, take
from tests.archive.tiering.stored import bucket_of, publish_all, publisher_of, tail_of
from tests.locked import locked_before_and_after as locked_before_and_after
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")


def ship(data: Path, settings: ObjectStore) -> int:
    tail = tail_of(data, settings)
    tail.open()
    return tail.step(bucket_of(data, settings).hint_names())


def encrypt(data: Path) -> None:
    key_file.make(data.parent / "kek")
    encryption.begin(data, "site", "file", {"path": str(data.parent / "kek")}, data_key_days=30)


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_full_segments_and_the_tail_make_the_same_registry_and_journal(
    s3: S3, tmp_path: Path, is_encrypted: bool
) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    if is_encrypted:
        encrypt(data)
    with opened(data) as archive:
        store(archive, payload_of())
        fill(archive, 1, 2, 3)
    publish_all(data, settings)
    KEYRING.clear()
    with opened(data) as archive:
        journal = open_journal(archive)
        with open_orders(archive, NoRules()) as orders:
            for number in (4, 5):
                admit(orders, number)
                take(journal, number)
            assert ship(data, settings) > 0
        journal.close()
        before = content(archive)
    logs = {shipped_logs.log_of(name.segment_id) for name in bucket_of(data, settings).hint_names()}
    assert logs == {"segments", "hospital/state", "hospital/journal"}
    stored = b"".join(each.data for each in s3.objects.values())
    assert (b"Doe^Jane" in stored) is not is_encrypted
    KEYRING.clear()
    s3.fault(Fault.UNAVAILABLE, "GET", "/s/fffe")
    with pytest.raises(StoreUnreachable):
        bucket_restore.restore(settings, tmp_path / "new")
    KEYRING.clear()
    report = bucket_restore.restore(settings, tmp_path / "new")
    assert report.findings == []
    assert (report.patients, report.instances, report.hospital_segments) == (5, 1, len(logs_of(s3)))
    assert (tmp_path / "new" / "hospital").stat().st_mode & 0o077 == 0
    KEYRING.clear()
    with opened(tmp_path / "new") as archive:
        assert content(archive) == before
        fill(archive, 6)
        publisher = publisher_of(tmp_path / "new", settings)
        assert not {item.name for item in publisher.backlog()} & publisher.published.keys()
        publisher.close()


def logs_of(s3: S3) -> list[str]:
    return [key for key in s3.keys("/h/") if "/h/fff" in key]


def test_damaged_messages_are_named_and_the_images_are_restored(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    with opened(data) as archive:
        store(archive, payload_of())
        fill(archive, 1)
    publish_all(data, settings)
    for key in s3.keys("/s/ffff"):
        s3.objects[key].data = s3.objects[key].data[:-1] + b"?"
    del s3.objects[s3.keys("/s/fffe")[0]]
    report = bucket_restore.restore(settings, tmp_path / "new")
    assert [finding for finding in report.findings if "are not what was written" in finding]
    assert [finding for finding in report.findings if "is not whole in the bucket" in finding]
    assert report.instances == 1


def removed_by(publisher: Publisher, archive: Archive) -> int:
    marks = archive.parts.index.segment_marks()
    return publisher.remove_gone(lambda segment_id: segment_id in marks, set())


def test_messages_that_retention_removed_here_leave_the_bucket(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path, remove_after_hours=0.0)
    with opened(data) as archive:
        fill(archive, 1)
    publish_all(data, settings)
    assert s3.keys("/s/ffff")
    next((data / "hospital" / "journal").glob("*.seg")).unlink()
    with opened(data) as archive:
        publisher = publisher_of(data, settings)
        publisher.backlog()
        assert removed_by(publisher, archive) == 0, "before a manifest without it"
        publisher.write_manifest([])
        assert removed_by(publisher, archive) == 1
        publisher.close()
    assert not s3.keys("/s/ffff") and s3.keys("/s/fffe")
