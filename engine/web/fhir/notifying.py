"""Tells subscriptions what has happened: each in order, with a position of its own in the change feed.

    feed ─► events of the topic ─► may its client be told? ─► a number, durably ─► POST to the endpoint (rest-hook)
                                                                              └──► WebSockets read the numbers

Only one worker does it: the one with the lease `subscriptions`. If it dies another one goes on, and repeats what was
not recorded as told; an event keeps its number. Before each attempt rights are asked again: what its client may not see
any more is not sent. The first notification is a handshake; until it is taken nothing else is sent.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import orjson

from engine import guards, log
from engine.archive.feed.destinations import DELIVERING, PARKED, Standing
from engine.archive.feed.event import decode
from engine.errors import DeliveryFailed, for_log
from engine.fhir.notification import Status, notification
from engine.fhir.release import Release
from engine.fhir.subscription_topic import TOPICS
from engine.outbox.follower import Follower, Retries, Saving
from engine.outbox.source import FeedLines, Unit
from engine.outbox.tables import Tables
from engine.sole_worker import run_alone
from engine.web import posting
from engine.web.fhir import subscription_matches, subscription_state
from engine.web.route import FHIR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.archive.feed.subscription import Watch
    from engine.archive.subscription_events import Numbered
    from engine.archive.subscriptions import Subscription
    from engine.runtime.engine import Engine
    from engine.web.settings import Fhir

logger = log.get("web.fhir")

CHECK_S: Final = 1.0
"""How often the lock is tried."""
SAVE_S: Final = 2.0
TIMEOUT_S: Final = 10.0
"""For the answer of an endpoint, unless its subscription says another one."""


class Notifications:
    """Tells, if this process has the lock. Used on the loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._files = engine.archive.subscription_files()
        self._known: list[Subscription] = []
        self._state: tuple[int, int] | None = None
        self._sweep_at: float | None = None
        self._tables = Tables(engine, "subscription", self._subscriptions, self._follow)
        self._task = guards.watch(engine.loop.create_task(self._run()), "subscriptions")

    def close(self) -> None:
        """Stops. What is on its way may be repeated later."""
        self._task.cancel()
        self._tables.close()

    async def _run(self) -> None:
        archive = self._engine.archive
        await run_alone(
            archive.notifying,
            self._tables.run,
            is_needed=lambda: bool(self._subscriptions()) and not archive.is_read_only,
            check_s=CHECK_S,
            logger=logger,
            failure="subscriptions are not told",
        )

    def _subscriptions(self) -> Mapping[str, Subscription]:
        """Those that are to be told, by id."""
        state = self._files.state()
        if state != self._state:
            self._state, self._known = state, self._files.all()
            self._sweep_at = self._engine.loop.time() + 2 * CHECK_S
        elif self._sweep_at is not None and self._engine.loop.time() > self._sweep_at:
            self._sweep_at = None
            self._sweep()
        chosen = (each for each in self._known if each.topic in TOPICS and not each.is_off)
        return {each.id: each for each in chosen if not subscription_state.has_ended(each)}

    def _sweep(self) -> None:
        """Removes the progress of those that are gone; their tasks, which save it at their end, have ended by then."""
        standings, ids = self._engine.archive.subscription_standings(), {each.id for each in self._known}
        for name in standings.names():
            if name not in ids:
                standings.forget(name)
        self._files.sweep()

    async def _follow(self, subscription: Subscription, watch: Watch) -> None:
        engine = self._engine
        sink = Sink(engine, subscription)
        try:
            if not await sink.agree():
                await asyncio.Event().wait()  # until its client changes it
            settings, topic = engine.config.fhir, subscription.topic
            follower = Follower(
                engine,
                "subscription",
                subscription.id,
                FeedLines(
                    engine.archive.feed(),
                    watch.changed,
                    subscription_matches.ACTIONS[topic],
                    is_single=True,
                    is_wanted=partial(subscription_matches.may_matter, topic),
                ),
                sink,
                destinations=engine.archive.subscription_standings(),
                retries=_retries(settings),
                saving=Saving(accepted_s=SAVE_S, passed_s=SAVE_S),
            )
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(follower.run())
                tasks.create_task(sink.beat())
        finally:
            await sink.close()


def _retries(settings: Fhir) -> Retries:
    return Retries(
        retry_s=settings.retry_s,
        retry_s_max=settings.retry_s_max,
        attempts_max=settings.attempts_max,
        policy="park",
    )


def is_receiver(endpoint: str, settings: Fhir) -> bool:
    """Whether the administrator lets subscriptions send to this address."""
    try:
        address = urlsplit(endpoint)
        port = address.port
    except ValueError:
        return False
    if address.username is not None or address.password is not None or address.fragment or "\\" in endpoint:
        return False
    if address.scheme not in ("http", "https") or not address.hostname:
        return False
    return (address.scheme, address.hostname, port or _PORTS[address.scheme]) in map(_place, settings.notify)


_PORTS: Final = {"http": 80, "https": 443}


def _place(origin: str) -> tuple[str, str | None, int]:
    address = urlsplit(origin)
    return address.scheme, address.hostname, address.port or _PORTS[address.scheme]


