"""A share of a series over HTTP: the series alone, in each answer; everything else of its study is not found."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.access.scope import OneOfStudies, scope_of
from engine.archive.archive import Archive
from engine.web import change_stream
from tests import samples
from tests.web.hosting import Hosting
from tests.web.logged_in import Browser, add_user
from tests.web.serving import serving

STUDY = f"{samples.ROOT}.1"
SHARED, HIDDEN = f"{STUDY}.1", f"{STUDY}.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
SECRET = "SECRETSERIES"
OTHERS = (HIDDEN, SECRET, MR, '"MR"', f"{samples.ROOT}.2")
"""What no answer may have: of the other series and the other study of the patient."""
DICOMWEB = f"/dicom-web/studies/{STUDY}"


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosting]:
    data = tmp_path_factory.mktemp("series") / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        for number in (1, 2):
            archive.store(samples.part10(samples.instance(1, 1, number)))
        for number in (1, 2, 3):
            ds = samples.instance(1, 2, number, sop_class_uid=MR, modality="MR", SeriesDescription=SECRET)
            archive.store(samples.part10(ds))
        archive.store(samples.part10(samples.instance(2)))
    with serving(data) as hosting:
        add_user(hosting, "doctor", "radiologist")
        add_user(hosting, "stranger", "referrer", attributes={"referrer": ("NOBODY",)})
        yield hosting


@pytest.fixture
def doctor(hosting: Hosting) -> Iterator[Browser]:
    yield from logged_in(hosting, "doctor")


def logged_in(hosting: Hosting, name: str) -> Iterator[Browser]:
    browser = Browser(hosting)
    browser.log_in(name)
    yield browser
    browser.close()


def made(doctor: Browser, **more: Any) -> dict[str, Any]:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"series": [{"study": STUDY, "series": SHARED}], "until": until, **more}
    answer: dict[str, Any] = doctor.ask("POST", "/api/shares", body, status=201)
    return answer


def entered(hosting: Hosting, share: dict[str, Any]) -> Browser:
    visitor = Browser(hosting)
    visitor.ask("POST", "/api/share-session", {"token": share["link"].rpartition("/s/")[2]})
    return visitor


@pytest.fixture
def visitor(hosting: Hosting, doctor: Browser) -> Iterator[Browser]:
    browser = entered(hosting, made(doctor, may_download=True))
    yield browser
    browser.close()


def uids(rows: list[dict[str, Any]], tag: str) -> set[str]:
    return {row[tag]["Value"][0] for row in rows}


def test_the_series_is_all_there_is(visitor: Browser) -> None:
    everything = (
        "includefield=all&includefield=NumberOfPatientRelatedInstances&includefield=NumberOfPatientRelatedStudies"
    )
    everything += "&includefield=NumberOfPatientRelatedSeries&includefield=SOPClassesInStudy"
    answers = {
        path: visitor.get(path)
        for path in (
            f"/dicom-web/studies?{everything}",
            f"/dicom-web/series?{everything}",
            f"/dicom-web/instances?{everything}",
            f"{DICOMWEB}/series?{everything}",
            f"{DICOMWEB}/instances?{everything}",
            f"{DICOMWEB}/metadata",
            f"{DICOMWEB}/series/{SHARED}/metadata",
            f"/api/studies/{STUDY}",
            "/api/session",
        )
    }
    for path, answer in answers.items():
        text = json.dumps(answer)
        assert SHARED in text or "series" not in path, path
        for other in OTHERS:
            assert other not in text, (path, other)
    (study,) = answers[f"/dicom-web/studies?{everything}"]
    assert study["00201206"]["Value"] == [1]
    assert study["00201208"]["Value"] == [2]
    assert study["00080061"]["Value"] == ["CT"]
    for tag in ("00201200", "00201202", "00201204"):
        if tag in study:
            assert study[tag]["Value"] == [{"00201200": 1, "00201202": 1, "00201204": 2}[tag]]
    assert uids(answers[f"/dicom-web/series?{everything}"], "0020000E") == {SHARED}
    assert len(answers[f"/dicom-web/instances?{everything}"]) == 2
    assert len(answers[f"{DICOMWEB}/metadata"]) == 2
    assert answers[f"/api/studies/{STUDY}"]["instances"] == 2


@pytest.mark.parametrize(
    "path",
    [
        f"{DICOMWEB}/series/{HIDDEN}",
        f"{DICOMWEB}/series/{HIDDEN}/metadata",
        f"{DICOMWEB}/series/{HIDDEN}/rendered",
        f"{DICOMWEB}/series/{HIDDEN}/thumbnail",
        f"{DICOMWEB}/series/{HIDDEN}?accept=application/zip",
        f"{DICOMWEB}/series/{HIDDEN}/instances/{HIDDEN}.1",
        f"{DICOMWEB}/series/{HIDDEN}/instances/{HIDDEN}.1/metadata",
        f"{DICOMWEB}/series/{HIDDEN}/instances/{HIDDEN}.1/frames/1",
        f"{DICOMWEB}/series/{HIDDEN}/instances/{HIDDEN}.1/rendered",
        f"{DICOMWEB}/series/{HIDDEN}/instances/{HIDDEN}.1/thumbnail",
        f"{DICOMWEB}/series/{SHARED}/instances/{HIDDEN}.1",
        f"/api/instances/{HIDDEN}.1/tags",
        f"/api/download?series={HIDDEN}",
        f"/api/download?instances={HIDDEN}.1",
        f"/dicom-web/studies/{samples.ROOT}.2/metadata",
    ],
)
def test_what_is_not_shared_is_not_found_in_the_words_for_what_is_not_there(visitor: Browser, path: str) -> None:
    other = path.replace(HIDDEN, f"{STUDY}.9").replace(f"{samples.ROOT}.2/", f"{samples.ROOT}.9/")
    answers = [visitor.get(each, 404) for each in (path, other)]
    for answer in answers:
        answer.pop("request_id")
    named = json.dumps(answers[0]).replace(HIDDEN, f"{STUDY}.9").replace(f"{samples.ROOT}.2", f"{samples.ROOT}.9")
    assert named == json.dumps(answers[1])


@pytest.mark.parametrize(
    "query",
    [
        f"studies?SeriesInstanceUID={HIDDEN}",
        "studies?ModalitiesInStudy=MR",
        "studies?Modality=MR",
        f"studies?SeriesDescription={SECRET}",
        f"studies?SOPInstanceUID={HIDDEN}.1",
        f"studies?SOPClassesInStudy={MR}",
        f"series?SeriesInstanceUID={HIDDEN}",
        f"series?SeriesInstanceUID={HIDDEN}.9,{HIDDEN}",
        "series?Modality=MR",
        f"instances?SeriesInstanceUID={HIDDEN}",
        f"instances?SOPInstanceUID={HIDDEN}.1",
        f"instances?SOPClassUID={MR}",
    ],
)
def test_no_search_tells_what_the_rest_of_the_study_is(visitor: Browser, doctor: Browser, query: str) -> None:
    assert doctor.get(f"/dicom-web/{query}") != []
    answer = visitor.get(f"/dicom-web/{query}")
    # What is computed of a study is no key for visitors: they find what they see anyway.
    assert bool(answer) == ("InStudy" in query)
    assert HIDDEN not in json.dumps(answer)


def test_images_thumbnails_and_archives_are_of_the_series(visitor: Browser) -> None:
    instance = f"{DICOMWEB}/series/{SHARED}/instances/{SHARED}.1"
    for path in (f"{instance}/frames/1", f"{instance}/rendered", f"{instance}/thumbnail", f"{DICOMWEB}/thumbnail"):
        assert visitor.get(path), path
    for path in (f"{DICOMWEB}?accept=application/zip", f"/api/download?studies={STUDY}"):
        names = zipfile.ZipFile(io.BytesIO(visitor.get(path))).namelist()
        content = visitor.get(path)
        files = [name for name in names if "DICOMDIR" not in name]
        assert len(files) == 2, names
        assert HIDDEN.encode() not in content
        assert SECRET.encode() not in b"".join(zipfile.ZipFile(io.BytesIO(content)).read(name) for name in names)


def test_lists_and_streams_are_not_for_visitors(visitor: Browser) -> None:
    visitor.get("/api/studies?limit=10", 400)
    assert visitor.get("/api/studies/totals")["instances"] == 2


def test_a_change_of_the_study_is_told_to_nobody_who_sees_a_part_of_it(hosting: Hosting) -> None:
    event = b'{"sequence":1,"action":"stored","time":"","study_instance_uid":"%b"}' % STUDY.encode()
    whole, part = OneOfStudies(frozenset({STUDY})), OneOfStudies(frozenset({STUDY}), frozenset({(STUDY, SHARED)}))
    views = [hosting.engine.archive.view(scope_of([frozenset({each})])) for each in (whole, part)]
    assert [change_stream.is_visible(view, event) for view in views] == [True, False]


def test_viewing_only_a_password_and_an_end(hosting: Hosting, doctor: Browser) -> None:
    share = made(doctor, password="secret77", uses_max=1)
    assert share["series"] == [{"study": STUDY, "series": SHARED}] and share["studies"] == []
    token = share["link"].rpartition("/s/")[2]
    visitor = Browser(hosting)
    assert visitor.ask("POST", "/api/share-session", {"token": token}, status=401)["needs_password"]
    facts = visitor.ask("POST", "/api/share-session", {"token": token, "password": "secret77"})
    assert facts["share"]["series"] == [{"study": STUDY, "series": SHARED}]
    visitor.get(f"{DICOMWEB}/series/{SHARED}", 403)
    visitor.get(f"{DICOMWEB}/series/{SHARED}?accept=application/zip", 403)
    assert visitor.get(f"{DICOMWEB}/series/{SHARED}/metadata")
    visitor.ask("DELETE", f"{DICOMWEB}/series/{SHARED}", status=403)
    late = Browser(hosting)
    late.ask("POST", "/api/share-session", {"token": token, "password": "secret77"}, status=404)
    doctor.ask("DELETE", f"/api/shares/{share['id']}")
    visitor.get(f"{DICOMWEB}/series/{SHARED}/metadata", 401)
    visitor.close()
    late.close()


def test_nobody_shares_a_series_that_they_do_not_see_or_that_is_not_there(hosting: Hosting, doctor: Browser) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    pair = {"study": STUDY, "series": SHARED}
    for body, status in (
        ({"series": [{"study": STUDY, "series": f"{STUDY}.9"}]}, 404),
        ({"series": [{"study": f"{samples.ROOT}.2", "series": SHARED}]}, 404),
        ({"series": [pair], "studies": [STUDY]}, 400),
        ({"series": [pair], "patient": {"id": "P1"}}, 400),
        ({"series": []}, 400),
    ):
        doctor.ask("POST", "/api/shares", {**body, "until": until}, status=status)
    for stranger in logged_in(hosting, "stranger"):
        stranger.ask("POST", "/api/shares", {"series": [pair], "until": until}, status=403)
