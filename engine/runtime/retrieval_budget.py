"""Memory that retrievals of one worker may hold, all associations together: whoever sends takes it before it allocates.

Does not send or free anything itself. What a peer reads slowly is held for it until it has read it: without a common
budget many slow readers fill the worker, and ingest is refused for what retrievals hold.

    up to half            whole instances, and the next one read ahead    `take(count, WHOLE_SHARE)`
    up to three quarters  pieces of a megabyte                            `take(count, PIECE_SHARE)`
    up to all of it       small pieces, and what is converted             `wait_for`: first come, first served

Whoever waits must hold nothing itself: else those who wait hold what they wait for.
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
    """One process's memory for what goes out. All calls come on the loop's thread."""

    def __init__(self, config: Callable[[], Config], metrics: Metrics) -> None:
        """`config`: the present one."""
        self._config = config
        self._metrics = metrics
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.held_bytes = 0
        """What has been taken and not given back."""

    @property
    def bytes_max(self) -> int:
        """How much may be held: never so much that ingest would be refused for it."""
        limits = self._config().limits
        return min(limits.retrieval_bytes_max, limits.memory_bytes_max // 4)

    @property
    def waiting_count(self) -> int:
        """Who waits for memory."""
        return len(self._waiting)

    @property
    def is_short(self) -> bool:
        """Whether so much is held that nobody should keep what it can do without."""
        return self.held_bytes > self.bytes_max * WHOLE_SHARE

    def take(self, count: int, share: float = 1.0) -> bool:
        """Takes `count` bytes at once if not more than `share` of all is held then; whether it did."""
        if self._waiting or self.held_bytes + count > self.bytes_max * share:
            return False
        self.held_bytes += count
        return True

    async def wait_for(self, count: int, limit_s: float) -> None:
        """Takes `count` bytes, as soon as they are free. Raises MemoryShort after `limit_s`, or if they never are."""
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
        """What was taken is free again."""
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
        """One that waited goes away; it may have been given its bytes in the same moment."""
        count, future = entry
        if future.done() and not future.cancelled():
            self.give_back(count)
        elif entry in self._waiting:
            self._waiting.remove(entry)
            self._serve()
