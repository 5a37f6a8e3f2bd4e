"""archive.availability: how soon bytes can be had, at each level, in C-FIND, in QIDO-RS, and of single instances."""

from __future__ import annotations

import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from engine.archive.archive import Archive
from engine.archive.tiering import bucket_restore
from engine.archive.tiering.remote_segments import RemoteSegments
from engine.archive.tiering.residence import Residence
from engine.archive.tiering.status_file import STATUS_FILE
from engine.dicom import tags
from engine.exchange.availability import notification
from engine.index.format.types import Level
from engine.index.query import whereabouts
from engine.web.search_request import parse
from engine.web.search_rows import Rows
from tests.archive.filled import all_instances, opened, uid
from tests.archive.tiering.stored import fill, publish_all, store_studies
from tests.objects.s3 import S3

pytest.importorskip("obstore", reason="obstore is not installed")

LEVELS = {"study": Level.STUDY, "series": Level.SERIES, "instance": Level.IMAGE}


def old_folder(data: Path) -> None:
    """As it is later: a folder that has just changed is read again each time."""
    moment = time.time() - 60
    os.utime(data / "elsewhere", (moment, moment))


@pytest.fixture
def mixed(s3: S3, tmp_path: Path) -> Path:
    """Study 1 in the bucket only, study 2 here, study 3 in both."""
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1, count=3)
    fill(data, 3, count=3)
    publish_all(data, settings)
    new = tmp_path / "new"
    bucket_restore.restore(settings, new)
    with opened(new) as archive:
        store_studies(archive, 2, count=3)
        layout, files = archive.parts.layout, archive.parts.files
        remote = RemoteSegments(new, layout.archive_id, files)
        third = {one.position.segment_id for one in all_instances(archive) if one.study_instance_uid == uid(3)}
        for name in remote.names():
            if name.segment_id == min(third):
                Residence(layout, files, remote).fetch(name)
        assert len(third) > 1
    old_folder(new)
    return new


def found(archive: Archive, level: str) -> Counter[tuple[int, str]]:
    """Study number and availability of each match of a search over DICOMweb."""
    of_level = LEVELS[level]
    asked = parse("", of_level, {}, archive.schema, 0)
    rows = Rows(asked, archive.schema, "", archive.availability(of_level))
    objects = [orjson.loads(rows.encode(match)) for match in archive.find(asked.query)]
    counted: Counter[tuple[int, str]] = Counter()
    for each in objects:
        study = each[f"{tags.StudyInstanceUID:08X}"]["Value"][0].rpartition(".")[2]
        counted[int(study), each[f"{tags.InstanceAvailability:08X}"]["Value"][0]] += 1
    return counted


def test_a_study_is_as_far_away_as_the_farthest_of_its_instances(mixed: Path) -> None:
    with opened(mixed) as archive:
        for level in ("study", "series"):
            assert found(archive, level) == {(1, "NEARLINE"): 1, (2, "ONLINE"): 1, (3, "NEARLINE"): 1}
        of_instances = found(archive, "instance")
        assert of_instances[1, "NEARLINE"] == 3 and of_instances[2, "ONLINE"] == 3
        assert of_instances[3, "NEARLINE"] and of_instances[3, "ONLINE"]
        availability_of = archive.availability_of_instances()
        instances = [one for one in all_instances(archive) if one.study_instance_uid == uid(3)]
        told = notification(uid(3), instances, availability_of, "FILMROOM")
        assert told is not None
        (series,) = told[tags.ReferencedSeriesSequence]  # type: ignore[misc]
        references = series[tags.ReferencedSOPSequence]  # type: ignore[index, call-overload]
        assert {one[tags.InstanceAvailability] for one in references} == {b"ONLINE", b"NEARLINE"}


def test_of_a_long_series_the_first_and_the_last_instance_are_looked_at(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whereabouts, "READ_MAX", 0)
    with opened(mixed) as archive:
        assert found(archive, "study") == {(1, "NEARLINE"): 1, (2, "ONLINE"): 1, (3, "NEARLINE"): 1}


def test_while_the_store_does_not_answer_what_is_only_there_cannot_be_had(mixed: Path) -> None:
    def note(state: str, age_s: float) -> None:
        updated = datetime.fromtimestamp(time.time() - age_s, UTC).isoformat()
        (mixed / STATUS_FILE).write_bytes(orjson.dumps({"state": state, "updated": updated}))

    with opened(mixed) as archive:
        for state, age_s, expected in [
            ("away", 1, "UNAVAILABLE"),
            ("up to date", 1, "NEARLINE"),
            ("away", 3600, "NEARLINE"),
        ]:
            note(state, age_s)
            assert found(archive, "study")[1, expected] == 1


def test_an_archive_whose_bytes_are_all_here_asks_for_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "data", 1)
    with opened(tmp_path / "data") as archive:
        assert archive.availability(Level.STUDY) is None
        assert found(archive, "study") == {(1, "ONLINE"): 1}


def test_what_was_fetched_is_online_at_once(mixed: Path) -> None:
    with opened(mixed) as archive:
        found(archive, "study")
        layout, files = archive.parts.layout, archive.parts.files
        remote = RemoteSegments(mixed, layout.archive_id, files)
        for name in remote.names():
            Residence(layout, files, remote).fetch(name)
        assert found(archive, "study") == {(number, "ONLINE"): 1 for number in (1, 2, 3)}
