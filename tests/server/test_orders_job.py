"""The caretaker's job for the registry of orders."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.config import Config
from engine.orders.entry_values import order_of
from engine.orders.registry import Orders
from engine.orders.stations import Stations
from engine.orders.values import Source
from engine.server import orders_job
from engine.server.orders_job import OrdersJob


def test_a_server_that_is_started_again_each_hour_compacts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compactions: list[Orders] = []
    monkeypatch.setattr(Orders, "compact", lambda orders: bool(compactions.append(orders)))
    monkeypatch.setattr(orders_job, "FIRST_COMPACTION_S", 0.0)
    config = Config(data=tmp_path / "data")
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        orders = open_orders(archive, Stations(lambda: config))
        orders.apply(order_of({"PatientID": "1", "AccessionNumber": "A"}), Source(name="test"))
        for _ in range(2):
            job = OrdersJob(archive, config, threading.Event())
            job.step()
            job.step()
        assert len(compactions) == 2, "once after each start, then once an hour"
