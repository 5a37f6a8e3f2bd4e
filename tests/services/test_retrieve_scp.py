"""C-MOVE and C-GET: lists in several batches, counts and names that a response cannot hold, who may know what."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.archive import selection
from engine.config import Config
from engine.config import Peer as KnownPeer
from engine.exchange.stow import stow_destination
from engine.services import destination, retrieve_scp
from tests import peer
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_GET, STUDY_ROOT_MOVE, Listener, Message, Peer
from tests.services.serving import LIMITS, Serving, serve
from tests.services.test_storage_scu import MOVE, STUDY, answers, fill, get
from tests.web.stow_sink import stow_sink

COUNT = 10
COUNTS = (peer.COMPLETED, peer.FAILED, peer.WARNING)


def counts(final: Message) -> list[int]:
    return [peer.number(final.command, what) for what in COUNTS]


def move(asker: Peer, destination: str = "SINK") -> Message:
    asker.associate(MOVE)
    rq = peer.query_rq(peer.C_MOVE_RQ, 7, STUDY_ROOT_MOVE, destination)
    asker.send(peer.message(5, rq, peer.identifier(STUDY)))
    _, final = answers(asker)
    asker.release()
    return final


def take_all(listener: Listener, came: dict[str, bytes]) -> None:
    """A good destination, for any number of associations."""
    while True:
        try:
            destination = listener.accept()
        except OSError:
            return
        with destination:
            destination.accept()
            while destination.next_type() == peer.P_DATA:
                message = destination.expect_message()
                came[peer.text(message.command, peer.SOP_INSTANCE)] = message.data_set or b""
                destination.send(peer.message(message.context_id, peer.c_store_rsp(message.command)))
            destination.expect(peer.RELEASE_RQ)
            destination.send(peer.pdu(peer.RELEASE_RP, bytes(4)))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "BATCH", 4)


def test_a_long_list_is_sent_batch_by_batch_and_counted_as_one(tmp_path: Path, small_batches: None) -> None:
    with Listener() as listener:
        sink = KnownPeer(aet="SINK", host="127.0.0.1", port=listener.port, store_associations=2)

        def script(serving: Serving) -> None:
            stored = fill(serving, [1000] * COUNT)
            came: dict[str, bytes] = {}
            playing = [threading.Thread(target=take_all, args=(listener, came), daemon=True) for _ in range(2)]
            for each in playing:
                each.start()
            with serving.call() as asker:
                final = move(asker)
            assert (final.status(), counts(final)) == (0, [COUNT, 0, 0])
            assert came == stored
            with serving.call() as asker:
                get(asker)
                got, final = answers(asker)
                assert (final.status(), counts(final)) == (0, [COUNT, 0, 0])
                assert got == stored
                asker.release()
            listener.close()

        serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=LIMITS, peers=(sink,)))


def test_an_unreachable_destination_is_called_once_for_all_batches(
    tmp_path: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve_scp, "COUNT_MAX", 7)
    monkeypatch.setattr(retrieve_scp, "FAILED_LIST_BYTES_MAX", 130)
    with Listener() as listener:
        sink = KnownPeer(aet="SINK", host="127.0.0.1", port=listener.port)
    calls: list[object] = []
    called = destination.open_association

    async def watched(*arguments: object) -> object:
        calls.append(arguments)
        return await called(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(destination, "open_association", watched)

    def script(serving: Serving) -> None:
        stored = fill(serving, [1000] * COUNT)
        with serving.call() as asker:
            final = move(asker)
        assert final.status() == 0xA702
        assert counts(final) == [0, 7, 0], "what their attributes cannot say is said as the most that they can"
        assert final.data_set is not None
        named = final.data_set[8:].rstrip(b"\0").decode().split("\\")
        assert 0 < len(named) < COUNT
        assert set(named) < set(stored)
        assert serving.services.engine.metrics.counters["suboperations_failed"] == COUNT
        assert len(calls) == 1

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=LIMITS, peers=(sink,)))


def test_a_destination_with_only_a_url_gets_instances_by_stow(tmp_path: Path, small_batches: None) -> None:
    data = tmp_path / "data"
    with stow_sink() as sink:
        peers = (
            KnownPeer(aet="SINK", url=sink.url),
            KnownPeer(aet="NO-SECRET", url=sink.url, token_file=tmp_path / "none"),
        )

        def script(serving: Serving) -> None:
            stored = fill(serving, [1000] * COUNT)
            with serving.call() as asker:
                final = move(asker)
            assert final.status() == 0xA801, "nothing here opens such a peer"
            serving.services.open_web_peer = stow_destination
            sink.refused = {sorted(stored)[0]}
            with serving.call() as asker:
                final = move(asker)
            assert (final.status(), counts(final)) == (0xB000, [COUNT - 1, 1, 0])
            assert final.data_set is not None and sorted(stored)[0].encode() in final.data_set
            assert set(sink.received) == set(stored) - sink.refused
            sink.refused = set()
            with serving.call() as asker:
                final = move(asker)
            assert (final.status(), counts(final), set(sink.received)) == (0, [COUNT, 0, 0], set(stored))
            sink.status = 500
            with serving.call() as asker:
                final = move(asker)
            assert (final.status(), counts(final)) == (0xA702, [0, COUNT, 0])
            with serving.call() as asker:
                final = move(asker, "NO-SECRET")
            assert final.status() == 0xA702
            assert "token_file cannot be read" in peer.text(final.command, peer.ERROR_COMMENT)

        serve(data, script, config=Config(data=data, limits=LIMITS, peers=peers))


@pytest.mark.parametrize("destination", ["SINK", "NOBODY"])
def test_a_peer_that_may_not_retrieve_does_not_learn_whether_a_destination_is_known(
    tmp_path: Path, destination: str
) -> None:
    """It has its presentation context from before somebody took the permission away."""
    sink = KnownPeer(aet="SINK", host="127.0.0.1", port=1)
    config = Config(data=tmp_path / "data", limits=LIMITS, peers=(sink,))

    def script(serving: Serving) -> None:
        with serving.call() as asker:
            asker.associate(MOVE)
            allowed = KnownPeer(aet="SCRIPT", may=("store",))
            serving.services.engine.config = msgspec.structs.replace(config, peers=(sink, allowed))
            rq = peer.query_rq(peer.C_MOVE_RQ, 7, STUDY_ROOT_MOVE, destination)
            asker.send(peer.message(5, rq, peer.identifier(STUDY)))
            assert answers(asker)[1].status() == 0x0124
            asker.release()

    serve(tmp_path / "data", script, config=config)


def test_a_cancel_that_comes_after_the_last_answer_cancels_nothing(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        fill(serving, [1000])
        with serving.call() as asker:
            get(asker)
            received = asker.expect_message()
            answer = peer.message(received.context_id, peer.c_store_rsp(received.command))
            asker.send(peer.message(3, peer.c_cancel_rq(7)) + answer)
            _, final = answers(asker)
            assert (final.status(), counts(final)) == (0, [1, 0, 0])
            asker.release()

    serve(tmp_path / "data", script)


def test_data_read_ahead_of_a_cancel_is_not_sent(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        fill(serving, [1000] * 3)
        with serving.call() as asker:
            get(asker)
            received = asker.expect_message()
            asker.send(peer.message(3, peer.c_cancel_rq(7)))
            asker.send(peer.message(received.context_id, peer.c_store_rsp(received.command)))
            came, final = answers(asker)
            assert came == {}
            assert (final.status(), counts(final)) == (0xFE00, [1, 0, 0])
            assert peer.number(final.command, peer.REMAINING) == 2
            asker.release()

    serve(tmp_path / "data", script)


def test_a_peer_without_a_window_has_one_operation_at_a_time(tmp_path: Path) -> None:
    config = Config(data=tmp_path / "data", limits=LIMITS, peers=(KnownPeer(aet="SCRIPT", asynchronous_window=1),))

    def script(serving: Serving) -> None:
        fill(serving, [1000])
        with serving.call() as asker:
            asker.associate(
                (1, CT, [EXPLICIT]), (3, STUDY_ROOT_GET, [IMPLICIT]), user_items=peer.role(CT, scu=False, scp=True)
            )
            for number in (7, 8):
                rq = peer.query_rq(peer.C_GET_RQ, number, STUDY_ROOT_GET)
                asker.send(peer.message(3, rq, peer.identifier(STUDY)))
            received = asker.expect_message()
            refused = received if peer.RESPONDED_TO in received.command else asker.expect_message()
            assert (peer.number(refused.command, peer.RESPONDED_TO), refused.status()) == (8, 0xA702)
            store = asker.expect_message() if refused is received else received
            asker.send(peer.message(store.context_id, peer.c_store_rsp(store.command)))
            assert answers(asker)[1].status() == 0
            asker.release()

    serve(tmp_path / "data", script, config=config)


def test_a_destination_not_allowed_to_the_peer_counts_as_unknown_and_is_not_called(tmp_path: Path) -> None:
    with Listener() as listener:

        def script(serving: Serving) -> None:
            fill(serving, [1000])
            with serving.call() as asker:
                final = move(asker)
                assert final.status() == 0xA801
                assert not select.select([listener._socket], [], [], 0.1)[0]

        sink = KnownPeer(aet="SINK", host="127.0.0.1", port=listener.port)
        ward = KnownPeer(aet="SCRIPT", destinations=("WARD-WS",))
        serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=LIMITS, peers=(sink, ward)))


def slowly_listed(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> list[selection.Selection]:
    """Lists are read a batch of four at a time; after the first batch `meanwhile` is called. The lists there were."""
    seen: list[selection.Selection] = []
    gather = selection.Selection.gather

    def watched(self: selection.Selection) -> bool:
        more = gather(self)
        if self not in seen:
            seen.append(self)
            meanwhile()
        return more

    monkeypatch.setattr(selection.Selection, "gather", watched)
    return seen


def test_a_cancel_ends_the_reading_of_a_long_list(
    tmp_path: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_listing, may_go_on = threading.Event(), threading.Event()

    def meanwhile() -> None:
        is_listing.set()
        assert may_go_on.wait(60)

    seen = slowly_listed(monkeypatch, meanwhile)

    def script(serving: Serving) -> None:
        fill(serving, [1000] * COUNT)
        with serving.call() as asker:
            get(asker)
            assert is_listing.wait(60)
            asker.send(peer.message(3, peer.c_cancel_rq(7)) + peer.message(1, peer.c_echo_rq(9)))
            assert asker.expect_message().responded_to() == 9, "the cancel before it has been read"
            may_go_on.set()
            came, final = answers(asker)
            assert came == {}
            assert (final.status(), counts(final)) == (0xFE00, [0, 0, 0])
            assert len(seen[0]) == 4, "what nobody waits for is read no further"
            asker.release()

    serve(tmp_path / "data", script)


def test_a_peer_that_waits_for_a_long_list_gets_pending_responses(
    tmp_path: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve_scp, "PENDING_INTERVAL_S", 0.0)
    slowly_listed(monkeypatch, lambda: None)

    def script(serving: Serving) -> None:
        fill(serving, [1000] * COUNT)
        with serving.call() as asker:
            get(asker)
            known = []
            message = asker.expect_message()
            while peer.number(message.command, peer.COMMAND_FIELD) != peer.C_STORE_RQ:
                assert message.status() == 0xFF00
                known.append(peer.number(message.command, peer.REMAINING))
                message = asker.expect_message()
            assert known == [4, 8]
            asker.cut()

    serve(tmp_path / "data", script)
