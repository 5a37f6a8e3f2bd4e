"""Windows of studies in any order: every study once, filters, jumps, and what is refused. One server for all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.archive.archive import Archive
from engine.index.query import ordering
from tests import samples
from tests.web.serving import ApiClient, serving

STUDIES = 60
SEED = 20261129
NAMES = ("Adams^Ann", "adler^Bo", "Müller^Jörg", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Zoe", "")


def facts(number: int, chooser: random.Random) -> dict[str, Any]:
    return {
        "patient_id": f"P{chooser.randrange(20):02}",
        "patient_name": chooser.choice(NAMES),
        "study_date": chooser.choice(("20260101", "20260102", "20260315", "")),
        "modality": chooser.choice(("CT", "MR")),
        "AccessionNumber": f"A{number % 7}",
        "InstitutionName": ("Saint Ann", "saint bo", "Zentrum", "")[number % 4],
    }


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    data: Path = tmp_path_factory.mktemp("windows") / "data"
    chooser = random.Random(SEED)
    with Archive.open(data, role="keeper", create=True) as archive:
        for number in range(1, STUDIES + 1):
            archive.store(samples.part10(samples.instance(number, 1, 1, **facts(number, chooser))))
        archive.store(samples.part10(samples.instance(7, 2, 1, modality="SR")))
    with serving(data) as hosting:
        asking = ApiClient(hosting.port)
        yield asking
        asking.close()


def value(row: dict[str, Any], tag: str) -> str:
    found = row.get(tag, {}).get("Value", [""])[0]
    return str(found.get("Alphabetic", "") if isinstance(found, dict) else found or "")


def uids(rows: list[dict[str, Any]]) -> list[str]:
    return [value(row, "0020000D") for row in rows]


def all_windows(api: ApiClient, query: str, limit: int = 7) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        answer = api.get(f"/api/studies?limit={limit}&{query}{after}")
        assert len(answer["studies"]) <= limit
        rows += answer["studies"]
        if answer["next"] is None:
            return rows
        after = f"&after={answer['next']}"


ORDERS = {
    "StudyDate": "00080020",
    "PatientName": "00100010",
    "PatientID": "00100020",
    "AccessionNumber": "00080050",
    "ModalitiesInStudy": "00080061",
}


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("order", ORDERS)
def test_windows_in_every_order_have_each_study_once_and_those_without_a_value_last(
    api: ApiClient, order: str, sign: str
) -> None:
    rows = all_windows(api, f"order={sign}{order}")
    assert len(set(uids(rows))) == len(rows) == STUDIES
    values = [value(row, ORDERS[order]).upper() for row in rows]
    given = [each for each in values if each]
    assert values == given + [""] * (STUDIES - len(given))
    assert given == sorted(given, reverse=bool(sign))


def test_windows_are_in_the_order_of_arrival(api: ApiClient) -> None:
    rows = uids(all_windows(api, "order=received"))
    assert rows == [f"{samples.ROOT}.{number}" for number in range(1, STUDIES + 1)]
    assert uids(all_windows(api, "")) == rows[::-1], "the latest first, where nobody says"


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("order", ["size", "sender", "institution"])
def test_facts_of_arrival_are_an_order_too(
    api: ApiClient, order: str, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = f"order={sign}{order}"
    rows = all_windows(api, query)
    assert len(set(uids(rows))) == len(rows) == STUDIES
    arrivals = api.get(f"/api/studies?limit=200&arrivals=true&{query}")["arrivals"]
    values = {
        "size": [arrival["bytes"] for arrival in arrivals],
        "sender": [arrival["senders"][0].lower() for arrival in arrivals],
        "institution": ["".join(arrival["institutions"][:1]).lower() for arrival in arrivals],
    }[order]
    given = [each for each in values if each]
    assert values == given + [""] * (STUDIES - len(given))
    assert given == sorted(given, reverse=bool(sign))
    monkeypatch.setattr(ordering, "GATHERED_MAX", 5)
    assert f"sorted by {order}" in api.get(f"/api/studies?{query}", 400)["detail"]


@pytest.mark.parametrize("few", [0, ordering.FEW])
def test_filters_apply_in_every_order(api: ApiClient, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "FEW", few)
    for query, wanted in (("PatientName=*ADAMS*", "ADAMS^ANN"), ("PatientName=adams^*", "ADAMS^ANN")):
        everything = [row for row in all_windows(api, "order=PatientID") if value(row, "00100010").upper() == wanted]
        found = all_windows(api, f"order=PatientID&{query}")
        assert found and sorted(uids(found)) == sorted(uids(everything))
        assert [value(row, "00100020") for row in found] == sorted(value(row, "00100020") for row in found)
    total = api.get("/api/studies?count=true&limit=1&PatientName=*ADAMS*")["total"]
    assert total == {"count": len(found), "is_exact": True}
    assert api.get("/api/studies?count=true&limit=1")["total"] == {"count": STUDIES, "is_exact": True}


def test_a_window_begins_at_a_text_or_at_a_position(api: ApiClient) -> None:
    rows = all_windows(api, "order=StudyDate")
    dates = [value(row, "00080020") for row in rows]
    window = api.get("/api/studies?order=StudyDate&from=20260102&limit=5")["studies"]
    assert uids(window) == uids(rows)[dates.index("20260102") :][:5]
    down = all_windows(api, "order=-StudyDate")
    first = [value(row, "00080020") for row in down].index("20260102")
    window = api.get("/api/studies?order=-StudyDate&from=20260102&limit=5")["studies"]
    assert uids(window) == uids(down)[first : first + 5]
    for order in ("StudyDate", "PatientID", "-PatientID", "-AccessionNumber", "-received", "received&PatientID=P*"):
        everything = uids(all_windows(api, f"order={order}", 200))
        for position in (0, 1, 25, STUDIES - 1, STUDIES + 5):
            window = api.get(f"/api/studies?order={order}&position={position}&limit=3")["studies"]
            assert uids(window) == everything[position : position + 3], (order, position)


def test_an_interrupted_search_continues_where_it_was(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.web import window

    monkeypatch.setattr(ordering, "FEW", 0)
    monkeypatch.setattr(ordering, "CHUNK", 2)
    monkeypatch.setattr(window, "WINDOW_S", 0.0)
    monkeypatch.setattr(window, "SLICE_S", 0.0)
    answers = [api.get("/api/studies?order=PatientID&PatientName=adams^*")]
    while answers[-1]["next"]:
        after = answers[-1]["next"]
        answers.append(api.get(f"/api/studies?order=PatientID&PatientName=adams^*&after={after}"))
    assert any(not answer["studies"] for answer in answers)
    monkeypatch.undo()
    found = [row for answer in answers for row in answer["studies"]]
    assert uids(found) == uids(all_windows(api, "order=PatientID&PatientName=adams^*"))


@pytest.mark.parametrize(
    "query",
    [
        "order=Rows", "order=Modality", "order=nothing", "order=", "after=!", "after=AAAA", "limit=x", "position=-1",
        "order=StudyDate&order=PatientID", "PatientNmae=X", "after=AA&from=B", "from=A", "count=1", "StudyDate=2026x",
    ],
)  # fmt: skip
def test_invalid_parameters_are_refused(api: ApiClient, query: str) -> None:
    assert api.get(f"/api/studies?{query}", 400)["detail"]


def test_a_cursor_of_another_order_is_refused(api: ApiClient) -> None:
    cursor = api.get("/api/studies?order=StudyDate&limit=1")["next"]
    assert "another order" in api.get(f"/api/studies?order=-StudyDate&after={cursor}", 400)["detail"]


def test_too_many_studies_to_sort_are_refused_with_a_reason(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "GATHERED_MAX", STUDIES - 1)
    detail = api.get("/api/studies?order=NumberOfStudyRelatedInstances", 400)["detail"]
    assert "narrow the search" in detail
    assert api.get("/api/studies?order=StudyDate&limit=1")["studies"]
