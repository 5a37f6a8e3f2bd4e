"""The checks of a store: each finds the fault that it is for, and a good store passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.objects import checks
from engine.objects.checks import FAILED, PASSED, UNKNOWN, WARNING
from engine.objects.client import ObjectClient
from engine.objects.settings import ObjectStore
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")

ABORT = """<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule><ID>abort</ID>
<Status>Enabled</Status><Filter><Prefix></Prefix></Filter><AbortIncompleteMultipartUpload>
<DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>{more}</LifecycleConfiguration>"""


def results(s3: S3, folder: Path) -> dict[str, str]:
    found = checks.check(ObjectClient(s3.settings(folder, part_bytes=5 << 20)), "aa")
    return {check.name: check.result for check in found}


def test_a_good_store_passes_and_nothing_of_the_probe_stays(s3: S3, tmp_path: Path) -> None:
    s3.lifecycle, s3.versioning = ABORT.format(more=""), "Enabled"
    found = results(s3, tmp_path)
    assert found.pop("durability") == UNKNOWN
    assert set(found.values()) == {PASSED}
    assert set(found) == {"reachable", "create-only", "reading", "parts", "list", "lifecycle", "versioning"}
    assert not s3.keys("probe")


def test_a_store_that_lets_a_second_writer_replace_an_object_fails(s3: S3, tmp_path: Path) -> None:
    s3.conditional = False
    found = checks.check(ObjectClient(s3.settings(tmp_path, part_bytes=5 << 20)), "aa")
    assert checks.has_failed(found)
    assert {check.name for check in found if check.result == FAILED} == {"create-only"}


def test_wrong_bytes_are_found(s3: S3, tmp_path: Path) -> None:
    s3.fault(Fault.WRONG_BYTES, "GET", "/parts")
    assert results(s3, tmp_path)["parts"] == FAILED


def test_a_list_that_is_late_is_named(s3: S3, tmp_path: Path) -> None:
    s3.fault(Fault.STALE_LIST, "GET", "list-type")
    assert results(s3, tmp_path)["list"] == WARNING


@pytest.mark.parametrize(
    ("action", "result"),
    [
        ("<Expiration><Days>30</Days></Expiration>", FAILED),
        ("<Transition><Days>30</Days><StorageClass>GLACIER</StorageClass></Transition>", WARNING),
    ],
)
def test_rules_that_expire_or_archive_are_named(s3: S3, tmp_path: Path, action: str, result: str) -> None:
    rule = f"<Rule><ID>old</ID><Prefix>site/</Prefix><Status>Enabled</Status>{action}</Rule>"
    s3.lifecycle = ABORT.format(more=rule)
    found = [check for check in checks.check(ObjectClient(s3.settings(tmp_path)), "aa") if check.name == "lifecycle"]
    assert [check.result for check in found] == [result]
    assert "the rule old" in found[0].text


def test_a_rule_that_archives_full_segments_only_is_fine(s3: S3, tmp_path: Path) -> None:
    action = "<Transition><Days>30</Days><StorageClass>GLACIER</StorageClass></Transition>"
    rule = f"<Rule><ID>old</ID><Prefix>site/{'a' * 32}/s/</Prefix><Status>Enabled</Status>{action}</Rule>"
    s3.lifecycle = ABORT.format(more=rule)
    assert results(s3, tmp_path)["lifecycle"] == PASSED


def test_a_rule_that_is_disabled_does_nothing(s3: S3, tmp_path: Path) -> None:
    rule = "<Rule><ID>old</ID><Status>Disabled</Status><Expiration><Days>1</Days></Expiration></Rule>"
    s3.lifecycle = ABORT.format(more=rule)
    assert results(s3, tmp_path)["lifecycle"] == PASSED


def test_a_store_that_is_known_to_acknowledge_unsynced_bytes_is_named(s3: S3, tmp_path: Path) -> None:
    s3.server_name = "SeaweedFS S3"
    found = checks.check(ObjectClient(s3.settings(tmp_path)), "aa")
    assert [(check.result, "fsync" in check.text) for check in found if check.name == "durability"] == [(WARNING, True)]


def test_uploads_that_never_ended_are_counted(s3: S3, tmp_path: Path) -> None:
    s3.uploads["u"] = ("site/s/1", datetime.now(UTC) - timedelta(days=3), {})
    assert results(s3, tmp_path)["uploads"] == WARNING


def test_a_store_that_does_not_answer_gets_one_finding(tmp_path: Path) -> None:
    with S3() as gone:
        settings = gone.settings(tmp_path)
    found = checks.check(ObjectClient(settings), "aa")
    assert [(check.name, check.result) for check in found] == [("reachable", FAILED)]


def test_a_folder_is_named_as_one_that_does_not_sync(tmp_path: Path) -> None:
    found = checks.check(ObjectClient(ObjectStore(url=f"file://{tmp_path}/bucket")), "aa")
    assert not checks.has_failed(found)
    assert [check.result for check in found if check.name == "durability"] == [WARNING]
