"""What lies in an archive class of the bucket is asked for before an answer begins: 503 with a time, no broken zip."""

from __future__ import annotations

import http.client
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive.tiering import bucket_restore
from engine.objects.archive_classes import HOUR_S
from tests.archive.filled import all_instances, opened, uid
from tests.archive.tiering.stored import fill, publish_all
from tests.objects.s3 import S3
from tests.web.serving import serving

pytest.importorskip("obstore", reason="obstore is not installed")


@pytest.fixture
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


def test_a_study_of_which_one_segment_is_cold_is_refused_whole_until_it_is_back(s3: S3, tmp_path: Path) -> None:
    data, settings = tmp_path / "data", s3.settings(tmp_path)
    fill(data, 1)
    publish_all(data, settings)
    assert bucket_restore.restore(settings, tmp_path / "new").findings == []
    with opened(tmp_path / "new") as archive:
        segments = sorted({f"{each.position.segment_id:016x}" for each in all_instances(archive)})
    assert len(segments) > 1
    (cold,) = (key for key in s3.keys("/s/") if segments[-1] in key)
    s3.archived[cold] = "GLACIER"

    def ask(port: int, form: str, accept: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", f"/dicom-web/studies/{uid(1)}{form}", headers={"Accept": accept})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body

    with serving(tmp_path / "new") as hosting:
        parts = 'multipart/related; type="application/dicom"'
        for form, accept in (("/zip", "*/*"), ("", "application/zip"), ("", parts)):
            response, body = ask(hosting.port, form, accept)
            assert response.status == 503, (form, accept, body[:200])
            assert int(response.headers["Retry-After"]) > 4 * HOUR_S
    s3.recalled[cold] = True
    with serving(tmp_path / "new") as hosting:
        response, body = ask(hosting.port, "/zip", "*/*")
        assert response.status == 200
        assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None
