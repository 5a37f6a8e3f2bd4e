"""Shipping: a served archive is in its bucket a moment later; while the store is away all goes on, and is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.archive.archive import Archive
from engine.archive.nodes.announcement import Announcement
from engine.archive.nodes.announcer import Announcer
from engine.archive.tiering import connection
from engine.archive.tiering import shipping as shippings
from engine.archive.tiering.shipping import Shipping
from engine.archive.tiering.status_file import read_status
from engine.errors import ClusterUnreachable
from engine.objects.settings import ObjectStore
from tests.archive.filled import opened
from tests.archive.tiering.stored import bucket_of, fill, store_studies, tail_of
from tests.objects.s3 import S3, Fault

pytest.importorskip("obstore", reason="obstore is not installed")

PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shippings, "PAUSE_S", (0.02, 0.05))
    monkeypatch.setattr(shippings, "LOOK_S", 0.02)
    monkeypatch.setattr(shippings, "STATUS_EVERY_S", 0.0)


@pytest.fixture
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@contextmanager
def shipping_of(
    archive: Archive, settings: ObjectStore, announcer: Announcer | None = None
) -> Iterator[Shipping]:
    stopping = threading.Event()
    shipping = Shipping(archive, settings, stopping, announcer)
    shipping.start()
    try:
        yield shipping
    finally:
        stopping.set()
        shipping.release()
        shipping.join()


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "it never came"
        threading.Event().wait(0.02)


def test_segments_and_tail_are_in_the_bucket_and_the_state_says_so(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data, 1)
    with opened(data) as archive:
        with shipping_of(archive, s3.settings(tmp_path, tail_interval_s=0.05)) as shipping:
            store_studies(archive, 2, segment_bytes=1 << 20)
            bucket = bucket_of(data, s3.settings(tmp_path))
            wait_until(lambda: shipping.stats()["state"] == shippings.UP_TO_DATE)
            wait_until(lambda: len(bucket.read_manifest()) == len(bucket.hint_names()) > 1)
            wait_until(lambda: tail_is_there(data, s3, tmp_path))
            stats = shipping.stats()
            assert (stats["backlog_segments"], stats["backlog_bytes"], stats["is_alarming"]) == (0, 0, False)
            wait_until(lambda: (read_status(data) or {}).get("state") == shippings.UP_TO_DATE)


def tail_is_there(data: Path, s3: S3, folder: Path) -> bool:
    names = {name.segment_id for name in bucket_of(data, s3.settings(folder)).hint_names()}
    segments = {int(path.stem, 16) for path in (data / "segments").glob("*.seg")}
    return bool(segments - names) and bool(s3.keys("/w/"))


def test_while_the_store_is_away_storing_goes_on_and_the_backlog_grows(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    fill(data, 1)
    monkeypatch.setattr(shippings, "ALERT_S", 0.0)
    s3.go_away()
    with opened(data) as archive:
        with shipping_of(archive, s3.settings(tmp_path, tail_interval_s=0.05)) as shipping:
            wait_until(lambda: shipping.stats()["state"] == shippings.AWAY)
            before = shipping.stats()["backlog_bytes"]
            store_studies(archive, 2, 3)
            wait_until(lambda: int(str(shipping.stats()["backlog_bytes"])) > int(str(before)))
            assert shipping.stats()["is_alarming"]
            assert "does not answer" in str(shipping.stats()["error"])
            s3.go_away(False)
            wait_until(lambda: shipping.stats()["state"] == shippings.UP_TO_DATE)
            assert shipping.stats()["backlog_segments"] == 0
            assert not shipping.stats()["is_alarming"]
            wait_until(lambda: len(bucket_of(data, s3.settings(tmp_path)).hint_names()) > 3)


def test_the_store_is_not_blamed_while_the_other_nodes_cannot_be_told(
    s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    is_away = threading.Event()
    is_away.set()

    def append(announcement: Announcement) -> None:
        if is_away.is_set():
            raise ClusterUnreachable("PostgreSQL does not answer")

    data = tmp_path / "data"
    with opened(data) as archive:
        announcer = Announcer(archive.parts.layout, archive.parts.files, append)
        with shipping_of(archive, s3.settings(tmp_path, tail_interval_s=0.05), announcer) as shipping:
            store_studies(archive, 1, segment_bytes=1 << 20)
            wait_until(lambda: shipping.stats()["state"] == shippings.BEHIND)
            wait_until(lambda: shipping.stats()["error"] != "")
            assert shipping.stats()["error"] == "the other nodes cannot be told: PostgreSQL does not answer"
            assert shipping.stats()["away_s"] == 0.0
            is_away.clear()
            wait_until(lambda: shipping.stats()["state"] == shippings.UP_TO_DATE)
            assert shipping.stats()["error"] == ""
    assert "the object store" not in caplog.text


def test_a_store_that_is_away_from_the_start_leaves_the_lag_of_the_tail_unknown_and_its_age_known(
    s3: S3, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path, tail_interval_s=0.05)
    with opened(data) as archive, shipping_of(archive, settings) as shipping:
        store_studies(archive, 1)
        wait_until(lambda: shipping.stats()["tail_lag_bytes"] == 0)
        wait_until(lambda: (read_status(data) or {}).get("tail_lag_bytes") == 0)
    s3.go_away()
    with opened(data) as archive, shipping_of(archive, settings) as shipping:
        store_studies(archive, 2)
        wait_until(lambda: shipping.stats()["state"] == shippings.AWAY)
        assert shipping.stats()["tail_lag_bytes"] is None
        assert isinstance(shipping.stats()["tail_age_s"], float)
        s3.go_away(False)
        wait_until(lambda: shipping.stats()["tail_lag_bytes"] == 0)


@pytest.mark.parametrize(
    "status",
    [
        None,
        {},
        {"url": "s3://a", "tail_age_s": None, "updated": "2026-11-30T10:00:00+00:00"},
        {"url": "s3://a", "tail_age_s": 5.0},
        {"url": "s3://a", "tail_age_s": 5.0, "updated": 7},
        {"url": "s3://a", "tail_age_s": 5.0, "updated": "yesterday"},
        {"url": "s3://b", "tail_age_s": 5.0, "updated": "2026-11-30T10:00:00+00:00"},
    ],
)
def test_what_an_earlier_server_noted_may_be_of_no_use(status: dict[str, Any] | None) -> None:
    assert shippings._shipped_s(status, "s3://a") == 0.0


def test_an_error_of_any_kind_that_lasts_is_an_alarm(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path, tail_interval_s=0.05)
    monkeypatch.setattr(shippings, "ALERT_S", 0.0)
    with opened(data) as archive:
        bucket = bucket_of(data, settings)
        bucket.objects.put(f"{bucket.root}/archive.json", b'{"format": 99}')
        with shipping_of(archive, settings) as shipping:
            wait_until(lambda: "format" in str(shipping.stats()["error"]))
            wait_until(lambda: bool(shipping.stats()["is_alarming"]))
            assert shipping.stats()["away_s"] == 0.0


def test_a_store_that_hangs_keeps_nobody_waiting(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with opened(data) as archive:
        s3.fault(Fault.HELD, "PUT", "/w/")
        with shipping_of(archive, s3.settings(tmp_path, tail_interval_s=0.05)):
            store_studies(archive, 1)
            assert s3.held.acquire(timeout=PATIENCE_S)
            store_studies(archive, 2, 3)
            assert archive.stats()["instances"] == 12
            s3.released.set()
            wait_until(lambda: bool(s3.keys("/w/")))


def test_wrong_credentials_are_an_alarm(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path)
    assert settings.credentials_file is not None
    settings.credentials_file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    with opened(data) as archive, shipping_of(archive, settings) as shipping:
        wait_until(lambda: shipping.stats()["state"] == shippings.REFUSED)
        assert shipping.stats()["is_alarming"]


def test_a_machine_that_was_taken_over_stops_shipping_for_good(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path, tail_interval_s=0.05)
    with opened(data) as archive:
        store_studies(archive, 1)
        with shipping_of(archive, settings) as shipping:
            wait_until(lambda: bool(s3.keys("/w/")))
            (data / "chain.json").unlink()
            tail_of(data, settings).open()
            store_studies(archive, 2)
            wait_until(lambda: shipping.stats()["state"] == shippings.FENCED)
            assert (read_status(data) or {})["is_alarming"]


def test_the_settings_stay_in_the_archive_without_secrets(s3: S3, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = s3.settings(tmp_path)
    with opened(data) as archive, shipping_of(archive, settings):
        assert connection.recorded(data, archive.parts.files) == settings
    assert b"secret-of-the-test" not in (data / "object-store.json").read_bytes()
