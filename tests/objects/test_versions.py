"""Versions: what was overwritten or removed is gone for good, or the store is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import StoreRefused, StoreUnreachable
from engine.objects import versions as module
from engine.objects.client import ObjectClient
from engine.objects.settings import ObjectStore
from engine.objects.versions import Versions
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")


def test_only_the_latest_version_stays_and_of_removed_objects_nothing(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    s3.versioning = "Enabled"
    settings = s3.settings(tmp_path)
    objects = ObjectClient(settings)
    for number in range(3):
        for key in ("y/a", "y/b", "y/gone", "z/other"):
            objects.put(key, b"%d" % number)
    objects.delete(["y/gone"])
    assert Versions(settings).forget("y/") == 8
    assert {(each.key, each.data) for each in s3.versions if "/y/" in each.key} == {
        ("site/y/a", b"2"),
        ("site/y/b", b"2"),
    }
    assert len([each for each in s3.versions if "/z/" in each.key]) == 3
    assert Versions(settings).forget("y/") == 0


@pytest.mark.parametrize("versioning", ["Enabled", ""])
def test_a_store_that_lets_old_versions_go_proves_it(s3: S3, tmp_path: Path, versioning: str) -> None:
    s3.versioning = versioning
    settings = s3.settings(tmp_path)
    Versions(settings).prove(ObjectClient(settings), "probe")
    assert s3.versions == [] and s3.keys() == []


def test_a_locked_bucket_is_refused(s3: S3, tmp_path: Path) -> None:
    s3.versioning, s3.is_locked = "Enabled", True
    settings = s3.settings(tmp_path)
    with pytest.raises(StoreRefused, match="Object Lock"):
        Versions(settings).prove(ObjectClient(settings), "probe")


def test_a_store_that_cannot_list_versions_is_refused_unless_it_says_that_it_has_none(s3: S3, tmp_path: Path) -> None:
    s3.lists_versions = False
    settings = s3.settings(tmp_path)
    Versions(settings).prove(ObjectClient(settings), "probe")
    s3.versioning = "Suspended"
    with pytest.raises(StoreRefused, match="does not list"):
        Versions(settings).prove(ObjectClient(settings), "probe")


def test_no_answer_is_no_proof(s3: S3, tmp_path: Path) -> None:
    for fault in (Fault.UNAVAILABLE, Fault.CLOSED):
        s3.fault(fault, "GET", "versions")
        with pytest.raises(StoreUnreachable):
            Versions(s3.settings(tmp_path)).forget("y/")


def test_a_folder_has_no_versions_and_other_clouds_do_not_say(tmp_path: Path) -> None:
    folder = ObjectStore(url=f"file://{tmp_path}/bucket")
    Versions(folder).prove(ObjectClient(folder), "probe")
    for url in ("gs://bucket/site", "az://account/container"):
        with pytest.raises(StoreRefused):
            Versions(ObjectStore(url=url)).forget("y/")
