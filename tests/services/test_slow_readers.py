"""Many askers that read slowly: what is held for them is bounded, others are served, and everything is given back."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from engine.config import Config, Limits
from engine.config import Peer as KnownPeer
from tests import peer
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, Listener
from tests.services.serving import Serving, serve
from tests.services.test_storage_scu import MOVE, STUDY, answers, fill, get, small_window
from tests.system.server import wait_for

MIB = 1 << 20
SIZES = [7 * MIB, 7 * MIB, 100]
READERS = 24


def held_for_readers(serving: Serving) -> int:
    """Bytes that the kernel has not taken."""
    return sum(acceptor.connection.unsent_bytes for acceptor in serving.acceptors)


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
            connections = [acceptor.connection for acceptor in serving.acceptors[1:]]
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


def test_without_memory_a_retrieval_fails_and_a_store_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(disk_reserve_bytes=0, dimse_timeout_s=60.0, retrieval_bytes_max=16 * MIB)
    config = Config(data=tmp_path / "data", limits=limits)

    def script(serving: Serving) -> None:
        fill(serving, [1000, 1000])
        budget = serving.services.retrieval_budget
        wait = budget.wait_for
        # Only the wait for memory is over soon: the peer has its time to answer.
        monkeypatch.setattr(budget, "wait_for", lambda count, timeout_s: wait(count, 0.05))
        assert budget.take(budget.bytes_max)
        with serving.call() as asker:
            get(asker)
            came, final = answers(asker)
            assert (came, final.status()) == ({}, 0xA702)
            assert [peer.number(final.command, what) for what in (peer.COMPLETED, peer.FAILED)] == [0, 2]
            fill(serving, [1000])
            serving.services.engine.loop.call_soon_threadsafe(budget.give_back, budget.bytes_max)
            asker.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 8, peer.STUDY_ROOT_GET), peer.identifier(STUDY)))
            came, final = answers(asker)
            assert (len(came), final.status()) == (2, 0)
            asker.release()

    serve(tmp_path / "data", script, config=config)


# Trickles ----------------------------------------------------------------------------------------

# What is stored comes from another server, since this one is as impatient with those who store.
TRICKLES = Limits(disk_reserve_bytes=0, dimse_timeout_s=2.0, artim_timeout_s=60.0, delivery_rate_bytes_per_s_min=MIB)


def stored_before(data: Path, sizes: list[int]) -> dict[str, bytes]:
    """An archive with such instances: UID → data set."""
    stored: dict[str, bytes] = {}
    serve(data, lambda serving: stored.update(fill(serving, sizes)))
    return stored


def trickle(sock: socket.socket) -> None:
    """Reads a hundred kilobytes a second, far below the least rate, until the other side ends it."""
    sock.settimeout(60)
    with suppress(OSError):
        while sock.recv(5000):
            threading.Event().wait(0.05)


def test_a_peer_that_reads_too_slowly_is_aborted_and_its_memory_is_released(tmp_path: Path) -> None:
    stored_before(tmp_path / "data", [7 * MIB, 7 * MIB])

    def script(serving: Serving) -> None:
        with small_window(serving.port) as asker:
            get(asker)
            reading = threading.Thread(target=trickle, args=(asker.socket,), daemon=True)
            reading.start()
            connection = serving.acceptors[-1].connection
            wait_for(lambda: connection.unsent_bytes > MIB, what="much is held for it")
            wait_for(lambda: connection.gave_up, what="the asker is given up")
            # It goes on reading: what is held for it is dropped all the same, long before ARTIM is over.
            wait_for(lambda: not connection.unsent_bytes and not serving.services.retrieval_budget.held_bytes)
            reading.join()

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=TRICKLES))


@pytest.mark.parametrize("more", [{}, {"store_associations": 2}], ids=["one association", "two associations"])
def test_a_c_move_to_a_destination_that_reads_too_slowly_ends_and_counts_all(
    tmp_path: Path, more: dict[str, int]
) -> None:
    stored = stored_before(tmp_path / "data", [3 * MIB] * 4)
    with Listener() as listener:
        listener.receive_little()
        sink = KnownPeer(aet="SINK", host="127.0.0.1", port=listener.port, **more)  # type: ignore[arg-type]
        config = Config(data=tmp_path / "data", limits=TRICKLES, peers=(sink,))

        def play() -> None:
            with listener.accept() as destination:
                destination.accept()
                trickle(destination.socket)

        def script(serving: Serving) -> None:
            playing = [threading.Thread(target=play, daemon=True) for _ in range(sink.store_associations)]
            for each in playing:
                each.start()
            with serving.call() as asker:
                asker.associate(MOVE)
                rq = peer.query_rq(peer.C_MOVE_RQ, 7, STUDY_ROOT_MOVE, "SINK")
                asker.send(peer.message(5, rq, peer.identifier(STUDY)))
                _, final = answers(asker)
                assert final.status() == 0xA702
                counts = [peer.number(final.command, what) for what in (peer.COMPLETED, peer.FAILED, peer.WARNING)]
                assert counts == [0, 4, 0]
                assert final.data_set is not None
                assert sorted(final.data_set[8:].rstrip(b"\0").decode().split("\\")) == sorted(stored)
                asker.release()
            for each in playing:
                each.join()
            assert not serving.services.retrieval_budget.held_bytes

        serve(tmp_path / "data", script, config=config)


def test_a_peer_may_have_its_own_rate_and_timeout(tmp_path: Path) -> None:
    slow = KnownPeer(aet="SCRIPT", timeout_s=50.0, delivery_rate_bytes_per_s_min=1)
    config = Config(data=tmp_path / "data", limits=TRICKLES, peers=(slow,))

    def script(serving: Serving) -> None:
        with serving.call() as asker:
            asker.associate((1, peer.VERIFICATION, [IMPLICIT]))
            limits = serving.acceptors[0].connection._limits
            assert (limits.message_timeout_s, limits.delivery_rate_bytes_per_s_min) == (50.0, 1)
            asker.release()
        with serving.call() as asker:
            asker.associate((1, peer.VERIFICATION, [IMPLICIT]), calling="OTHER")
            assert serving.acceptors[1].connection._limits.message_timeout_s == TRICKLES.dimse_timeout_s
            asker.release()

    serve(tmp_path / "data", script, config=config)


# Several operations on one association -----------------------------------------------------------


def test_responses_of_other_operations_wait_for_the_end_of_a_streamed_object(tmp_path: Path) -> None:
    limits = Limits(disk_reserve_bytes=0, dimse_timeout_s=30.0)

    def script(serving: Serving) -> None:
        stored = fill(serving, [16 * MIB, 1000])
        with small_window(serving.port) as asker:
            asker.associate(
                (1, CT, [EXPLICIT]),
                (3, STUDY_ROOT_GET, [IMPLICIT]),
                (5, STUDY_ROOT_FIND, [IMPLICIT]),
                (7, peer.VERIFICATION, [IMPLICIT]),
                user_items=peer.role(CT, scu=False, scp=True),
            )
            asker.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 7, STUDY_ROOT_GET), peer.identifier(STUDY)))
            connection = serving.acceptors[-1].connection
            wait_for(lambda: connection.unsent_bytes > 0, what="the object is under way")
            asker.send(peer.message(5, peer.query_rq(peer.C_FIND_RQ, 8, STUDY_ROOT_FIND), peer.identifier(STUDY)))
            asker.send(peer.message(7, peer.c_echo_rq(9)))
            wait_for(lambda: serving.services.engine.metrics.counters["echo"] == 1, what="the echo is answered")
            came: dict[str, bytes] = {}
            finals: dict[int, int] = {}
            while len(finals) < 3:
                message = asker.expect_message()
                if peer.number(message.command, peer.COMMAND_FIELD) == peer.C_STORE_RQ:
                    came[peer.text(message.command, peer.SOP_INSTANCE)] = message.data_set or b""
                    asker.send(peer.message(message.context_id, peer.c_store_rsp(message.command)))
                elif message.status() not in (0xFF00, 0xFF01):
                    finals[peer.number(message.command, peer.RESPONDED_TO)] = message.status()
            assert came == stored
            assert finals == {7: 0, 8: 0, 9: 0}
            asker.release()

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=limits))


def test_a_peer_that_never_reads_responses_is_not_read_either(tmp_path: Path) -> None:
    limits = Limits(disk_reserve_bytes=0, dimse_timeout_s=30.0)
    count = 60_000

    def script(serving: Serving) -> None:
        with small_window(serving.port) as asker:
            asker.associate((1, peer.VERIFICATION, [IMPLICIT]))
            connection = serving.acceptors[-1].connection
            requests = peer.message(1, peer.c_echo_rq(1)) * count
            sending = threading.Thread(target=asker.send, args=(requests,), daemon=True)
            sending.start()
            wait_for(lambda: connection._is_choked, what="it is not read any more")
            assert connection.unsent_bytes < 2 * MIB
            for _ in range(count):
                assert asker.expect_message().status() == 0
            sending.join()
            asker.release()

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=limits))