class Sink:
    """The client of one subscription (`outbox.follower.Sink`)."""

    def __init__(self, engine: Engine, subscription: Subscription) -> None:
        self._engine = engine
        self._subscription = subscription
        self._events = engine.archive.subscription_files().events(subscription.id)
        self._numbered_before = ""
        """The cursor before the unit that got its numbers last."""
        self._sent_at = engine.loop.time()
        self._turn = asyncio.Lock()
        self._connections = posting.session()

    async def close(self) -> None:
        """Closes its connections."""
        await self._connections.close()

    def nothing(self, cursor: str) -> Unit[list[bytes]]:
        """A notification without events, which gives the reason."""
        return Unit([], cursor, cursor, 0)

    async def deliver(self, unit: Unit[list[bytes]], reset: str) -> None:
        """Gives an event its number and sends it. Raises DeliveryFailed, StorageError."""
        rows = await self._engine.pools.index.run(partial(self._numbered, unit))
        if self._subscription.channel == "rest-hook" and (rows or reset):
            await self._post("event-notification", rows, reset)

    async def agree(self) -> bool:
        """Sends the first notification until it is taken. Returns whether it was; False: it is given up."""
        subscription, reads = self._subscription, self._engine.pools.reads
        standings = self._engine.archive.subscription_standings()
        standing = await reads.run(partial(standings.load, subscription.id))
        standing = standing or Standing(name=subscription.id, cursor=subscription.since)
        if standing.agreed == subscription_state.agreement(subscription):
            return True
        if standing.agreed == subscription_state.refusal(subscription):
            return False
        retries, standing.attempts = _retries(self._engine.config.fhir), 0
        while (failure := await self._shaken()) and standing.attempts + 1 < retries.attempts_max:
            standing.attempts += 1
            standing.error = failure
            await reads.run(partial(standings.save, standing))
            await asyncio.sleep(retries.pause_s(standing.attempts))
        standing.error, standing.attempts = failure, 0
        standing.state = PARKED if failure else DELIVERING
        state = subscription_state.refusal if failure else subscription_state.agreement
        standing.agreed = state(subscription)
        await reads.run(partial(standings.save, standing))
        return not failure

    async def beat(self) -> None:
        """Sends a heartbeat whenever nothing was sent for as long as its client has named."""
        period_s = self._subscription.heartbeat_s
        if not period_s or self._subscription.channel != "rest-hook":
            return
        loop = self._engine.loop
        while True:
            due_s = self._sent_at + period_s - loop.time()
            if due_s > 0:
                await asyncio.sleep(due_s)
                continue
            try:
                await self._post("heartbeat", (), "")
            except DeliveryFailed as error:
                self._sent_at = loop.time()
                logger.warning("a heartbeat failed", name=self._subscription.id, error=for_log(error))

    # -- inside ---------------------------------------------------------------------------------------

    async def _shaken(self) -> str:
        """Why the first notification was not taken; "": it was, or a WebSocket needs none."""
        if self._subscription.channel != "rest-hook":
            return ""
        try:
            await self._post("handshake", (), "")
        except DeliveryFailed as error:
            return str(error)
        return ""

    def _numbered(self, unit: Unit[list[bytes]]) -> list[Numbered]:
        """The events of a unit that its client may be told of now. Blocks."""
        subscription = self._subscription
        view = subscription_matches.view_of(self._engine, subscription)
        if unit.before != self._numbered_before:
            topic = TOPICS[subscription.topic]
            for line in unit.content:
                found = subscription_matches.resources_of(self._engine, topic, line)
                foci = [
                    (topic.kind, each) for each in found if subscription_matches.may_be_told(view, subscription, each)
                ]
                rows = self._events.append(unit.before, foci, decode(line).time)
                self._numbered_before = unit.before
                return [row for row in rows if (row.kind, row.id) in foci]
        known = self._events.of(unit.before)
        return [row for row in known if subscription_matches.may_be_told(view, subscription, row.id)]

    async def _post(self, kind: str, rows: Sequence[Numbered], reset: str) -> None:
        """Raises DeliveryFailed."""
        subscription, settings = self._subscription, self._engine.config.fhir
        if not is_receiver(subscription.endpoint, settings):
            raise DeliveryFailed("fhir.notify does not have its address")
        release = Release(subscription.release)
        state = "requested" if kind == "handshake" else "active"
        async with self._turn:
            last = await self._engine.pools.reads.run(self._events.last)
            resource = notification(
                Status(subscription.id, TOPICS[subscription.topic].url, state, last, reset),
                kind,
                [subscription_state.told(subscription, row) for row in rows],
                subscription.root + FHIR,
                release,
                str(uuid.uuid4()),
                datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
            failure = await posting.post(
                self._connections,
                subscription.endpoint,
                orjson.dumps(resource),
                {**dict(subscription.headers), "Content-Type": release.content_type},
                secret_file=settings.secret_file,
                timeout_s=subscription.timeout_s or TIMEOUT_S,
            )
            self._sent_at = self._engine.loop.time()
        if failure:
            raise DeliveryFailed(failure)
        self._engine.metrics.counters["subscription_notifications_sent"] += 1
