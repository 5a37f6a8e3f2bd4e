"""Storage Commitment RS over HTTP: asked, judged, answered again, refused in words. One server for the module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from engine.dicom import xml_model
from engine.web import commitments
from tests import samples
from tests.web.hosting import Hosting
from tests.web.stowing import JSON, Answer, post, serving

_numbers = iter(range(1_000_000))


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    with serving(tmp_path_factory.mktemp("commitment") / "data") as hosting:
        yield hosting


def path() -> str:
    return f"/commitment-requests/1.2.3.{next(_numbers)}"


def item_of(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [sop_class_uid]}, "00081155": {"vr": "UI", "Value": [sop_instance_uid]}}


def body_of(*items: dict[str, Any]) -> bytes:
    return orjson.dumps([{"00081199": {"vr": "SQ", "Value": list(items)}}])


def stored(hosting: Hosting) -> dict[str, Any]:
    ds = samples.instance(next(_numbers) + 2_000_000)
    assert post(hosting, samples.part10(ds), "application/dicom").status == 200
    return item_of(ds.SOPClassUID, ds.SOPInstanceUID)


def ask(hosting: Hosting, where: str, body: bytes, content_type: str = JSON, **headers: str) -> Answer:
    return post(hosting, body, content_type, where, **headers)


def test_stored_instances_are_committed_and_others_have_a_reason(hosting: Hosting) -> None:
    good, where = stored(hosting), path()
    other_class = item_of(samples.MR, good["00081155"]["Value"][0])
    absent = item_of(samples.CT, "1.2.3.4.5")
    answer = ask(hosting, where, body_of(good, other_class, absent))
    assert answer.status == 200
    assert answer.module["00081199"]["Value"] == [good]
    assert [item["00081197"]["Value"] for item in answer.module["00081198"]["Value"]] == [[0x0119], [0x0112]]
    again = ask(hosting, where, b"", method="GET")
    assert again.status == 200 and again.body == answer.body
    assert ask(hosting, where, body_of(good)).status == 409, "its Transaction UID is in use"


def test_both_models_are_read_and_written(hosting: Hosting) -> None:
    good = stored(hosting)
    body = xml_model.encode(orjson.loads(body_of(good))[0])
    answer = ask(hosting, path(), body, "application/dicom+xml", Accept="application/dicom+xml")
    assert answer.status == 200
    assert xml_model.parse(answer.body)["00081199"]["Value"] == [good]


def test_a_slow_answer_is_fetched_later(hosting: Hosting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "WAIT_S", 0.0)
    good, where = stored(hosting), path()
    first = ask(hosting, where, body_of(good))
    assert first.status == 202 and not first.body and first.headers["Retry-After"]
    monkeypatch.setattr(commitments, "WAIT_S", 10.0)
    assert ask(hosting, where, b"", method="GET").module["00081199"]["Value"] == [good]


@pytest.mark.parametrize(
    ("where", "body", "content_type", "status"),
    [
        ("/commitment-requests/no-uid", body_of(item_of("1.2", "1.3")), JSON, 400),
        ("", b"", JSON, 400),
        ("", b"[]", JSON, 400),
        ("", body_of(), JSON, 400),
        ("", body_of(item_of("1.2", "x")), JSON, 400),
        ("", b'{"00081199": {"Value": [1]}}', JSON, 400),
        ("", body_of(item_of("1.2", "1.3")), "application/dicom", 415),
        ("", b"x" * (2 << 20), JSON, 413),
        ("", body_of(*[item_of("1.2", "1.3")] * 20_001)[: 1 << 20], JSON, 400),
    ],
)
def test_an_invalid_request_is_refused(
    hosting: Hosting, where: str, body: bytes, content_type: str, status: int
) -> None:
    where = where or path()
    assert ask(hosting, where, body, content_type).status == status
    assert ask(hosting, where, b"", method="GET").status in (400, 404)
