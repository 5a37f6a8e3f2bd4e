"""A follower: hands over the units of a source, in order, and keeps how far it is (`archive.feed.destinations`).

    read a page ─► hand a unit over ─► accepted: the cursor moves, and is saved
                        ▲   │
                        │   └─ failed: again after retry_s, twice as long each time, at most retry_s_max.
                        │      After attempts_max in a row the policy decides:
                        │         wait   it is tried for ever; all later units wait
                        └──────── skip   it is set aside, and the next one follows; `resend` hands it over later
                                  park   nothing more is tried until `resume`

A unit is handed over at least once: what was accepted and not saved before a crash comes again, in the same order. If a
cursor is no longer valid the follower goes on with what is new, and says so in `reset`. What is pointless to try again
(DeliveryPointless) is set aside at once, whatever the policy.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Literal, Protocol

from engine import log
from engine.archive.feed.destinations import DELIVERING, PARKED, WAITING, Destinations, Skipped, Standing
from engine.archive.feed.event import time_text
from engine.archive.feed.subscription import cursor_of_now
from engine.errors import CursorRefused, DeliveryPointless, EngineError, FeedMissing, for_log
from engine.outbox.source import Content, Source, Unit

if TYPE_CHECKING:
    from engine.runtime.engine import Engine

logger = log.get("outbox")

CHECK_S: Final = 1.0
"""How often a follower that waits looks for requests of people, and for a source that is not there yet."""
SKIPPED_MAX: Final = 1000
"""The most units that are set aside; further ones are counted and logged."""

Policy = Literal["wait", "skip", "park"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What happens after failures."""

    retry_s: float
    retry_s_max: float
    attempts_max: int = 1
    policy: Policy = "wait"

    def pause_s(self, attempts: int) -> float:
        """The pause after so many failures in a row."""
        return min(self.retry_s * 2.0 ** min(attempts - 1, 40), self.retry_s_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """How often a position is saved."""

    accepted_s: float
    """After something was accepted: a crash repeats what was accepted since then. 0: at once."""
    passed_s: float = 60.0
    """When nothing was handed over since."""


class Sink(Protocol[Content]):
    """Where units go."""

    async def deliver(self, unit: Unit[Content], reset: str) -> None:
        """Hands a unit over; returns when it is accepted. `reset`: why units before it were left out.

        Raises EngineError.
        """

    def nothing(self, cursor: str) -> Unit[Content] | None:
        """A unit that only says that others were left out; None if the receiver need not know, as most need not."""
        return None

    async def close(self) -> None:
        """Frees its resources; most have none."""
        return


class Follower(Generic[Content]):
    """Follows one source for one sink. Used on the loop's thread."""

    def __init__(
        self,
        engine: Engine,
        kind: str,
        name: str,
        source: Source[Content],
        sink: Sink[Content],
        *,
        destinations: Destinations,
        retries: Retries,
        saving: Saving,
        gather_s: float = 0.0,
    ) -> None:
        """`kind`: what the log and the counters call it. `gather_s`: the pause between news and reading them."""
        self._engine = engine
        self._kind = kind
        self._name = name
        self._source = source
        self._sink = sink
        self._destinations = destinations
        self._retries = retries
        self._saving = saving
        self._gather_s = gather_s
        self._standing = Standing(name=name)
        self._saved_at = 0.0
        self._saved_cursor = ""
        self._is_accepted_unsaved = False

    async def run(self) -> None:
        """Follows until it is cancelled."""
        reads = self._engine.pools.reads
        try:
            while True:
                try:
                    saved = await reads.run(partial(self._destinations.load, self._name))
                    self._standing = saved or Standing(name=self._name)
                    self._saved_cursor = self._standing.cursor
                    await self._follow()
                except EngineError as error:
                    self._count_failure()
                    logger.warning(f"a {self._kind} waits", name=self._name, error=for_log(error))
                except Exception as error:
                    self._count_failure()
                    logger.error(f"a {self._kind} failed", name=self._name, error=for_log(error))
                finally:
                    # Also when it is cancelled, so that what was accepted is not repeated.
                    self._save_or_warn()
                await asyncio.sleep(self._retries.retry_s)
        finally:
            await self._sink.close()
            self._source.close()

    async def _follow(self) -> None:
        reads, standing = self._engine.pools.reads, self._standing
        if not standing.cursor:
            standing.cursor = await cursor_of_now(self._source, reads.run, CHECK_S)
            await self._save()
        while True:
            if standing.state == PARKED:
                await self._until_resumed()
            await self._resend()
            changed = self._source.changed()
            try:
                page = await reads.run(partial(self._source.read, standing.cursor))
            except CursorRefused as error:
                logger.warning(f"a {self._kind} goes on with what is new", name=self._name, reason=for_log(error))
                standing.reset = str(error)
                standing.cursor = await cursor_of_now(self._source, reads.run, CHECK_S)
                nothing = self._sink.nothing(standing.cursor)
                if nothing is not None:
                    await self._hand_over(nothing)
                await self._save()
                continue
            except FeedMissing:
                await asyncio.sleep(CHECK_S)
                continue
            for unit in page.units:
                await self._hand_over(unit)
            standing.cursor = page.cursor
            await self._save_if_due()
            if page.is_end:
                await self._until_changed(changed)

    # -- one unit -----------------------------------------------------------------------------------

    async def _hand_over(self, unit: Unit[Content]) -> None:
        """Returns when the unit is accepted, or set aside."""
        standing = self._standing
        while (failure := await self._attempt(unit, standing.reset)) is not None:
            error, is_final = failure
            standing.attempts += 1
            standing.error = error
            if is_final:
                await self._set_aside(unit, error)
                return
            if standing.attempts < self._retries.attempts_max or self._retries.policy == "wait":
                standing.state = WAITING
                await self._save()
                await self._pause(error)
            elif self._retries.policy == "skip":
                await self._set_aside(unit, error)
                return
            else:
                standing.state = PARKED
                await self._save()
                logger.error(f"{self._kind} parked", name=self._name, attempts=standing.attempts, error=error)
                await self._until_resumed()
        standing.state, standing.attempts, standing.error, standing.reset = DELIVERING, 0, "", ""
        standing.cursor = unit.after
        self._is_accepted_unsaved = True
        await self._save_if_due()

    async def _attempt(self, unit: Unit[Content], reset: str) -> tuple[str, bool] | None:
        """Returns why the unit was not accepted, and whether it is pointless to try again; None if it was."""
        try:
            await self._sink.deliver(unit, reset)
        except EngineError as error:
            self._count_failure()
            # It is kept, and shown to administrators.
            return error.for_log, isinstance(error, DeliveryPointless)
        except Exception as error:
            self._count_failure()
            logger.error(f"a {self._kind} failed", name=self._name, error=for_log(error))
            return f"internal error: {type(error).__name__}", False
        self._standing.delivered += unit.count
        return None

    def _count_failure(self) -> None:
        self._engine.metrics.counters[f"{self._kind}_attempts_failed"] += 1

    async def _pause(self, error: str) -> None:
        attempts, loop = self._standing.attempts, self._engine.loop
        pause_s = self._retries.pause_s(attempts)
        logger.warning(f"{self._kind} failed", name=self._name, attempt=attempts, error=error, pause_s=pause_s)
        pause_end = loop.time() + pause_s
        while (remaining_s := pause_end - loop.time()) > 0 and not self._is_resumed():
            await asyncio.sleep(min(remaining_s, CHECK_S))

    async def _until_resumed(self) -> None:
        while not self._is_resumed():
            await asyncio.sleep(CHECK_S)
        self._standing.state, self._standing.attempts = WAITING, 0

    def _is_resumed(self) -> bool:
        return self._destinations.take_resume(self._name)

    # -- what was set aside -------------------------------------------------------------------------

    async def _set_aside(self, unit: Unit[Content], error: str) -> None:
        standing = self._standing
        self._engine.metrics.counters[f"{self._kind}_units_skipped"] += unit.count
        logger.error(f"{self._kind} skipped", name=self._name, after=unit.before, error=error)
        if len(standing.skipped) < SKIPPED_MAX:
            standing.skipped.append(Skipped(at=unit.before, error=error, time=time_text(time.time_ns())))
        standing.state, standing.attempts, standing.cursor = DELIVERING, 0, unit.after
        await self._save()

    async def _resend(self) -> None:
        """Tries once more what was set aside, if somebody asks."""
        standing = self._standing
        if not standing.skipped or not self._destinations.take_resend(self._name):
            return
        for each in list(standing.skipped):
            try:
                page = await self._engine.pools.reads.run(partial(self._source.read, each.at))
                gone = ("it is not there any more", True)
                failure = await self._attempt(page.units[0], "") if page.units else gone
            except CursorRefused as refusal:
                failure = str(refusal), True
            if failure is None:
                standing.skipped.remove(each)
            else:
                each.error = failure[0]
            await self._save()

    # -- the position -------------------------------------------------------------------------------

    async def _until_changed(self, changed: asyncio.Future[None]) -> None:
        """Waits for news. Saves meanwhile when it is time, and looks for requests while something is set aside."""
        while not changed.done():
            timeout_s = self._due_s() if self._standing.cursor != self._saved_cursor else None
            if self._standing.skipped:
                timeout_s = CHECK_S if timeout_s is None else min(timeout_s, CHECK_S)
            await asyncio.wait((changed,), timeout=timeout_s)
            await self._save_if_due()
            await self._resend()
        if self._gather_s:
            await asyncio.sleep(self._gather_s)

    def _due_s(self) -> float:
        interval_s = self._saving.accepted_s if self._is_accepted_unsaved else self._saving.passed_s
        return max(0.0, self._saved_at + interval_s - self._engine.loop.time())

    async def _save_if_due(self) -> None:
        if self._standing.cursor != self._saved_cursor and not self._due_s():
            await self._save()

    async def _save(self) -> None:
        self._saved_at, self._saved_cursor = self._engine.loop.time(), self._standing.cursor
        self._is_accepted_unsaved = False
        self._standing.updated = time_text(time.time_ns())
        await self._engine.pools.reads.run(partial(self._destinations.save, self._standing))

    def _save_or_warn(self) -> None:
        if not self._standing.cursor:
            return
        try:
            self._standing.updated = time_text(time.time_ns())
            self._destinations.save(self._standing)
        except (EngineError, OSError) as error:
            logger.warning(f"the position of a {self._kind} was not saved", name=self._name, error=for_log(error))
