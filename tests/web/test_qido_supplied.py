"""http.supply: answers of QIDO-RS have what linked orders supply, where nothing of it is a correction."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.config import Http
from engine.orders.entry_values import order_of
from engine.orders.linking import Named
from engine.orders.values import Source
from tests.archive.filled import payload_of, store, uid
from tests.archive.test_supplies import Chosen, entry
from tests.web.serving import ApiClient, serving

RIS = Source(name="RIS")


@pytest.mark.parametrize("supplies", [True, False])
def test_answers_have_what_orders_supply_if_the_server_says_so(tmp_path: Path, supplies: bool) -> None:
    data = tmp_path / "data"
    with Archive.open(data, role="keeper", create=True) as archive:
        store(archive, payload_of(1, 1, 1, AccessionNumber=""), payload_of(2, 1, 1, AccessionNumber="Q1"))
        with open_orders(archive, Chosen()) as orders:
            orders.apply(order_of({**entry("Q1"), "StudyInstanceUID": uid(1)}), RIS)
            orders.study_arrived(Named(study_instance_uid=uid(1), patient_id="P1"), RIS)
    with serving(data, http=Http(port=0, supply=supplies)) as hosting:
        client = ApiClient(hosting.port)
        expected = [uid(1), uid(2)] if supplies else [uid(2)]
        rows = client.get("/dicom-web/studies?AccessionNumber=Q1")
        assert [row["0020000D"]["Value"][0] for row in rows] == expected
        rows = client.get(f"/dicom-web/studies?StudyInstanceUID={uid(1)}")
        assert rows[0]["00080050"].get("Value", []) == (["Q1"] if supplies else [])
        rows = client.get("/dicom-web/studies?AccessionNumber=Q1&limit=1")
        assert len(rows) == 1 and client.headers["X-Remaining-Count"] == str(len(expected) - 1)
        client.close()
