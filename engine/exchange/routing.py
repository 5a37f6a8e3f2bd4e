"""Sends on what has arrived, by the [[route]] tables: follows the change feed and creates jobs, which `runner` runs.

    a page of the feed ─► events of the rule ─► a query with its keys ─► a job for each peer ─► the position is saved

The process that runs jobs does this too. The position of each route is saved after its jobs are on disk: a crash
between both creates the jobs of a page again, and a peer gets instances twice without harm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive.feed import event as actions
from engine.archive.feed.destinations import Standing
from engine.archive.feed.event import decode_lines
from engine.archive.jobs import job as states
from engine.archive.jobs.job import ROUTE, Job, Work
from engine.archive.jobs.job_files import new_id
from engine.errors import CursorRefused
from engine.exchange.matching import KINDS, matching, uids_of
from engine.index.format.types import Level
from engine.outbox.follower import Follower, Retries, Saving, Sink
from engine.outbox.source import FeedLines, Unit
from engine.outbox.tables import Tables

if TYPE_CHECKING:
    from engine.archive.feed.subscription import Feed, Watch
    from engine.archive.jobs.job_files import JobFiles
    from engine.exchange.settings import Route
    from engine.runtime.engine import Engine

logger = log.get("exchange.routing")

RETRY_S: Final = 30.0
"""The pause after a failure: there are too many jobs, or the disk is full."""
GATHER_S: Final = 5.0
"""The pause before single instances are sent, so that a job has more than one of them."""
SAVE_S: Final = 60.0
"""How often a position is saved that no job depends on."""


class Routing(Tables["Route"]):
    """All routes of the configuration in force. Used on the loop's thread, by one process."""

    def __init__(self, engine: Engine, files: JobFiles) -> None:
        self._files = files
        super().__init__(engine, "route", lambda: {route.name: route for route in engine.config.routes}, self._follow)

    async def _follow(self, route: Route, watch: Watch) -> None:
        engine = self._engine
        name, feed = destination_of(route), engine.archive.feed()
        await engine.pools.reads.run(partial(self._adopt, route, feed))
        follower = Follower(
            engine,
            "route",
            name,
            FeedLines(feed, watch.changed, (route.after,)),
            Jobs(engine, route, self._files),
            destinations=engine.archive.outbox(),
            retries=Retries(retry_s=RETRY_S, retry_s_max=RETRY_S),
            saving=Saving(accepted_s=0.0, passed_s=SAVE_S),
            gather_s=GATHER_S if route.after == actions.STORED else 0.0,
        )
        await follower.run()

    def _adopt(self, route: Route, feed: Feed) -> None:
        """Takes over the position that earlier versions kept among the named cursors."""
        destinations, name = self._engine.archive.outbox(), destination_of(route)
        if destinations.load(name) is not None:
            return
        try:
            cursor = feed.cursors.load(f"route.{route.name}"[:64])
        except CursorRefused:
            return
        if cursor is not None:
            destinations.save(Standing(name=name, cursor=str(cursor)))


def destination_of(route: Route) -> str:
    """The name under which its position is kept."""
    return f"route:{route.name}"


class Jobs(Sink[list[bytes]]):
    """Creates the jobs of one route."""

    def __init__(self, engine: Engine, route: Route, files: JobFiles) -> None:
        self._engine = engine
        self._route = route
        self._files = files
        self._created: tuple[str, set[str]] = ("", set())
        """A unit by its cursor, and the peers that have its jobs: after a failure the others are left."""

    async def deliver(self, unit: Unit[list[bytes]], reset: str) -> None:
        """Creates the jobs for some events. Raises JobsFull, StorageFull, QueryError."""
        uids = uids_of(decode_lines(b"\n".join(unit.content)), self._route.after)
        if self._created[0] != unit.after:
            self._created = unit.after, set()
        done = self._created[1]
        for aet in self._route.peers:
            if aet not in done:
                await self._engine.pools.slow.run(partial(self._create, aet, uids))
                done.add(aet)

    def _create(self, aet: str, uids: Sequence[str]) -> None:
        """Creates the job for one peer, if it is to get something. Raises JobsFull, StorageFull, QueryError."""
        route = self._route
        selected = matching(self._engine, route, uids, aet)
        if not selected:
            return
        work = {
            Level.IMAGE: Work(instances=selected),
            Level.SERIES: Work(series=selected),
            Level.STUDY: Work(studies=selected),
        }[KINDS[route.after].level]
        job = Job(
            id=new_id(),
            kind=states.SEND,
            peer=aet,
            work=work,
            by=f"{ROUTE}:{route.name}",
            reason=f"route {route.name}",
            created_ns=time.time_ns(),
        )
        self._files.create(job)
        self._engine.metrics.counters["jobs_routed"] += 1
        logger.info("routed", route=route.name, peer=aet, job=job.id, count=len(selected), after=route.after)
