"""/api/merges: what messages merged, page by page, and an undo."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.orders.registry import NoRules
from engine.orders.values import Identifier, PatientMerge, PatientUpdate, Source
from tests.archive.filled import payload_of, store, uid
from tests.web.serving import ApiClient, serving


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    data = tmp_path_factory.mktemp("merges") / "data"
    with Archive.open(data, role="keeper", create=True) as archive, open_orders(archive, NoRules()) as orders:
        store(archive, payload_of(1, 1, 1, patient_id="P1"))
        for number in (1, 2, 3):
            survivor = PatientUpdate(identifiers=(Identifier(f"S{number}"),), attributes={"PatientName": "B"})
            merge = PatientMerge(survivor=survivor, prior=Identifier(f"P{number}"))
            orders.apply(merge, Source(name="KIS", reference=f"hl7:{number}"))
    with serving(data) as hosting:
        client = ApiClient(hosting.port)
        yield client
        client.close()


def test_merges_are_listed_page_by_page_and_undone_once(api: ApiClient) -> None:
    page = api.get("/api/merges?limit=2")
    assert [each["prior"]["PatientID"] for each in page["merges"]] == ["P3", "P2"]
    last = api.get(f"/api/merges?limit=2&before={page['older']}")
    (merge,) = last["merges"]
    assert (merge["survivor"]["PatientID"], merge["messages"], merge["undone_by"]) == ("S1", ["hl7:1"], "")
    assert last["older"] is None
    query = f"/api/studies?StudyInstanceUID={uid(1)}&includefield=PatientID"
    assert api.get(query)["studies"][0]["00100020"]["Value"] == ["S1"]
    done = api.post(f"/api/merges/{merge['number']}/undo", {"reason": "two persons"})
    assert "correction undone" in done["changes"] and "stay there" in done["warnings"][0]
    assert api.get(query)["studies"][0]["00100020"]["Value"] == ["P1"]
    assert api.get("/api/merges")["merges"][2]["reason"] == "two persons"
    assert "undone already" in api.post(f"/api/merges/{merge['number']}/undo", {"reason": "again"}, 409)["detail"]


@pytest.mark.parametrize("number", ["0", "99999", "x", "9" * 30])
def test_a_merge_that_is_none_is_not_found(api: ApiClient, number: str) -> None:
    api.post(f"/api/merges/{number}/undo", {"reason": "r"}, 404)


def test_without_orders_there_are_no_merges(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("none") / "data"
    with Archive.open(data, role="keeper", create=True):
        pass
    with serving(data) as hosting:
        client = ApiClient(hosting.port)
        assert client.get("/api/merges") == {"merges": [], "older": None}
        client.post("/api/merges/1/undo", {"reason": "r"}, 404)
        client.close()
