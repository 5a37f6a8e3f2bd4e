"""The memory budget of all retrievals of one worker: a sender takes bytes from it before it allocates them.

It only counts. Data for a slow peer stays in memory until the peer has read it: without a common budget many slow peers
would fill the worker, and ingest would be refused because of them.

    up to half            whole instances, and the next one read ahead    `take(count, WHOLE_SHARE)`
    up to three quarters  pieces of a megabyte                            `take(count, PIECE_SHARE)`
    up to all of it       small pieces, and converted instances           `wait_for`: first come, first served

Hold no bytes of the budget while you wait for more: otherwise the waiting tasks hold what they wait for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import MemoryShort

if TYPE_CHECKING:
    from engine.config import Config
    from engine.metrics import Metrics

WHOLE_SHARE = 0.5
PIECE_SHARE = 0.75


class RetrievalBudget:
    """One process's budget. All calls come on the loop's thread."""

    def __init__(self, config: Callable[[], Config], metrics: Metrics) -> None:
        """`config`: returns the current configuration."""
        self._config = config
        self._metrics = metrics
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.held_bytes = 0
        """Bytes that are taken and not returned yet."""

    @property
    def bytes_max(self) -> int:
        """The size of the budget: never so much that ingest would be refused because of it."""
        limits = self._config().limits
        return min(limits.retrieval_bytes_max, limits.memory_bytes_max // 4)

    @property
    def waiting_count(self) -> int:
        """The number of tasks that wait for memory."""
        return len(self._waiting)

    @property
    def is_short(self) -> bool:
        """Whether memory is so short that a retrieval should free what it can do without."""
        return self.held_bytes > self.bytes_max * WHOLE_SHARE

    def take(self, count: int, share: float = 1.0) -> bool:
        """Takes `count` bytes at once if at most `share` of the budget is in use then; returns whether it did."""
        if self._waiting or self.held_bytes + count > self.bytes_max * share:
            return False
        self.held_bytes += count
        return True

    async def wait_for(self, count: int, limit_s: float) -> None:
        """Takes `count` bytes as soon as they are free. Raises MemoryShort after `limit_s`, or if they never can be."""
        if self.take(count):
            return
        if count > self.bytes_max:
            raise MemoryShort(f"{count} bytes are more than retrievals may hold together, {self.bytes_max}")
        self._metrics.counters["retrieval_waits_for_memory"] += 1
        entry = (count, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(limit_s):
                await entry[1]
        except TimeoutError:
            self._leave(entry)
            self._metrics.counters["retrieval_short_of_memory"] += 1
            raise MemoryShort(f"out of resources: memory for retrievals, waited {limit_s:g} s") from None
        except BaseException:
            self._leave(entry)
            raise

    def give_back(self, count: int) -> None:
        """Returns bytes that were taken."""
        self.held_bytes -= count
        if self._waiting:
            self._serve()

    def snapshot(self) -> dict[str, int]:
        """As plain data, for the statistics."""
        return {"held_bytes": self.held_bytes, "bytes_max": self.bytes_max, "waiting": self.waiting_count}

    # -- inside ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._waiting and self.held_bytes + self._waiting[0][0] <= self.bytes_max:
            count, future = self._waiting.popleft()
            if not future.done():
                self.held_bytes += count
                future.set_result(None)

    def _leave(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        """Removes a waiting task; it may have received its bytes at the same moment."""
        count, future = entry
        if future.done() and not future.cancelled():
            self.give_back(count)
        elif entry in self._waiting:
            self._waiting.remove(entry)
            self._serve()
