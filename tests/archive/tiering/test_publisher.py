"""Publisher: sealed segments are in the bucket as they are here, or they do not count."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.errors import ObjectMissing, ObjectWrong, StoreUnreachable
from engine.objects import bucket as buckets
from engine.objects.bucket import Hint
from engine.storage.record import crc32c
from tests.archive.tiering.stored import bucket_of, fill, publish_all, publisher_of
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    fill(tmp_path / "data", 1, 2)
    return tmp_path / "data"


def segments_of(data: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((data / "segments").glob("*.seg"))}


def test_each_sealed_segment_and_its_hint_are_in_the_bucket(s3: S3, data: Path, tmp_path: Path) -> None:
    settings = s3.settings(tmp_path)
    publisher = publisher_of(data, settings)
    names = [item.name for item in publisher.backlog()]
    assert len(names) > 2
    for name in names:
        assert publisher.publish(name) is not None
    assert publisher.backlog() == []
    publisher.close()
    bucket = bucket_of(data, settings)
    for name in names:
        content = segments_of(data)[f"{name.segment_id:016x}"]
        assert s3.objects[f"site/{bucket.segment_key(name)}"].data == content
        hint = bucket.hint(name)
        assert (hint.segment_bytes, hint.segment_crc) == (len(content), crc32c(content))
        assert content.startswith(hint.block) and content.endswith(hint.footer)
    again = publisher_of(data, settings)
    assert again.backlog() == []
    again.close()


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.ANSWER_LOST, Fault.CLOSED])
@pytest.mark.parametrize("part", ["/s/", "/h/"])
def test_a_segment_counts_only_when_all_of_it_is_there(
    s3: S3, data: Path, tmp_path: Path, fault: Fault, part: str
) -> None:
    publisher = publisher_of(data, s3.settings(tmp_path))
    name = publisher.backlog()[0].name
    s3.fault(fault, "PUT", part)
    with pytest.raises(StoreUnreachable):
        publisher.publish(name)
    assert name in [item.name for item in publisher.backlog()]
    assert publisher.publish(name) is not None
    assert name not in [item.name for item in publisher.backlog()]
    publisher.close()


@pytest.mark.parametrize("part", ["/s/", "/h/"])
def test_what_reads_back_otherwise_does_not_count(s3: S3, data: Path, tmp_path: Path, part: str) -> None:
    publisher = publisher_of(data, s3.settings(tmp_path))
    name = publisher.backlog()[0].name
    s3.fault(Fault.WRONG_BYTES, "GET", part)
    with pytest.raises(ObjectWrong):
        publisher.publish(name)
    assert name not in publisher.published
    publisher.close()


def test_another_bucket_gets_everything_anew(s3: S3, data: Path, tmp_path: Path) -> None:
    publish_all(data, s3.settings(tmp_path))
    other = publisher_of(data, s3.settings(tmp_path).__class__(url=f"file://{tmp_path}/bucket"))
    assert len(other.backlog()) == len(segments_of(data))
    other.close()


def test_a_segment_that_compaction_removed_goes_after_a_manifest_without_it(s3: S3, data: Path, tmp_path: Path) -> None:
    settings = s3.settings(tmp_path, remove_after_hours=0.0)
    publish_all(data, settings)
    publisher = publisher_of(data, settings)
    publisher.backlog()
    name = min(publisher.published)
    (data / "segments" / f"{name.segment_id:016x}.seg").unlink()
    publisher.backlog()
    key = publisher_key(data, s3, name)
    assert publisher.remove_gone(lambda segment_id: True, ()) == 0  # lost, not compacted away
    assert publisher.remove_gone(lambda segment_id: False, [name]) == 0  # only in the bucket, on purpose
    assert publisher.remove_gone(lambda segment_id: False, ()) == 0  # the manifest still has it
    publisher.write_manifest([])
    assert key in s3.objects
    assert publisher.remove_gone(lambda segment_id: False, ()) == 1
    assert key not in s3.objects
    publisher.close()
    with pytest.raises(ObjectMissing):
        bucket_of(data, settings).hint(name)


def publisher_key(data: Path, s3: S3, name: buckets.SegmentName) -> str:
    return f"site/{bucket_of(data, s3.settings(data.parent)).segment_key(name)}"


def test_a_segment_in_an_encrypted_bucket_is_read_back_and_shows_nothing(s3: S3, data: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("ab" * 32)
    settings = s3.settings(tmp_path, encryption_key_file=key)
    publish_all(data, settings)
    bucket = bucket_of(data, settings)
    names = bucket.hint_names()
    assert len(names) == len(segments_of(data))
    assert {published.name for published in bucket.read_manifest()} == set(names)
    for name in names:
        content = segments_of(data)[f"{name.segment_id:016x}"]
        assert bucket.objects.get(bucket.segment_key(name), 1 << 30) == content
    stored = b"".join(stored.data for stored in s3.objects.values())
    assert b"Doe^" not in stored and b"FILMSEG" not in stored and b"FRec" not in stored


def test_every_byte_of_a_hint_is_checked(data: Path, s3: S3, tmp_path: Path) -> None:
    settings = s3.settings(tmp_path)
    publish_all(data, settings)
    bucket = bucket_of(data, settings)
    name = bucket.hint_names()[0]
    content = bucket.hint(name).encode()
    unchecked = set(range(124, 4096))  # the second copy of the header, and zeros
    for at in {*range(0, len(content), 37), *range(len(content) - 40, len(content))} - unchecked:
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        if at < 124:
            assert Hint.decode(name, bucket.archive_id, changed)  # the second copy of the header is whole
            continue
        with pytest.raises(ObjectWrong):
            Hint.decode(name, bucket.archive_id, changed)
            pytest.fail(str(at))
    for length in range(0, len(content), 97):
        with pytest.raises(ObjectWrong):
            Hint.decode(name, bucket.archive_id, content[:length])


def test_keys_and_manifests_say_the_last_and_old_ones_go(s3: S3, data: Path, tmp_path: Path) -> None:
    bucket = bucket_of(data, s3.settings(tmp_path))
    assert bucket.read_keys() == ("", "") and bucket.read_manifest() == []
    for day in range(1, 4):
        bucket.write_keys(f"keys {day}", "accounts", datetime(2026, 1, day, tzinfo=UTC))
    assert bucket.read_keys() == ("keys 3", "accounts")
    key = bucket.timed("k")[-1].key
    s3.objects[f"site/{key}"].data = s3.objects[f"site/{key}"].data.replace(b"keys 3", b"keys 4")
    with pytest.raises(ObjectWrong):
        bucket.read_keys()
