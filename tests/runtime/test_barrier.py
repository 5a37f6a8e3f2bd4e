"""The barrier: questions share a round, and each is answered by one that began after it was asked."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest

from engine.errors import CatalogBehind, ClusterUnreachable, EngineError
from engine.runtime import barrier as barriers
from engine.runtime.barrier import COUNTER, Barrier
from engine.runtime.pools import ThreadPool


class Cluster:
    """What `catch_up` does: counts, waits while it is held, and fails if it is told to."""

    def __init__(self) -> None:
        self.rounds = 0
        self.error: EngineError | None = None
        self.may_end = threading.Event()
        self.may_end.set()
        self.has_begun = threading.Event()

    def catch_up(self) -> None:
        self.rounds += 1
        self.has_begun.set()
        self.may_end.wait(60)
        if self.error is not None:
            raise self.error


def barrier_of(cluster: Cluster, counters: Counter[str], *, refuses: bool = True) -> tuple[Barrier, ThreadPool]:
    pool = ThreadPool("cluster", 1)
    loop = asyncio.get_running_loop()
    return Barrier(loop, pool, cluster.catch_up, counters, refuses=refuses), pool


def test_questions_that_come_during_a_round_share_the_next_one() -> None:
    async def main() -> int:
        cluster = Cluster()
        barrier, pool = barrier_of(cluster, Counter())
        cluster.may_end.clear()
        first = asyncio.ensure_future(barrier.wait())
        while not cluster.has_begun.is_set():
            await asyncio.sleep(0)
        asked = 0

        async def ask() -> None:
            nonlocal asked
            asked += 1
            await barrier.wait()

        others = [asyncio.ensure_future(ask()) for _ in range(50)]
        while asked < 50:
            await asyncio.sleep(0)
        assert not first.done() and cluster.rounds == 1
        cluster.may_end.set()
        await asyncio.gather(first, *others)
        await barrier.wait()
        pool.close()
        return cluster.rounds

    assert asyncio.run(main()) == 3


@pytest.mark.parametrize("error", [ClusterUnreachable("away"), CatalogBehind("behind", 3)])
def test_what_other_nodes_know_is_waited_for_or_missed_as_configured(
    error: EngineError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(refuses: bool) -> Counter[str]:
        monkeypatch.setattr(barriers, "FRESH_S", 1e9)
        cluster, counters = Cluster(), Counter[str]()
        barrier, pool = barrier_of(cluster, counters, refuses=refuses)
        cluster.error = error
        if refuses:
            with pytest.raises(type(error)):
                await barrier.wait()
        else:
            await barrier.wait()
        assert barrier.is_blind
        if not refuses:
            cluster.may_end.clear()
            await asyncio.wait_for(barrier.wait(), 60)  # at once, though the round takes as long as it likes
            cluster.may_end.set()
            while barrier.is_running:
                await asyncio.sleep(0)
        cluster.error = None
        monkeypatch.setattr(barriers, "FRESH_S", 0.0)  # long after the failure: it waits again
        await barrier.wait()
        assert not barrier.is_blind
        pool.close()
        return counters

    assert asyncio.run(main(True)) == Counter()
    assert asyncio.run(main(False)) == Counter({COUNTER: 2})


def test_a_question_that_is_cancelled_takes_no_other_along() -> None:
    async def main() -> None:
        cluster = Cluster()
        barrier, pool = barrier_of(cluster, Counter())
        cluster.may_end.clear()
        running = asyncio.ensure_future(barrier.wait())
        while not cluster.has_begun.is_set():
            await asyncio.sleep(0)
        cancelled, other = asyncio.ensure_future(barrier.wait()), asyncio.ensure_future(barrier.wait())
        await asyncio.sleep(0)
        cancelled.cancel()
        cluster.may_end.set()
        await asyncio.gather(running, other)
        assert cancelled.cancelled()
        pool.close()

    asyncio.run(main())
