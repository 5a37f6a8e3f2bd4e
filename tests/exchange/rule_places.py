"""A server with rules in the test's process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.archive.feed.quiet import QuietTimes
from engine.archive.feed.writer import FeedOptions
from engine.exchange.settings import Rule
from tests import samples
from tests.archive.filled import store
from tests.system.server import wait_for
from tests.web.hosting import Hosting
from tests.web.serving import serving


def study_uid(study: int) -> str:
    return f"{samples.ROOT}.{study}"


class Place:
    """A server with rules, and what happens in its archive."""

    def __init__(self, hosting: Hosting) -> None:
        self.engine = hosting.engine
        self.archive = hosting.engine.archive
        self.outbox = self.archive.outbox()
        self._writer = self.archive.feed_writer(FeedOptions(quiet=QuietTimes(0.0, 0.0, 0.0)))

    def arrive(self, study: int, *, count: int = 1, sender: str = "CT1", **more: Any) -> None:
        """Stores a study, and makes its events."""
        instances = [samples.instance(study, 1, number, **more) for number in range(1, count + 1)]
        store(self.archive, *map(samples.encoded, instances), aet=sender)
        self.follow()

    def follow(self) -> None:
        """Makes the events of what has happened, and of what is quiet."""
        self._writer.follow()
        self._writer.follow()

    def close(self) -> None:
        self._writer.close()


@contextmanager
def placed(data: Path, rules: Sequence[Rule], **options: Any) -> Iterator[Place]:
    with serving(data, rules=tuple(rules), **options) as hosting:
        place = Place(hosting)
        try:
            place.follow()
            names = [f"rule:{rule.name}:{to}" for rule in rules for to in rule.to]
            wait_for(lambda: all(place.outbox.load(name) for name in names), what="the positions")
            yield place
        finally:
            place.close()
