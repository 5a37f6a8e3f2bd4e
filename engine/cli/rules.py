"""The part of `backend` for rules and routes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.access import Access, Policy
from engine.cli import backend
from engine.config import Config

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.archive.feed.destinations import Destinations


@dataclass(frozen=True, slots=True)
class Place:
    """What conditions are asked of (`exchange.matching.Place`)."""

    archive: Archive
    config: Config
    access: Access


def _outbox(config: Config) -> Destinations:
    from engine.archive import layout
    from engine.archive.feed.destinations import OUTBOX, Destinations

    return Destinations(layout.existing(config.data), kind=OUTBOX)


def listed(config: Config) -> list[dict[str, object]]:
    """Every receiver, and how far it is."""
    return [standing.as_dict() for standing in _outbox(config).all()]


def resume(config: Config, name: str) -> None:
    """Has a parked or waiting receiver tried again. Raises FeedError."""
    _outbox(config).resume(name)


def resend(config: Config, name: str) -> None:
    """Has what was set aside tried again. Raises FeedError."""
    _outbox(config).resend(name)


def trial(config: Config, *, name: str, since_s: float) -> Iterator[dict[str, Any]]:
    """What rules would have done. Raises NotStored, FeedError, QueryError."""
    from engine.exchange import trial as dry_run

    with backend.opened(config) as archive:
        feed = archive.feed()
        try:
            place = Place(archive, config, Policy(lambda: config))
            yield from dry_run.trial(place, feed, name=name, since_s=since_s)
        finally:
            feed.close()
