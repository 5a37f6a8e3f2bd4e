"""Keys of studies in the bucket: a new machine has them, and what was shredded is in no version of any object."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.admin import encryption
from engine.archive.archive import Archive
from engine.archive.tiering import bucket_restore, study_key_shipping
from engine.archive.tiering.study_key_shipping import StudyKeyShipping
from engine.errors import BackupError, StoreRefused, StoreUnreachable
from engine.keys import key_file, study_keys
from engine.keys.study_keys import State
from engine.objects.settings import ObjectStore
from engine.objects.versions import Versions
from engine.storage.files import Files
from engine.storage.keyring import KEYRING
from tests.actors import actor
from tests.archive import filled
from tests.archive.tiering.stored import bucket_of, layout_of, publish_all, publisher_of, tail_of
from tests.locked import locked_before_and_after as locked_before_and_after
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")


def opened(data: Path) -> Archive:
    KEYRING.clear()
    return Archive.open(data, role="keeper", create=True, study_keys=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    key_file.make(tmp_path / "kek")
    encryption.begin(path, "site", "file", {"path": str(tmp_path / "kek")}, data_key_days=30)
    return path


def store(archive: Archive, *studies: int) -> None:
    outcomes = filled.store(archive, *(filled.payload_of(study, 1, 1) for study in studies))
    assert not [each for each in outcomes if isinstance(each, Exception)]


def shipping_of(data: Path, settings: ObjectStore) -> StudyKeyShipping:
    return StudyKeyShipping(layout_of(data), Files(), bucket_of(data, settings), Versions(settings))


def wrapped_keys(data: Path) -> dict[str, bytes]:
    """Key id → its wrapped bytes, of all keys of the archive."""
    content = (data / study_keys.FILE).read_bytes()[study_keys.HEADER_BYTES :]
    slots = [content[at : at + 128] for at in range(0, len(content), study_keys.SLOT_BYTES)]
    return {slot[4:12].hex(): slot[32:80] for slot in slots}


def test_a_new_machine_reads_what_is_left_and_no_version_has_what_was_shredded(
    s3: S3, data: Path, tmp_path: Path
) -> None:
    s3.versioning = "Enabled"
    settings = s3.settings(tmp_path)
    with opened(data) as archive:
        store(archive, 1, 2)
    publish_all(data, settings)
    with opened(data) as archive:
        store(archive, 3)
        publisher = publisher_of(data, settings)
        tail = tail_of(data, settings)
        tail.open()
        tail.step(publisher.published, ship_keys=publisher.write_keys)
        doomed = [each.key_id.hex() for each in keys_of(archive, 1)]
        secrets = [wrapped_keys(data)[key_id] for key_id in doomed]
        stored = b"".join(each.data or b"" for each in s3.versions)
        assert secrets and all(secret in stored for secret in secrets)
        archive.delete(filled.study_query(1), actor=actor(), reason="test")
        tail.step(publisher.published, ship_keys=publisher.write_keys)
        publisher.close()
        before = filled.contents(archive)
        assert len(before) == 2
    kept = b"".join([*(each.data or b"" for each in s3.versions), *(each.data for each in s3.objects.values())])
    assert not [secret for secret in secrets if secret in kept]
    KEYRING.clear()
    report = bucket_restore.restore(settings, tmp_path / "new")
    assert report.findings == []
    with opened(tmp_path / "new") as archive:
        assert filled.contents(archive) == before
        assert {each.state for each in keys_of(archive, 1)} <= {State.DESTROYED}


def keys_of(archive: Archive, study: int) -> list[study_keys.StudyKey]:
    keys = archive.parts.layout.study_keys
    assert keys is not None
    uid = filled.uid(study).encode()
    return keys.of_studies([uid]).get(uid, [])


def test_a_record_waits_for_its_key(s3: S3, data: Path, tmp_path: Path) -> None:
    settings = s3.settings(tmp_path)
    with opened(data) as archive:
        store(archive, 1)
        publisher, tail = publisher_of(data, settings), tail_of(data, settings)
        tail.open()
        s3.fault(Fault.UNAVAILABLE, "PUT", "/y/")
        with pytest.raises(StoreUnreachable):
            tail.step(publisher.published, ship_keys=publisher.write_keys)
        assert s3.keys("/w/") == [] and tail.lag_bytes > 0 and publisher.study_keys.is_waiting
        tail.step(publisher.published, ship_keys=publisher.write_keys)
        assert s3.keys("/w/") and s3.keys("/y/")
        publisher.close()


def test_a_store_that_keeps_old_versions_is_refused_before_it_has_a_key(s3: S3, data: Path, tmp_path: Path) -> None:
    s3.versioning, s3.is_locked = "Enabled", True
    with opened(data) as archive:
        store(archive, 1)
    with pytest.raises(StoreRefused, match="Object Lock"):
        shipping_of(data, s3.settings(tmp_path)).ship()
    assert s3.keys("/y/") == [] and "/y/" not in str(s3.versions)


def test_old_versions_that_could_not_be_removed_go_later(s3: S3, data: Path, tmp_path: Path) -> None:
    s3.versioning = "Enabled"
    settings = s3.settings(tmp_path)
    with opened(data) as archive:
        store(archive, 1)
        shipping = shipping_of(data, settings)
        shipping.ship()
        archive.delete(filled.study_query(1), actor=actor(), reason="test")
        s3.fault(Fault.UNAVAILABLE, "DELETE", "versionId")
        with pytest.raises(StoreUnreachable):
            shipping.ship()
        assert shipping.is_waiting
        assert len([each for each in s3.versions if "/y/" in each.key]) == 2
        shipping_of(data, settings).ship()  # another process knows nothing of it, and looks
    assert len([each for each in s3.versions if "/y/" in each.key]) == 1


def test_the_keys_of_the_machine_that_was_taken_over_do_not_replace_the_successors(
    s3: S3, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_key_shipping, "COARSE_NS", 0)
    settings = s3.settings(tmp_path)
    with opened(data) as archive:
        store(archive, 1)
    publish_all(data, settings)
    old = shipping_of(data, settings)
    old.ship()
    KEYRING.clear()
    bucket_restore.restore(settings, tmp_path / "new")
    with opened(tmp_path / "new") as archive:
        store(archive, 2)
    publish_all(tmp_path / "new", settings)
    successor = s3.keys("/y/")
    assert len(successor) == 1, "the successor has removed the other machine's"
    with opened(data) as archive:
        archive.delete(filled.study_query(1), actor=actor(), reason="test")
        old.ship()
    KEYRING.clear()
    assert len(s3.keys("/y/")) == 2
    assert bucket_restore.restore(settings, tmp_path / "third").findings == []
    with opened(tmp_path / "third") as archive:
        assert len(filled.contents(archive)) == 2
    KEYRING.clear()
    for key in s3.keys("/m/"):
        del s3.objects[key]
    with pytest.raises(BackupError, match="several machines"):
        bucket_restore.restore(settings, tmp_path / "fourth")
