"""exchange.routing: what arrives is sent on by the rules, once, through restarts, and never back to who sent it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.access.role_settings import StudyRule
from engine.archive.feed.cursor import Cursor
from engine.archive.feed.quiet import QuietTimes
from engine.archive.feed.writer import FeedOptions
from engine.archive.jobs import job as states
from engine.archive.jobs.job import Job
from engine.archive.settings import Jobs
from engine.config import Peer, Role
from engine.exchange import routing, runner
from engine.exchange.settings import Route
from engine.outbox import tables
from tests import samples
from tests.archive.feed.followed import lookups_in_vain
from tests.archive.filled import store
from tests.system.server import wait_for
from tests.web.hosting import Hosting
from tests.web.serving import serving
from tests.web.stow_sink import StowSink, stow_sink


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHECK_S", 0.02)
    monkeypatch.setattr(tables, "CHECK_S", 0.02)
    monkeypatch.setattr(routing, "GATHER_S", 0.02)


def uid(study: int, series: int = 1, number: int = 1) -> str:
    return f"{samples.ROOT}.{study}.{series}.{number}"


class Place:
    """A server that sends on, and what the test does with it."""

    def __init__(self, hosting: Hosting) -> None:
        self._archive = hosting.engine.archive
        self._writer = self._archive.feed_writer(FeedOptions(quiet=QuietTimes(0.0, 0.0, 0.0)))
        self.files = self._archive.job_files()
        self.counters = hosting.counters

    def arrive(self, study: int, *, series: int = 1, sender: str = "CT1", count: int = 1, **more: Any) -> None:
        """Stores instances of a series, and makes the events of it."""
        data_sets = [samples.encoded(samples.instance(study, series, number, **more)) for number in range(1, count + 1)]
        store(self._archive, *data_sets, aet=sender)
        self.follow()

    def follow(self) -> None:
        self._writer.follow()

    def until_routed(self, *names: str) -> None:
        """Waits until these routes are at the end of the feed, and it has the events of what is quiet."""
        feed = self._archive.feed()
        self.follow()

        def is_at_end(name: str) -> bool:
            standing = self._archive.outbox().load(f"route:{name}")
            return standing is not None and Cursor.parse(standing.cursor).sequence == feed.newest().sequence

        for name in names:
            wait_for(partial(is_at_end, name), what=name)
        feed.close()

    def jobs(self) -> list[Job]:
        """All, after they have ended."""
        wait_for(lambda: all(job.state in states.ENDED for job in self.files.all()), what="the end of all jobs")
        return list(self.files.all())

    def close(self) -> None:
        self._writer.close()


@contextmanager
def placed(
    data: Path,
    routes: Sequence[Route],
    peers: Sequence[Peer],
    roles: Sequence[Role] = (),
    before_feed: Callable[[], object] = lambda: None,
) -> Iterator[Place]:
    """`before_feed` runs when the server has started; a new archive has no feed yet."""
    options: dict[str, Any] = {"peers": tuple(peers), "sends_on": tuple(routes), "roles": tuple(roles)}
    with serving(data, jobs=Jobs(retry_s=0.01, attempts_max=2), **options) as hosting:
        before_feed()
        place = Place(hosting)
        try:
            if routes:
                place.follow()
                outbox = hosting.engine.archive.outbox()
                wait_for(lambda: all(outbox.load(f"route:{route.name}") for route in routes), what="the positions")
            yield place
        finally:
            place.close()


@pytest.fixture
def save_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "SAVE_S", 0.0)


@pytest.fixture
def sinks() -> Iterator[tuple[StowSink, StowSink]]:
    with stow_sink() as one, stow_sink() as other:
        yield one, other


@pytest.mark.usefixtures("save_at_once")
def test_what_matches_is_sent_to_each_peer_and_never_back(tmp_path: Path, sinks: tuple[StowSink, StowSink]) -> None:
    workstation, archive = sinks
    peers = [Peer(aet="WS", url=workstation.url), Peer(aet="ARCHIVE", url=archive.url)]
    routes = [
        Route(name="cts", peers=("WS",), keys={"Modality": "CT", "PatientID": "P*"}),
        Route(name="all", peers=("WS", "ARCHIVE"), after="stored", senders=("MR1", "ARCHIVE")),
        Route(name="studies", peers=("ARCHIVE",), after="study_quiet", keys={"ModalitiesInStudy": "US"}),
    ]
    with placed(tmp_path / "data", routes, peers) as place:
        place.arrive(1, count=3)
        place.arrive(2, sender="MR1", modality="MR")
        place.arrive(3, sender="ARCHIVE", modality="MR")
        place.arrive(4, sender="US1", modality="US")
        place.until_routed("cts", "all", "studies")
        jobs = place.jobs()
        assert {job.state for job in jobs} == {states.DONE}
        assert {job.by for job in jobs} == {"route:cts", "route:all", "route:studies"}
    assert set(workstation.received) == {*(uid(1, 1, number) for number in (1, 2, 3)), uid(2), uid(3)}
    assert set(archive.received) == {uid(2), uid(4)}


@pytest.mark.usefixtures("save_at_once")
def test_a_route_goes_on_where_it_was_and_a_new_one_with_new_events(
    tmp_path: Path, sinks: tuple[StowSink, StowSink]
) -> None:
    data, (sink, _) = tmp_path / "data", sinks
    peers, old = [Peer(aet="WS", url=sink.url)], Route(name="old", peers=("WS",), after="stored")
    with placed(data, [old], peers) as place:
        place.arrive(1)
        place.until_routed("old")
        assert len(place.jobs()) == 1
    with placed(data, [], peers) as place:
        place.arrive(2)
        assert len(place.jobs()) == 1
    sink.received.clear()
    with placed(data, [old, Route(name="new", peers=("WS",), after="stored")], peers) as place:
        place.until_routed("old", "new")
        assert [job.by for job in place.jobs()] == ["route:old", "route:old"]
        assert set(sink.received) == {uid(2)}
        place.arrive(3)
        place.until_routed("old", "new")
        assert sorted(job.by for job in place.jobs())[:1] == ["route:new"]


@pytest.mark.usefixtures("save_at_once")
def test_a_peer_gets_what_its_role_sees_and_a_missing_one_is_a_failed_job(
    tmp_path: Path, sinks: tuple[StowSink, StowSink]
) -> None:
    sink, _ = sinks
    roles = [Role(name="mr", may=("retrieve",), studies=(StudyRule(modality=("MR",)),))]
    peers = [Peer(aet="MRS", url=sink.url, role="mr")]
    routes = [Route(name="some", peers=("MRS", "NOWHERE"), after="stored")]
    with placed(tmp_path / "data", routes, peers, roles) as place:
        place.arrive(1)
        place.arrive(2, modality="MR")
        place.until_routed("some")
        jobs = place.jobs()
        failed = [job for job in jobs if job.state == states.FAILED]
        assert failed and all("no [[peer]] NOWHERE" in job.error for job in failed)
        assert {job.peer for job in jobs if job.state == states.DONE} == {"MRS"}
    assert set(sink.received) == {uid(2)}


def test_a_failure_repeats_the_page_for_the_peers_that_lack_it(
    tmp_path: Path, sinks: tuple[StowSink, StowSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "RETRY_S", 0.02)
    create: Callable[..., None] = routing.Jobs._create
    failures = ["B", "B"]

    def failing(jobs: routing.Jobs, aet: str, uids: Sequence[str]) -> None:
        if aet in failures:
            failures.remove(aet)
            raise routing.EngineError("no room")
        create(jobs, aet, uids)

    monkeypatch.setattr(routing.Jobs, "_create", failing)
    one, other = sinks
    peers = [Peer(aet="A", url=one.url), Peer(aet="B", url=other.url)]
    with placed(tmp_path / "data", [Route(name="both", peers=("A", "B"))], peers) as place:
        place.arrive(1)
        wait_for(lambda: len(list(place.files.all())) == 2, what="both jobs")
        assert sorted(job.peer for job in place.jobs()) == ["A", "B"]
        assert place.counters["route_attempts_failed"] == 2
    assert set(one.received) == set(other.received) == {uid(1)}


def test_a_route_may_start_before_the_feed(
    tmp_path: Path, sinks: tuple[StowSink, StowSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "RETRY_S", 3600.0)
    data, (sink, _) = tmp_path / "data", sinks
    peers, routes = [Peer(aet="WS", url=sink.url)], [Route(name="cts", peers=("WS",))]
    with lookups_in_vain() as lookups:

        def until_two() -> None:
            wait_for(lambda: len(lookups) >= 2, what="lookups of a missing feed")

        with placed(data, routes, peers, before_feed=until_two) as place:
            place.arrive(1)
            wait_for(lambda: list(place.files.all()), what="a job")
            assert [job.state for job in place.jobs()] == [states.DONE]
            assert not place.counters["route_attempts_failed"]
    assert set(sink.received) == {uid(1)}
