"""Metadata of series: always what is stored now, whatever is kept of what was stored before."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive.archive import Archive
from engine.archive.lifecycle import correction
from engine.archive.lifecycle.patients import Patient
from engine.archive.metadata import series_metadata
from engine.archive.metadata.gzip_pieces import joined, stored, text_of
from engine.archive.metadata.instance_json import instance_json
from engine.archive.metadata.series_metadata import etag
from engine.dicom import tags
from engine.errors import CorruptRecord
from engine.index.format.types import Level
from engine.storage.reader import LogReader
from engine.storage.record import Position
from tests import samples
from tests.actors import actor
from tests.archive import kept

ROOT = "https://pacs.example/dicom-web"
STUDY = f"{samples.ROOT}.1"
SERIES = f"{samples.ROOT}.1.1"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with kept.opened(tmp_path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The instances whose metadata was made from what is stored, in order."""
    found: list[str] = []

    def counted(stored_: Any, *arguments: Any) -> bytes:
        found.append(stored_.instance.sop_instance_uid)
        return instance_json(stored_, *arguments)

    monkeypatch.setattr(series_metadata, "instance_json", counted)
    return found


def add(archive: Archive, *numbers: int, **more: object) -> None:
    kept.store(archive, [kept.data_set(number, **more) for number in numbers], policy="replace")


def shown(archive: Archive, root: str = ROOT, series: str | None = SERIES) -> list[dict[str, Any]]:
    """All instances, as a client that takes gzip gets them and as one that does not."""
    found = [archive.metadata.blob(revision, root) for revision in archive.metadata.revisions(STUDY, series)]
    pieces = [stored(b"[")]
    for number, blob in enumerate(found):
        pieces += [stored(b","), blob.piece] if number else [blob.piece]
    pieces.append(stored(b"]"))
    plain = b"".join(text_of(pieces))
    assert gzip.decompress(b"".join(joined(pieces))) == plain
    return list(json.loads(plain))


def uids(shown_: list[dict[str, Any]]) -> list[str]:
    return sorted(instance["00080018"]["Value"][0] for instance in shown_)


def tag_of(archive: Archive) -> str:
    return etag(archive.metadata.revisions(STUDY), ROOT)


def test_all_instances_are_shown_and_kept(archive: Archive, reads: list[str]) -> None:
    add(archive, *range(5))
    first = shown(archive)
    assert uids(first) == sorted(kept.uid_of(number) for number in range(5))
    pixels = first[0]["7FE00010"]
    uid = first[0]["00080018"]["Value"][0]
    assert pixels == {
        "vr": "OW",
        "BulkDataURI": f"{ROOT}/studies/{STUDY}/series/{SERIES}/instances/{uid}/bulkdata/7FE00010",
    }
    assert shown(archive) == first
    assert len(reads) == 5


def test_what_is_kept_outlives_the_process_and_the_index(tmp_path: Path, reads: list[str]) -> None:
    with kept.opened(tmp_path) as archive:
        add(archive, *range(5))
        first, tag = shown(archive), tag_of(archive)
    Archive.rebuild_index(tmp_path)
    with kept.opened(tmp_path) as archive:
        assert (shown(archive), tag_of(archive)) == (first, tag)
        assert len(reads) == 5


def test_new_instances_are_added_to_what_is_there(archive: Archive, reads: list[str]) -> None:
    add(archive, 0, 1, 2)
    before, tag = shown(archive), tag_of(archive)
    add(archive, 3, 4)
    assert tag_of(archive) != tag
    assert shown(archive)[:3] == before
    assert reads == [kept.uid_of(number) for number in range(5)]


