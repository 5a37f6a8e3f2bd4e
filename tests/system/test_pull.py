"""`filmroom pull --move`: a foreign archive sends to the running server, and the index tells what has come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from engine.archive.archive import Archive
from engine.config import Config, Limits, Peer
from engine.dicom import tags
from engine.errors import AssociationFailed
from engine.services import pull
from engine.services.pull_plan import PullQuery
from engine.services.pull_report import PullReport
from tests import foreign_archive, samples
from tests.foreign_archive import Archive as Foreign
from tests.sinks import NATIVE, sink
from tests.system.server import Server, running

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "data") as started:
        yield started


def four() -> list[samples.Dataset]:
    """Two series of two."""
    return [samples.instance(*which) for which in ((1, 1, 1), (1, 1, 2), (1, 2, 1), (1, 2, 2))]


def moved(server: Server, peer: Peer, *, again: bool = False) -> PullReport:
    report = PullReport()
    config = Config(data=server.data, dicom_port=server.port, limits=Limits(disk_reserve_bytes=0))
    query = PullQuery(keys={tags.PatientID: "*"}, again=again)

    async def run() -> None:
        with Archive.open(server.data) as archive:
            progress = lambda what, done, total: None  # noqa: E731
            async with pull.pulling(archive, config, peer, query, report, progress, is_move=True) as work:
                await work.run()

    uvloop.run(run())
    return report


def test_what_a_peer_sends_to_the_server_is_counted_once_and_asked_for_once(server: Server) -> None:
    foreign = Foreign(four(), destination=(HOST, server.port))
    with foreign_archive.serving(foreign) as peer:
        first, second, again = moved(server, peer), moved(server, peer), moved(server, peer, again=True)
    assert (first.stored, first.duplicates, first.failed) == (4, 0, {})
    assert (second.here, second.arrived, second.failed) == (4, 0, {})
    assert (again.stored, again.duplicates, again.failed) == (0, 4, {})
    assert len([what for what, _ in foreign.asked if what == "move"]) == 4


def test_what_does_not_come_is_named_and_the_rest_is_counted(server: Server) -> None:
    lost = four()[1].SOPInstanceUID

    def sent(event: object, chosen: list[samples.Dataset]) -> list[samples.Dataset]:
        return [ds for ds in chosen if ds.SOPInstanceUID != lost]

    with foreign_archive.serving(Foreign(four(), sent=sent, destination=(HOST, server.port))) as peer:
        report = moved(server, peer)
    assert (report.stored, list(report.failed)) == (3, [lost])


def test_a_peer_that_does_not_know_us_is_said_to_need_that_at_once(server: Server) -> None:
    foreign = Foreign(four())
    with foreign_archive.serving(foreign) as peer:
        expected = rf"does not know FILMROOM .*must know FILMROOM as this machine's address with port {server.port}"
        with pytest.raises(AssociationFailed, match=expected):
            moved(server, peer)
    assert len([what for what, _ in foreign.asked if what == "move"]) == 1


def test_a_peer_that_sends_elsewhere_is_given_up_after_some_series(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "VISIBLE_S", 0.1)
    instances = [samples.instance(1, number, 1) for number in range(1, 9)]
    with sink({samples.CT: NATIVE}) as (elsewhere, received):
        foreign = Foreign(instances, destination=(elsewhere.host, elsewhere.port))
        with foreign_archive.serving(foreign) as peer:
            with pytest.raises(AssociationFailed, match="no instance arrives here .*reports that all were sent"):
                moved(server, peer)
    assert received
    assert len([what for what, _ in foreign.asked if what == "move"]) == pull.EMPTY_MOVES_MAX
