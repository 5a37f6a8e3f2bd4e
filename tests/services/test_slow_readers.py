"""Many askers that read slowly: what is held for them is bounded, others are served, and everything is given back."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from engine.config import Config
from engine.config.schema import Limits
from tests import peer
from tests.services.serving import Serving, serve
from tests.services.test_storage_scu import STUDY, answers, fill, get, small_window
from tests.system.server import wait_for

MIB = 1 << 20
SIZES = [7 * MIB, 7 * MIB, 100]
READERS = 24


def held_for_readers(serving: Serving) -> int:
    """Bytes that the kernel has not taken."""
    return sum(provider.connection.unsent_bytes for provider in serving.providers)


def test_slow_readers_share_a_budget_and_others_are_served(tmp_path: Path) -> None:
    limits = Limits(disk_reserve_bytes=0, dimse_timeout_s=60.0, retrieval_bytes_max=16 * MIB)
    config = Config(data=tmp_path / "data", limits=limits)

    def script(serving: Serving) -> None:
        stored = fill(serving, SIZES)
        budget = serving.services.retrieval_budget
        with ExitStack() as stack:
            slow = [stack.enter_context(small_window(serving.port)) for _ in range(READERS)]
            for each in slow:
                get(each)
            connections = [provider.connection for provider in serving.providers[1:]]
            wait_for(lambda: all(each.unsent_bytes for each in connections), what="everybody is sent something")
            assert max(each.unsent_bytes for each in connections) > MIB, "whole instances while there is room"
            assert min(each.unsent_bytes for each in connections) < MIB // 4, "and small pieces when it is short"
            assert held_for_readers(serving) <= budget.held_bytes <= 16 * MIB
            with serving.call() as fast:
                get(fast)
                came, final = answers(fast)
                assert final.status() == 0
                assert came == stored
                fast.release()
            assert budget.held_bytes <= 16 * MIB
            for each in slow[:2]:
                came, final = answers(each)
                assert final.status() == 0
                assert came == stored
        wait_for(lambda: not budget.held_bytes, what="all memory given back")
        assert budget.waiting_count == 0

    serve(tmp_path / "data", script, config=config)


def test_a_retrieval_that_finds_no_memory_fails_and_a_store_does_not(tmp_path: Path) -> None:
    limits = Limits(disk_reserve_bytes=0, dimse_timeout_s=0.5, retrieval_bytes_max=16 * MIB)
    config = Config(data=tmp_path / "data", limits=limits)

    def script(serving: Serving) -> None:
        fill(serving, [1000, 1000])
        budget = serving.services.retrieval_budget
        assert budget.take(budget.bytes_max)
        with serving.call() as asker:
            get(asker)
            came, final = answers(asker)
            assert (came, final.status()) == ({}, 0xA702)
            assert [peer.number(final.command, what) for what in (peer.COMPLETED, peer.FAILED)] == [0, 2]
            fill(serving, [1000])
            serving.services.loop.call_soon_threadsafe(budget.give_back, budget.bytes_max)
            asker.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 8, peer.STUDY_ROOT_GET), peer.identifier(STUDY)))
            came, final = answers(asker)
            assert (len(came), final.status()) == (2, 0)
            asker.release()

    serve(tmp_path / "data", script, config=config)
