"""A bench of Filmroom itself: every kind of request, and what it leaves is found and deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perf import peers
from perf.association import Target
from perf.bench import clean, runner, trial
from perf.bench.endpoints import Endpoints, RetrieveBy
from perf.bench.http import WebTarget
from perf.bench.profiles import Profile, Stock, Stream
from perf.bench.result import Report
from perf.bench.runner import Pace
from perf.peers import Peer
from perf.sink import Sink
from tests.perf.stepped_clock import SteppedClock

pytestmark = pytest.mark.slow

ALL = ("store", "find", "retrieve", "frames")


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    made = Sink(0)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WallClock", SteppedClock)


@pytest.fixture(scope="module")
def server(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with peers.running(
        "filmroom", parent=tmp_path_factory.mktemp("server"), sink_port=sink.port, workers=1, http=True
    ) as peer:
        yield peer


def endpoints_of(server: Peer, sink: Sink, *, by: RetrieveBy, dicom: bool, web: bool) -> Endpoints:
    target = Target(server.port, server.aet) if dicom else None
    services = WebTarget(f"http://127.0.0.1:{server.http_port}/dicom-web") if web else None
    return Endpoints(target, services, sink, by)


def bench(endpoints: Endpoints, *, restart: str = "") -> Report:
    """A short run of all kinds of requests at once."""
    profile = Profile(
        title="All",
        text="all kinds of requests",
        name="all",
        stock=Stock(studies=2, instances=3, template="ct-head"),
        stream=[
            Stream(name=does, text=does, does=does, rate=20.0, connections=1, template="tiny", series_instances=4)
            for does in ALL
        ],
    )
    request = trial.Request(endpoints, [(profile, Pace(0.6, 0.1, 0.2))], restart=restart)
    return trial.run(request, trial.Console(lambda text: None, lambda rows: None))


@pytest.mark.parametrize(
    ("by", "dicom", "web", "services"),
    [
        ("c-move", True, True, ["C-STORE", "C-FIND", "C-MOVE", "WADO-RS frames"]),
        ("c-get", True, False, ["C-STORE", "C-FIND", "C-GET"]),
        ("wado", False, True, ["STOW-RS", "QIDO-RS", "WADO-RS", "WADO-RS frames"]),
    ],
)
def test_every_kind_of_request_succeeds(
    server: Peer, sink: Sink, by: RetrieveBy, dicom: bool, web: bool, services: list[str]
) -> None:
    report = bench(endpoints_of(server, sink, by=by, dicom=dicom, web=web))
    (run,) = report.runs
    assert [stream.service for stream in run.streams] == services
    assert all(stream.latency.count and not stream.unsent_count and not stream.failures for stream in run.streams)
    assert set(run.left_out) == (set() if web else {"frames"})
    assert report.machine.is_server and run.samples[-1].server_memory_bytes > 0
    assert not dicom or report.server_product.startswith("FILMROOM")


def test_a_restart_is_timed_until_the_server_answers(server: Peer, sink: Sink, tmp_path: Path) -> None:
    mark = tmp_path / "restarted"
    report = bench(endpoints_of(server, sink, by="c-get", dicom=True, web=False), restart=f"touch {mark}")
    assert mark.exists() and report.runs[0].streams


def test_what_a_bench_leaves_is_found_and_deleted_and_nothing_else(server: Peer, sink: Sink) -> None:
    report = bench(endpoints_of(server, sink, by="c-get", dicom=True, web=True))
    web = WebTarget(f"http://127.0.0.1:{server.http_port}/dicom-web")
    found = clean.found_by_web(web)
    assert found == clean.found_by_dimse(Target(server.port, server.aet))
    assert report.synthetic.study_uids is not None and set(report.synthetic.study_uids) <= set(found)
    assert clean.delete(web, found, lambda done: None) == []
    assert clean.found_by_web(web) == [] == clean.found_by_dimse(Target(server.port, server.aet))
