"""Thread pools: bounded, each by itself, so that a disk that does not answer stops one of them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from engine.runtime.pools import INDEX_THREADS, READ_THREADS, Pools


@pytest.mark.unjittered("the loop begins tasks in their order")
def test_a_hanging_disk_blocks_only_reads() -> None:
    async def run() -> None:
        pools, disk = Pools(), threading.Event()
        stuck = [asyncio.ensure_future(pools.reads.run(disk.wait)) for _ in range(3 * READ_THREADS)]
        await asyncio.sleep(0)
        assert pools.reads.is_stuck and not pools.index.is_stuck
        assert pools.reads.snapshot() == {
            "threads": READ_THREADS,
            "busy": READ_THREADS,
            "waiting": 2 * READ_THREADS,
        }
        async with asyncio.timeout(60):
            assert await pools.index.run(lambda: "listed") == "listed"
            assert await pools.slow.run(lambda: "opened") == "opened"
            # The loop's own executor, which libraries use for name look-ups, is not taken either.
            assert await asyncio.get_running_loop().run_in_executor(None, lambda: "looked up") == "looked up"
        disk.set()
        await asyncio.gather(*stuck)
        assert not pools.reads.is_stuck and pools.snapshot()["reads"]["busy"] == 0
        pools.close(wait=True)

    asyncio.run(run())


def test_a_pool_never_runs_more_than_its_threads_and_passes_on_what_is_raised() -> None:
    async def run() -> None:
        pools, lock, running, most = Pools(), threading.Lock(), 0, 0
        together = threading.Barrier(INDEX_THREADS)

        def work() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            together.wait(60)
            with lock:
                running -= 1

        await asyncio.gather(*(pools.index.run(work) for _ in range(4 * INDEX_THREADS)))
        assert most == INDEX_THREADS
        with pytest.raises(ZeroDivisionError):
            await pools.index.run(lambda: 1 // 0)
        pools.close(wait=True)

    asyncio.run(run())


def test_an_abandoned_thread_is_counted_until_it_ends() -> None:
    async def run() -> None:
        pools, began, disk = Pools(), threading.Event(), threading.Event()

        def hang() -> None:
            began.set()
            disk.wait()

        waiting = asyncio.ensure_future(pools.slow.run(hang))
        while not began.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pools.slow.snapshot()["busy"] == 1
        disk.set()
        async with asyncio.timeout(60):
            while pools.slow.snapshot()["busy"]:
                await asyncio.sleep(0.001)
        pools.close(wait=True)

    asyncio.run(run())


def test_the_default_executor_is_not_used() -> None:
    """It is one for all: whoever blocks in it blocks everybody else who does."""
    from tests.test_tidy import ENGINE

    found = [
        path.relative_to(ENGINE).as_posix()
        for path in ENGINE.rglob("*.py")
        for line in path.read_text().splitlines()
        if ("run_in_executor(None" in line or "asyncio.to_thread(" in line) and "`" not in line
    ]
    assert found == []
