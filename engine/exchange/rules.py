"""Runs the [[rule]] tables: for each rule and receiver a follower with a position of its own.

feed ─► events of the rule ─► its conditions, asked of the index ─► the action: a notification, a message, a workitem
journal of messages ─► the action: pass a received HL7 message on
registry of orders ─► its announcements ─► the action: forward a performed step, fetch priors, a workitem
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from engine.archive.hospital import orders_watch
from engine.archive.messages import messages_watch
from engine.exchange import prefetch, workitem_making
from engine.exchange.announcements import Announcements
from engine.exchange.availability import Notifications
from engine.exchange.hl7_notices import Notices
from engine.exchange.message_forwarding import MessageForwarding, MessageRows
from engine.exchange.prefetch import Prefetching
from engine.exchange.pulling import Pulling
from engine.exchange.step_forwarding import StepForwarding
from engine.exchange.workitem_making import Making
from engine.orders.work import KINDS_OF
from engine.outbox.follower import Follower, Retries, Saving
from engine.outbox.source import Content, FeedLines, Source
from engine.outbox.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.archive.feed.subscription import Watch
    from engine.config import Config
    from engine.exchange.settings import Rule
    from engine.hl7.settings import Hl7Destination
    from engine.orders.rows import AnnouncementRow
    from engine.outbox.follower import Sink
    from engine.runtime.engine import Engine


class Delivery(NamedTuple):
    """What one receiver gets of one rule."""

    rule: Rule
    to: str
    destination: Hl7Destination | None
    """For HL7."""

    @property
    def name(self) -> str:
        """The name under which its position is kept."""
        return f"rule:{self.rule.name}:{self.to}"


def deliveries(config: Config) -> Mapping[str, Delivery]:
    """Every delivery of the configuration, by name."""
    destinations = {each.name: each for each in config.hl7_destinations}
    each = [
        Delivery(rule, to, destinations.get(to) if rule.action in ("hl7", "forward") else None)
        for rule in config.rules
        for to in rule.to
    ]
    return {delivery.name: delivery for delivery in each}


class Rules(Tables[Delivery]):
    """All rules of the configuration in force. Used on the loop's thread, by one process."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "rule", lambda: deliveries(engine.config), self._follow)

    async def _follow(self, delivery: Delivery, watch: Watch) -> None:
        if delivery.rule.after in KINDS_OF:
            await self._follow_orders(delivery)
        elif delivery.rule.action == "forward" and delivery.destination is not None:
            await self._follow_messages(delivery, delivery.destination)
        else:
            feed = FeedLines(self._engine.archive.feed(), watch.changed, (delivery.rule.after,), is_single=True)
            await self._run_one(delivery, feed, sink_of(self._engine, delivery))

    async def _follow_orders(self, delivery: Delivery) -> None:
        engine, rule = self._engine, delivery.rule
        watch = orders_watch(engine.archive, engine.loop)
        try:
            source = Announcements(engine.orders, watch.changed, KINDS_OF[rule.after])
            sink: Sink[AnnouncementRow] = StepForwarding(engine, rule, delivery.to)
            if rule.action == "pull":
                sink = Pulling(engine, rule, delivery.to)
            elif rule.action == "prefetch":
                sink = Prefetching(engine, rule, delivery.to, partial(prefetch.of_order, engine))
            elif rule.action == "workitem":
                subject = partial(workitem_making.of_order, engine)
                if rule.after == "step":
                    subject = partial(workitem_making.of_step, engine, rule)
                sink = Making(engine, rule, delivery.to, subject)
            await self._run_one(delivery, source, sink)
        finally:
            watch.close()

    async def _follow_messages(self, delivery: Delivery, destination: Hl7Destination) -> None:
        watch = messages_watch(self._engine.archive, self._engine.loop)
        try:
            sink = MessageForwarding(self._engine, delivery.rule, destination)
            await self._run_one(delivery, MessageRows(sink.history, watch.changed, sink.is_wanted), sink)
        finally:
            watch.close()

    async def _run_one(self, delivery: Delivery, source: Source[Content], sink: Sink[Content]) -> None:
        engine, rule = self._engine, delivery.rule
        follower = Follower(
            engine,
            "rule",
            delivery.name,
            source,
            sink,
            destinations=engine.archive.outbox(),
            retries=Retries(
                retry_s=rule.retry_s,
                retry_s_max=rule.retry_s_max,
                attempts_max=rule.attempts_max,
                policy=rule.policy,
            ),
            saving=Saving(accepted_s=0.0),
        )
        await follower.run()


def sink_of(engine: Engine, delivery: Delivery) -> Sink[list[bytes]]:
    """Where the events of a delivery go."""
    rule, to = delivery.rule, delivery.to
    if delivery.destination is not None:
        return Notices(engine, rule, delivery.destination)
    if rule.action == "prefetch":
        return Prefetching(engine, rule, to, partial(prefetch.of_study, engine, rule, to))
    if rule.action == "workitem":
        return Making(engine, rule, to, partial(workitem_making.of_study, engine, rule))
    return Notifications(engine, rule, to)
