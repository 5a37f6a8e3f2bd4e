"""How a subscription is: what its file asks for, and how far its client has been told."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from engine.archive.feed import destinations
from engine.fhir.notification import Status, Told
from engine.fhir.subscription import Standing, Wanted
from engine.fhir.subscription_topic import TOPICS

if TYPE_CHECKING:
    from engine.archive.subscription_events import Numbered
    from engine.archive.subscriptions import Subscription


def agreement(subscription: Subscription) -> str:
    """What `Standing.agreed` is when the client has taken the first notification of this revision."""
    return f"{subscription.revision}"


def refusal(subscription: Subscription) -> str:
    """What it is when the client was asked too often."""
    return f"refused {subscription.revision}"


def has_ended(subscription: Subscription) -> bool:
    """Whether it is over by itself."""
    return bool(subscription.end) and datetime.fromisoformat(subscription.end).timestamp() <= time.time()


def standing_of(subscription: Subscription, progress: destinations.Standing | None) -> Standing:
    """Its status."""
    error = progress.error if progress is not None else ""
    if subscription.is_off or has_ended(subscription) or subscription.topic not in TOPICS:
        return Standing("off", owner=subscription.by)
    if progress is None or progress.agreed not in (agreement(subscription), refusal(subscription)):
        return Standing("error" if error else "requested", error, subscription.by)
    if progress.state == destinations.PARKED or progress.agreed == refusal(subscription):
        return Standing("off", error, subscription.by)
    return Standing("error" if progress.state == destinations.WAITING else "active", error, subscription.by)


def status_of(subscription: Subscription, standing: Standing, last: int) -> Status:
    """The same for a notification. `last`: the number of its last event."""
    return Status(subscription.id, TOPICS[subscription.topic].url, standing.status, last, standing.error)


def told(subscription: Subscription, row: Numbered) -> Told:
    """An event as its client is told of it."""
    return Told(row.number, row.kind, row.id if subscription.content != "empty" else "", row.time)


def wanted_of(subscription: Subscription) -> Wanted:
    """What was asked for."""
    return Wanted(
        topic=TOPICS[subscription.topic],
        filters=subscription.filters,
        channel=subscription.channel,
        endpoint=subscription.endpoint,
        headers=subscription.headers,
        content=subscription.content,
        heartbeat_s=subscription.heartbeat_s,
        timeout_s=subscription.timeout_s,
        end=subscription.end,
        reason=subscription.reason,
        is_off=subscription.is_off,
    )
