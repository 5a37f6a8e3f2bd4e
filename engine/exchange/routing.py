"""Sends on what has arrived, by the [[route]] tables: follows the change feed and creates jobs, which `runner` runs.

    a page of the feed ─► events of the rule ─► a query with its keys ─► a job for each peer ─► the position is saved

The process that runs jobs does this too. Each route has its position in the feed, DATA/feed/cursors/route.NAME, saved
after its jobs are on disk: a crash between both creates the jobs of a page again, and a peer gets instances twice
without harm. Where a position is not valid any more (`feed.cursor`) the route goes on with new events, and the log says
so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from engine import guards, log
from engine.access import FULL
from engine.archive.feed import event as actions
from engine.archive.feed.subscription import cursor_of_now
from engine.archive.jobs import job as states
from engine.archive.jobs.job import ROUTE, Job, Work
from engine.archive.jobs.job_files import new_id
from engine.dicom import tags
from engine.errors import CursorRefused, EngineError, FeedMissing
from engine.index.format.types import Level
from engine.index.query.keywords import path_of, query_of, set_key

if TYPE_CHECKING:
    from engine.archive.feed.cursor import Cursor
    from engine.archive.feed.event import Event
    from engine.archive.feed.subscription import Watch
    from engine.archive.jobs.job_files import JobFiles
    from engine.exchange.settings import Route
    from engine.index.query.keywords import Keys
    from engine.runtime.engine import Engine

logger = log.get("exchange.routing")

CHECK_S: Final = 1.0
"""How often the configuration is looked at, and the feed where there is none yet."""
RETRY_S: Final = 30.0
"""The pause after a failure: there are too many jobs, or the disk is full."""
GATHER_S: Final = 5.0
"""The pause before single instances are sent, so that a job has more than one of them."""
SAVE_S: Final = 60.0
"""How often a position is saved that no job depends on."""


class _Kind(NamedTuple):
    """What the events of an action are about."""

    level: Level
    tag: int
    name: str
    """The attribute of an event and of an instance that has the UID."""


_KINDS: Final = {
    actions.STORED: _Kind(Level.IMAGE, tags.SOPInstanceUID, "sop_instance_uid"),
    actions.SERIES_QUIET: _Kind(Level.SERIES, tags.SeriesInstanceUID, "series_instance_uid"),
    actions.STUDY_QUIET: _Kind(Level.STUDY, tags.StudyInstanceUID, "study_instance_uid"),
    actions.STUDY_COMPLETE: _Kind(Level.STUDY, tags.StudyInstanceUID, "study_instance_uid"),
}


class Routing:
    """All routes of the configuration in force. Used on the loop's thread, by one process."""

    def __init__(self, engine: Engine, files: JobFiles) -> None:
        self._engine = engine
        self._files = files
        self._running: dict[str, tuple[Route, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Follows the feed until this is cancelled."""
        watch: Watch | None = None
        try:
            while True:
                if self._engine.config.routes and watch is None:
                    watch = self._engine.archive.feed_watch(self._engine.loop)
                if watch is not None:
                    self._update(watch)
                await asyncio.sleep(CHECK_S)
        finally:
            self.close()
            await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
            self._running.clear()
            if watch is not None:
                watch.close()

    def close(self) -> None:
        """Ends all routes at once."""
        for _, task in self._running.values():
            task.cancel()

    def _update(self, watch: Watch) -> None:
        """Starts and ends routes as the configuration has them."""
        configured = {route.name: route for route in self._engine.config.routes}
        for name, (route, task) in list(self._running.items()):
            if task.done() or configured.get(name) != route:
                task.cancel()
                del self._running[name]
        for name, route in configured.items():
            if name not in self._running:
                follower = Follower(self._engine, route, self._files, watch.changed)
                self._running[name] = (
                    route,
                    guards.watch(self._engine.loop.create_task(follower.run()), f"route {name}"),
                )


class Follower:
    """Follows the feed for one route."""

    def __init__(
        self, engine: Engine, route: Route, files: JobFiles, changed: Callable[[], asyncio.Future[None]]
    ) -> None:
        self._engine = engine
        self._route = route
        self._files = files
        self._changed = changed
        self._kind = _KINDS[route.after]
        self._feed = engine.archive.feed()
        self._position = f"route.{route.name}"
        self._saved_at = 0.0
        self._created: tuple[str, set[str]] = ("", set())
        """A page by its cursor, and the peers that have its jobs: after a failure the others are left."""

    async def run(self) -> None:
        """Follows until it is cancelled."""
        try:
            while True:
                try:
                    await self._follow()
                except EngineError as error:
                    self._engine.metrics.counters["route_failures"] += 1
                    logger.warning("a route waits", route=self._route.name, error=str(error))
                except Exception as error:
                    self._engine.metrics.counters["route_failures"] += 1
                    logger.error("a route failed", route=self._route.name, error=repr(error))
                await asyncio.sleep(RETRY_S)
        finally:
            self._feed.close()

    async def _follow(self) -> None:
        reads = self._engine.pools.reads
        cursor = await self._start()
        while True:
            changed = self._changed()
            try:
                page = await reads.run(partial(self._feed.read, cursor))
            except CursorRefused as error:
                logger.warning("a route goes on with new events", route=self._route.name, reason=str(error))
                cursor = await cursor_of_now(self._feed, reads.run, CHECK_S)
                await self._save(cursor)
                continue
            except FeedMissing:
                await asyncio.sleep(CHECK_S)
                continue
            events = page.events_of(self._route.after)
            has_jobs = bool(events) and await self._send(events, str(page.cursor))
            is_due = page.cursor != cursor and self._engine.loop.time() - self._saved_at >= SAVE_S
            cursor = page.cursor
            if has_jobs or is_due:
                await self._save(cursor)
            if not page.lines:
                await changed
                if self._route.after == actions.STORED:
                    await asyncio.sleep(GATHER_S)

    async def _start(self) -> Cursor:
        """The saved position; a new route begins with new events."""
        reads = self._engine.pools.reads
        try:
            cursor = await reads.run(partial(self._feed.cursors.load, self._position))
        except CursorRefused:
            cursor = None
        if cursor is None:
            cursor = await cursor_of_now(self._feed, reads.run, CHECK_S)
            await self._save(cursor)
        return cursor

    async def _save(self, cursor: Cursor) -> None:
        self._saved_at = self._engine.loop.time()
        await self._engine.pools.reads.run(partial(self._feed.cursors.save, self._position, cursor))

    async def _send(self, events: Sequence[Event], page: str) -> bool:
        """Creates the jobs for the events of a page. Returns whether there are any."""
        uids = list(dict.fromkeys(getattr(event, self._kind.name) for event in events))
        if self._created[0] != page:
            self._created = page, set()
        done = self._created[1]
        for aet in self._route.peers:
            if aet not in done:
                await self._engine.pools.slow.run(partial(self._create, aet, uids))
                done.add(aet)
        return True

    def _create(self, aet: str, uids: Sequence[str]) -> None:
        """Creates the job for one peer, if it is to get something. Raises JobsFull, StorageFull, QueryError."""
        matching = self._matching(aet, uids)
        if not matching:
            return
        work = {
            Level.IMAGE: Work(instances=matching),
            Level.SERIES: Work(series=matching),
            Level.STUDY: Work(studies=matching),
        }[self._kind.level]
        job = Job(
            id=new_id(),
            kind=states.SEND,
            peer=aet,
            work=work,
            by=f"{ROUTE}:{self._route.name}",
            reason=f"route {self._route.name}",
            created_ns=time.time_ns(),
        )
        self._files.create(job)
        self._engine.metrics.counters["jobs_routed"] += 1
        logger.info(
            "routed", route=self._route.name, peer=aet, job=job.id, count=len(matching), after=self._route.after
        )

    def _matching(self, aet: str, uids: Sequence[str]) -> tuple[str, ...]:
        """Those of the UIDs that the route sends to a peer, in their order."""
        engine, route, kind = self._engine, self._route, self._kind
        peer = engine.config.peer(aet)
        # For a peer that does not exist a job is made too: it fails, so that people see it and can retry it.
        scope = FULL if peer is None or not peer.is_reachable else engine.access.scope_of_destination(aet)
        view = engine.archive.view(scope)
        keys: Keys = {}
        for name, value in route.keys.items():
            set_key(keys, path_of(name, view.schema), value, view.schema)
        keys[kind.tag] = "\\".join(uids)
        of_others: set[str] = set()
        of_senders: set[str] = set()
        for instance in view.matching(query_of(kind.level, keys, view.schema)):
            uid = getattr(instance, kind.name)
            if instance.calling_ae_title != aet:
                of_others.add(uid)
            if not route.senders or instance.calling_ae_title in route.senders:
                of_senders.add(uid)
        return tuple(uid for uid in uids if uid in of_others and uid in of_senders)
