"""Tiers: segments of old studies go when the bucket has them; everything is found and read as before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from engine.archive import verify
from engine.archive.tiering import connection, tiers
from engine.archive.tiering.last_reads import LastReads
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.errors import ObjectWrong
from engine.objects.settings import Tier
from engine.storage.files import Files
from tests.archive.filled import contents, opened, payload_of, store, uid
from tests.archive.tiering.stored import PIXELS, fill, publish_all, store_studies
from tests.objects.s3 import S3

pytest.importorskip("obstore", reason="obstore is not installed")

OLD = Tier(name="old", older_than_days=30)
LATER_NS = 40 * tiers.DAY_NS


def test_the_plan_names_studies_segments_and_cost_and_its_application_frees_them(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path, egress_usd_per_gib=100.0)
    fill(data, 1, 2)
    publish_all(data, settings)
    with opened(data) as archive:
        before = contents(archive)
        young = tiers.plan(archive, settings, [OLD], time.time_ns())
        assert (young.studies, young.segments) == ({"old": 0}, [])
        plan = tiers.plan(archive, settings, [OLD], time.time_ns() + LATER_NS)
        assert plan.studies == {"old": 2}
        assert len(plan.segments) > 1 and plan.bytes > 0 and plan.read_back_usd > 0
        segments, freed = tiers.apply(archive, settings, plan.segments)
        assert (segments, freed) == (len(plan.segments), plan.bytes)
        archive.parts.reader.sweep()
        assert contents(archive) == before
        assert tiers.plan(archive, settings, [OLD], time.time_ns() + LATER_NS).segments == []
    with opened(data) as archive:
        assert contents(archive) == before
        assert verify.check(archive, payloads=True).findings == []


def test_what_is_not_in_the_bucket_stays(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1, 2)
    with opened(data) as archive:
        plan = tiers.plan(archive, settings, [OLD], time.time_ns() + LATER_NS)
        assert plan.segments == [] and plan.unpublished_segments > 1
    publish_all(data, settings)
    for key in s3.keys("/s/"):
        del s3.objects[key]
    connection.remember(data, settings, Files())
    with opened(data) as archive:
        plan = tiers.plan(archive, settings, [OLD], time.time_ns() + LATER_NS)
        with pytest.raises(ObjectWrong):
            tiers.apply(archive, settings, plan.segments)
        layout = archive.parts.layout
        assert RemoteSegments(data, layout.archive_id, Files()).names() == []
        assert contents(archive)


def test_only_studies_of_the_rules_modalities_count_and_shared_segments_stay(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    with opened(data) as archive:
        store_studies(archive, 1, 2, segment_bytes=1 << 20)
    fill(data, 3)
    publish_all(data, settings)
    with opened(data) as archive:
        later_ns = time.time_ns() + LATER_NS
        none = tiers.plan(archive, settings, [Tier(name="mr", older_than_days=0, modalities=("MR",))], later_ns)
        assert none.studies == {"mr": 0}
        both = tiers.plan(archive, settings, [Tier(name="ct", older_than_days=0, modalities=("CT", "PT"))], later_ns)
        assert both.studies == {"ct": 3} and both.segments
        shared = both.segments[0].name.segment_id
        archive_mark = archive.parts.index.segment_marks()[shared]
        assert both.segments[0].share == 1.0 and archive_mark.live_count == 8


def test_studies_that_were_read_or_come_from_elsewhere_stay(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    with opened(data) as archive:
        for study, name in ((1, "North Clinic"), (2, "South"), (3, "")):
            store(archive, payload_of(study, 1, 1, InstitutionName=name, pixels=PIXELS))
        day_s = time.time()
        reads = LastReads(data, Files(), lambda: day_s - 20 * 86_400)
        reads.note([uid(1), uid(3)])
        reads.close()
        reads = LastReads(data, Files(), lambda: day_s)
        reads.note([uid(2)])
        reads.close()

        def named(**values: Any) -> int:
            rule = Tier(name="rule", older_than_days=0, **values)
            return tiers.plan(archive, settings, [rule], round(day_s * 1e9)).studies["rule"]

        assert named() == 3
        assert named(institutions=("NORTH clinic ", "other")) == 1
        assert named(last_read_days=10) == 2
        assert named(last_read_days=20) == 0
        assert named(last_read_days=21) == 0, "nobody has noted it for so long"
        assert named(last_read_days=10, institutions=("south",)) == 0
