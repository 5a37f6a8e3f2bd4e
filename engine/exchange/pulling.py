"""Pulls what another archive has announced by an Instance Availability Notification: a job for each study."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from engine import log
from engine.archive.jobs import job as states
from engine.archive.jobs.job import RULE, Job, Work
from engine.archive.jobs.job_files import new_id
from engine.orders.rows import AnnouncementRow
from engine.outbox.follower import Sink

if TYPE_CHECKING:
    from engine.exchange.settings import Rule
    from engine.outbox.source import Unit
    from engine.runtime.engine import Engine

logger = log.get("exchange.pulling")


class Pulling(Sink[AnnouncementRow]):
    """What one rule pulls from one peer."""

    def __init__(self, engine: Engine, rule: Rule, aet: str) -> None:
        self._engine = engine
        self._rule = rule
        self._aet = aet
        self._files = engine.archive.job_files()

    async def deliver(self, unit: Unit[AnnouncementRow], reset: str) -> None:
        """Creates the job for an announcement of the peer. Raises JobsFull, StorageFull."""
        if unit.content.by == self._aet:
            await self._engine.pools.slow.run(partial(self._create, unit.content.subject))

    def _create(self, study: str) -> None:
        name = self._rule.name
        job = Job(
            id=new_id(),
            kind=states.PULL,
            peer=self._aet,
            work=Work(studies=(study,)),
            by=f"{RULE}:{name}",
            reason=f"announced, rule {name}",
            created_ns=time.time_ns(),
        )
        self._files.create(job)
        self._engine.metrics.counters["jobs_pulling_announced"] += 1
        logger.info("an announced study is pulled", rule=name, peer=self._aet, job=job.id)
