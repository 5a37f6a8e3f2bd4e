"""Recalls: a read of cold bytes has its study recalled, is refused with a time, and is right when they are back."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.tiering import bucket_restore
from engine.archive.tiering.recalls import LOOK_EVERY_S, Recalls
from engine.errors import SegmentCold, StoreRefused
from engine.objects.archive_classes import HOUR_S, ArchiveClasses
from engine.objects.bucket import SegmentName
from tests.archive.filled import all_instances, contents, opened, uid
from tests.archive.tiering.stored import fill, publish_all
from tests.objects.s3 import S3

pytest.importorskip("obstore", reason="obstore is not installed")


def freeze(s3: S3) -> list[str]:
    """Moves all segments to an archive class; returns their keys."""
    keys = s3.keys("/s/")
    s3.archived.update(dict.fromkeys(keys, "GLACIER"))
    return keys


def test_one_read_recalls_its_study_and_the_bytes_come_back(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1, 2)
    publish_all(data, settings)
    with opened(data) as archive:
        before = contents(archive)
    keys = freeze(s3)
    assert bucket_restore.restore(settings, tmp_path / "new").findings == []
    with opened(tmp_path / "new") as archive:
        instances = [each for each in all_instances(archive) if each.study_instance_uid == uid(1)]
        segments = {f"{each.position.segment_id:016x}" for each in instances}
        assert 1 < len(segments) < len(keys)
        with pytest.raises(SegmentCold) as refusal:
            archive.read(instances[0])
        assert refusal.value.retry_s > 4 * HOUR_S
        assert {key.partition("/s/")[2][:16] for key in s3.recalled} == segments
        s3.requests.clear()
        for instance in instances:
            with pytest.raises(SegmentCold):
                archive.read(instance)
        assert s3.requests == []
        assert archive.parts.index.damage() == []
    s3.recalled.update(dict.fromkeys(keys, True))
    with opened(tmp_path / "new") as archive:
        assert contents(archive) == before


def test_recalls_that_are_off_are_refused_and_nothing_is_damage(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path, recall="off")
    fill(data, 1)
    publish_all(data, settings)
    freeze(s3)
    bucket_restore.restore(settings, tmp_path / "new")
    with opened(tmp_path / "new") as archive:
        with pytest.raises(StoreRefused, match="recall is off"):
            contents(archive)
        assert archive.parts.index.damage() == []
    assert s3.recall_bodies == []


def test_a_segment_is_looked_at_again_after_a_while(s3: S3, tmp_path: Path) -> None:
    now = [1000.0]
    name = SegmentName(1, 2)
    s3.store("site/one", b"bytes")
    s3.archived["site/one"] = "GLACIER"
    recalls = Recalls(ArchiveClasses(s3.settings(tmp_path)), lambda name: "one", lambda: now[0])
    recalls.check(name)
    first = recalls.begin(name)
    assert first is not None and first.retry_s == 5 * HOUR_S
    with pytest.raises(SegmentCold):
        recalls.check(name)
    now[0] += LOOK_EVERY_S
    recalls.check(name)
    later = recalls.begin(name)
    assert later is not None and later.retry_s == 5 * HOUR_S - LOOK_EVERY_S, "the time goes on from the first request"
    s3.recalled["site/one"] = True
    assert recalls.begin(name) is None
    recalls.check(name)
