"""Archive classes: what is cold is asked for once, and the store's answer says how long it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ObjectCold, StoreRefused, StoreUnreachable
from engine.objects.archive_classes import HOUR_S, ArchiveClasses
from engine.objects.client import ObjectClient
from engine.objects.settings import ObjectStore
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")

KEY = "site/x"


def cold(s3: S3, storage_class: str) -> None:
    s3.store(KEY, b"bytes")
    s3.archived[KEY] = storage_class


@pytest.mark.parametrize(
    ("storage_class", "recall", "tier", "hours"),
    [
        ("GLACIER", "standard", b"<Tier>Standard<", 5),
        ("GLACIER", "expedited", b"<Tier>Expedited<", 300 / HOUR_S),
        ("DEEP_ARCHIVE", "bulk", b"<Tier>Bulk<", 48),
        ("DEEP_ARCHIVE", "expedited", b"<Tier>Standard<", 12),
    ],
)
def test_an_object_is_recalled_once_and_then_read(
    s3: S3, tmp_path: Path, storage_class: str, recall: str, tier: bytes, hours: float
) -> None:
    settings = s3.settings(tmp_path, recall=recall, recall_days=3)
    cold(s3, storage_class)
    with pytest.raises(ObjectCold):
        ObjectClient(settings).get("x")
    with pytest.raises(ObjectCold):
        ObjectClient(settings).get_range("x", 0, 2)
    classes = ArchiveClasses(settings)
    for _ in range(2):
        assert classes.recall("x") == hours * HOUR_S
    assert len(s3.recall_bodies) == 1
    assert tier in s3.recall_bodies[0] and b"<Days>3</Days>" in s3.recall_bodies[0]
    s3.recalled[KEY] = True
    assert classes.recall("x") == 0
    assert ObjectClient(settings).get("x") == b"bytes"


def test_other_classes_are_not_cold(s3: S3, tmp_path: Path) -> None:
    s3.store(KEY, b"bytes")
    assert ArchiveClasses(s3.settings(tmp_path)).recall("x") == 0
    assert s3.recall_bodies == []


def test_who_may_not_recall_is_told_why(s3: S3, tmp_path: Path) -> None:
    cold(s3, "GLACIER")
    with pytest.raises(StoreRefused, match="recall is off"):
        ArchiveClasses(s3.settings(tmp_path, recall="off")).recall("x")
    with pytest.raises(StoreRefused, match="keys of S3 only"):
        ArchiveClasses(ObjectStore(url="gs://bucket")).recall("x")
    for method in ("HEAD", "POST"):
        s3.fault(Fault.UNAVAILABLE, method)
        with pytest.raises(StoreUnreachable):
            ArchiveClasses(s3.settings(tmp_path)).recall("x")
    assert s3.recall_bodies == []
