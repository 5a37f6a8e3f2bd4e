"""Named, bounded thread pools for blocking work: one for each resource that can stall by itself.

    reads    reads stored instances, and converts them before they are sent    stalls with a disk that does not answer
    index    reads lists of instances from the index                           stalls on index pages not in memory
    orders   writes to the registry of patients and orders                     stalls with a disk that does not sync
    cluster  asks the other nodes of the archive                               stalls with the network, or PostgreSQL
    slow     work of seconds: prepares a writer, opens large objects

Work that waits for a dead disk fills its own pool and no other. Do not use the event loop's default executor: all calls
of `run_in_executor(None, …)` share one pool, so one stalled resource would block them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from engine import guards

Result = TypeVar("Result")

READ_THREADS = 8
"""Enough to keep a disk with queues busy; each thread holds what one instance takes."""

INDEX_THREADS = 4
ORDERS_THREADS = 2
CLUSTER_THREADS = 1
"""Questions share a round: see `barrier`."""
SLOW_THREADS = 2


class ThreadPool:
    """A bounded number of threads under one name; further work waits in a queue."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._unfinished = 0

    async def run(self, work: Callable[[], Result], then: Callable[[], object] | None = None) -> Result:
        """Runs `work` in a thread; raises what it raises. `then` is called in the same thread when the result is on its
        way.

        A cancelled call does not stop its work: a thread that has begun finishes it.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Result] = loop.create_future()

        def call() -> None:
            try:
                result = work()
            except BaseException as error:
                guards.on_loop(loop, self._failed, waiter, error)
            else:
                guards.on_loop(loop, self._finished, waiter, result)
            if then is not None:
                guards.call(self.name, then)

        def ended(future: Future[None]) -> None:
            if future.cancelled():
                guards.on_loop(loop, self._dropped, waiter)

        future = self._executor.submit(call)
        self._unfinished += 1
        future.add_done_callback(ended)
        try:
            return await waiter
        finally:
            future.cancel()  # if this call was cancelled before its work has begun

    @property
    def is_stuck(self) -> bool:
        """Whether every thread is busy and as much work again waits."""
        return self._unfinished >= 2 * self.threads

    def snapshot(self) -> dict[str, int]:
        """As plain data, for the statistics."""
        busy = min(self._unfinished, self.threads)
        return {"threads": self.threads, "busy": busy, "waiting": self._unfinished - busy}

    def close(self, *, wait: bool = False) -> None:
        """Accepts no more work. Running work finishes; waiting work is dropped."""
        self._executor.shutdown(wait=wait, cancel_futures=True)

    # Called on the loop, once for each call: a second wake-up would be a good part of what a short call costs.

    def _finished(self, waiter: asyncio.Future[Result], result: Result) -> None:
        self._unfinished -= 1
        if not waiter.done():  # else the call was cancelled
            waiter.set_result(result)

    def _failed(self, waiter: asyncio.Future[Result], error: BaseException) -> None:
        self._unfinished -= 1
        if not waiter.done():
            waiter.set_exception(error)

    def _dropped(self, waiter: asyncio.Future[Result]) -> None:
        self._unfinished -= 1
        waiter.cancel()


class Pools:
    """The pools of one process."""

    def __init__(self) -> None:
        self.reads = ThreadPool("reads", READ_THREADS)
        self.index = ThreadPool("index", INDEX_THREADS)
        self.orders = ThreadPool("orders", ORDERS_THREADS)
        self.cluster = ThreadPool("cluster", CLUSTER_THREADS)
        self.slow = ThreadPool("slow", SLOW_THREADS)

    def __iter__(self) -> Iterator[ThreadPool]:
        return iter((self.reads, self.index, self.orders, self.cluster, self.slow))

    def snapshot(self) -> dict[str, dict[str, int]]:
        """As plain data, for the statistics."""
        return {pool.name: pool.snapshot() for pool in self}

    def close(self, *, wait: bool = False) -> None:
        """Accepts no more work."""
        for pool in self:
            pool.close(wait=wait)