@pytest.mark.parametrize("change", ["deleted", "replaced", "corrected"])
def test_what_is_no_longer_so_is_not_shown(archive: Archive, change: str) -> None:
    add(archive, 0, 1, 2)
    before, tag = shown(archive), tag_of(archive)
    if change == "deleted":
        gone = [kept.current(archive, kept.uid_of(1))]
        archive.delete_instances(gone, level=Level.IMAGE, actor=actor(), reason="")
    elif change == "replaced":
        add(archive, 1, patient_name="Another^Name")
    else:
        who = Patient("P1")
        correction.correct_patient(archive, who, {tags.PatientName: "Right^Name"}, actor=actor(), reason="")
    after = shown(archive)
    assert tag_of(archive) != tag
    assert after != before
    names = [instance["00100010"]["Value"][0]["Alphabetic"] for instance in after]
    if change == "deleted":
        assert uids(after) == [kept.uid_of(0), kept.uid_of(2)]
    elif change == "replaced":
        assert sorted(names) == ["Another^Name", "Doe^Jane", "Doe^Jane"]
    else:
        assert names == ["Right^Name"] * 3
        assert all("04000561" in instance for instance in after), "what was there before is said"
    assert etag([archive.metadata.blob(archive.metadata.revisions(STUDY)[0], ROOT)], ROOT) == tag_of(archive)


def test_every_root_has_its_own_urls(archive: Archive, reads: list[str]) -> None:
    add(archive, 0)
    for root in (ROOT, "http://localhost:8080/dicom-web", ROOT):
        assert shown(archive, root)[0]["7FE00010"]["BulkDataURI"].startswith(f"{root}/studies/")
    assert len(reads) == 2


def test_a_study_is_its_series_one_behind_the_other(archive: Archive) -> None:
    kept.store(archive, [samples.encoded(samples.instance(1, series, n)) for series in (2, 1) for n in (1, 2)])
    found = shown(archive, series=None)
    assert uids(found) == [f"{samples.ROOT}.1.{series}.{n}" for series in (1, 2) for n in (1, 2)]
    assert archive.metadata.revisions(STUDY, "9.9") == archive.metadata.revisions("9.9") == []


def test_an_instance_that_cannot_be_read_is_left_out_until_it_can(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    add(archive, 0, 1)
    damaged = kept.current(archive, kept.uid_of(1)).position
    read_into = LogReader.read_into

    def unreadable(reader: LogReader, position: Position, target: memoryview, payload_offset: int = 0) -> None:
        if position == damaged:
            raise CorruptRecord("cannot be read", *position[:2])
        read_into(reader, position, target, payload_offset)

    with monkeypatch.context() as patch:
        patch.setattr(LogReader, "read_into", unreadable)
        (revision,) = archive.metadata.revisions(STUDY)
        blob = archive.metadata.blob(revision, ROOT)
        assert (blob.count, blob.unreadable, revision.count) == (1, 0, 2)
    assert uids(shown(archive)) == [kept.uid_of(0), kept.uid_of(1)]
    assert reads == [kept.uid_of(number) for number in (0, 1, 1)]


def test_files_of_series_that_have_changed_are_purged(archive: Archive) -> None:
    kept.store(archive, [samples.encoded(samples.instance(1, series, 1)) for series in (1, 2, 3)])
    shown(archive, series=None)
    assert list(archive.metadata.purge()) == [False] * 3
    archive.delete_instances(
        [kept.current(archive, f"{samples.ROOT}.1.1.1")], level=Level.IMAGE, actor=actor(), reason=""
    )
    kept.store(archive, [samples.encoded(samples.instance(1, 2, 2))])
    assert sorted(archive.metadata.purge()) == [False, True, True]
    assert list(archive.metadata.purge()) == [False]
    assert len(shown(archive, series=None)) == 3


def test_damaged_files_are_made_anew(archive: Archive, reads: list[str]) -> None:
    add(archive, 0, 1)
    first = shown(archive)
    (path,) = (path for path in archive.parts.layout.metadata.rglob("*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert shown(archive) == first
    assert len(reads) == 4
    path.write_bytes(b"")
    assert shown(archive) == first


def test_it_works_without_a_folder_to_keep_anything_in(archive: Archive, reads: list[str]) -> None:
    add(archive, 0, 1)
    archive.parts.layout.metadata.parent.mkdir()
    archive.parts.layout.metadata.write_bytes(b"a file stands here")
    assert uids(shown(archive)) == uids(shown(archive)) == [kept.uid_of(0), kept.uid_of(1)]
    assert len(reads) == 4
