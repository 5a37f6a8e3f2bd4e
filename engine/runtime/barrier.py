"""Barrier: before a node answers, it knows what any node has acknowledged until then.

    a question ─► the next round ─► last numbers of all nodes, from PostgreSQL ─► this index has them ─► the answer

Questions that come while a round is under way share the next one, so that a busy node asks once a round trip, however
many ask it. While the nodes cannot be asked, `[cluster] visibility` says what happens: "cluster" refuses the question,
"node" answers with what this node knows, and counts that: soon after a failure at once, while the next round goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping

from engine import guards, log
from engine.errors import CatalogBehind, ClusterUnreachable, EngineError, for_log
from engine.runtime.pools import ThreadPool

logger = log.get("runtime.barrier")

COUNTER = "answers_of_one_node"
FRESH_S = 5.0
"""A failure that is older says nothing about now: the question waits for its round."""


class Barrier:
    """One process's barrier. On the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: ThreadPool,
        catch_up: Callable[[], None],
        counters: MutableMapping[str, int],
        *,
        refuses: bool,
    ) -> None:
        """`catch_up` blocks, and raises ClusterUnreachable or CatalogBehind. `refuses`: whether questions are refused
        then."""
        self._loop = loop
        self._pool = pool
        self._catch_up = catch_up
        self._counters = counters
        self._refuses = refuses
        self._next: asyncio.Future[None] | None = None
        """The round that has not begun."""
        self.is_running = False
        self._failed_s = 0.0
        """When the last round failed, by the loop's clock."""
        self.is_blind = False
        """Whether the last round failed: answers may lack what other nodes have."""

    async def wait(self) -> None:
        """Returns when this node may answer. Raises ClusterUnreachable or CatalogBehind where it must not."""
        if self._next is None:
            self._next = self._loop.create_future()
        waiter = self._next
        is_fresh = self.is_running or self._loop.time() - self._failed_s < FRESH_S
        if not self.is_running:
            self._begin()
        if self.is_blind and is_fresh and not self._refuses:
            self._counters[COUNTER] += 1  # the round goes on, and finds out when the cluster is back
            return
        try:
            await asyncio.shield(waiter)
        except (ClusterUnreachable, CatalogBehind):
            if self._refuses:
                raise
            self._counters[COUNTER] += 1

    def _begin(self) -> None:
        assert self._next is not None
        waiter, self._next = self._next, None
        self.is_running = True
        guards.watch(self._loop.create_task(self._round(waiter)), "barrier")

    async def _round(self, waiter: asyncio.Future[None]) -> None:
        error: EngineError | None = None
        try:
            await self._pool.run(self._catch_up)
        except EngineError as failure:
            error = failure
        finally:
            self.is_running = False
            if self._next is not None:
                self._begin()
        if error is not None:
            self._failed_s = self._loop.time()
        self._note(error)
        if waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
            waiter.exception()  # whoever waited may be gone

    def _note(self, error: EngineError | None) -> None:
        if (error is not None) == self.is_blind:
            return
        self.is_blind = error is not None
        if error is not None:
            logger.error("what other nodes have stored is not known here", error=for_log(error), refuses=self._refuses)
        else:
            logger.info("what other nodes have stored is known again")
