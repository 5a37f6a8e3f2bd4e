"""filmroom doctor and worklists: stations that never asked, and steps that no list has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.config import Config
from engine.doctor import worklists
from engine.doctor.finding import Verdict
from engine.orders.registry import Orders
from engine.orders.rows import AskedRow
from engine.orders.settings import Station, Worklist
from engine.orders.stations import Stations
from engine.orders.values import OrderAction
from tests.orders.conftest import RIS, order, step


def examine(config: Config) -> list[tuple[Verdict, str]]:
    return [(found.verdict, found.what) for found in worklists.examine(config)]


@contextmanager
def registry(config: Config) -> Iterator[Orders]:
    with Archive.open(config.data, role="keeper", create=True) as archive:
        with open_orders(archive, Stations(lambda: config)) as orders:
            yield orders


def test_stations_that_never_asked_and_steps_that_no_list_has_are_found(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert examine(Config(data=data)) == []
    Archive.open(data, role="keeper", create=True).close()
    assert examine(Config(data=data)) == []
    config = Config(data=data, stations=(Station(aet="CT1", modality=("CT",)), Station(aet="US1", modality=("US",))))
    with registry(config) as orders:
        orders.apply(order("A1", None, step("S1")), RIS)
        orders.note_asked("CT1", AskedRow(keys=(), matches=0, time=1.0))
        orders.note_asked("US1", AskedRow(keys=(), matches=0, time=1.0))
    assert [verdict for verdict, _ in examine(config)] == [Verdict.GOOD]
    with registry(config) as orders:
        orders.apply(order("A2", None, step("S2", ae=None, modality="MR")), RIS)
        orders.apply(order("A3", None, step("S3", date="")), RIS)
        orders.apply(order("A4", None, step("S4", ae=None, modality="MR")), RIS)
        orders.apply(order("A4", action=OrderAction.CANCEL), RIS)
    silent = Station(aet="MG1", rooms=("R9",))
    more = Config(data=data, stations=(*config.stations, silent))
    assert examine(more) == [
        (Verdict.WARNING, "these stations have never asked: MG1"),
        (Verdict.WARNING, "of 3 open steps, 1 have no station: no station's list has them"),
        (Verdict.WARNING, "of 3 open steps, 1 have no date: the list of a day does not have them"),
    ]
    assert len(examine(Config(data=data, stations=config.stations, worklist=Worklist(unassigned="show")))) == 1
