"""C-STORE on scripted associations: every way in which one can end leaves no memory, no pause and no count behind."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from engine.config import Config, Limits, Quarantine
from engine.config import Peer as KnownPeer
from tests import peer, samples
from tests.faulty_files import FaultyFiles
from tests.peer import CT, EXPLICIT, Peer
from tests.services.serving import CHUNK_BYTES, LIMITS, Serving, serve
from tests.system.server import wait_for

STORE = (1, CT, [EXPLICIT])
STORE_TOO = (3, CT, [EXPLICIT])
LARGE = LIMITS.stream_threshold_bytes * 3 + 1000


def ct(number: int, size: int = 512, **more: object) -> tuple[str, bytes]:
    ds = samples.instance(number=number, pixels=bytes([number]) * size, **more)  # type: ignore[arg-type]
    return str(ds.SOPInstanceUID), samples.encoded(ds)


def request(number: int, size: int = 512, context: int = 1, **more: object) -> bytes:
    uid, data_set = ct(number, size, **more)
    return peer.message(context, peer.c_store_rq(number, CT, uid), data_set)


def store(scripted: Peer, number: int, size: int = 512, **more: object) -> int:
    scripted.send(request(number, size, **more))
    answer = scripted.expect_message()
    assert answer.responded_to() == number
    return answer.status()


def assert_serves(serving: Serving, number: int) -> None:
    with serving.call() as other:
        other.associate(STORE)
        assert store(other, number) == 0
        other.release()


@pytest.mark.parametrize("size", [512, CHUNK_BYTES * 2, LARGE])
def test_an_association_may_be_lost_at_any_point_of_a_c_store(tmp_path: Path, size: int) -> None:
    whole = request(1, size)
    command_end = len(whole) - len(b"".join(peer.fragments(1, ct(1, size)[1], command=False)))
    points = [1, command_end, command_end + 5, command_end + 12, command_end + 1000, len(whole) - 1, len(whole)]

    def script(serving: Serving) -> None:
        abort = peer.pdu(peer.ABORT, bytes(4))
        for end in points:
            for ending in (Peer.cut, Peer.close, lambda scripted: scripted.send_until_closed(abort)):
                with serving.call() as scripted:
                    scripted.associate(STORE)
                    scripted.send(whole[: min(end, len(whole))])
                    ending(scripted)
        assert_serves(serving, 100)

    serving = serve(tmp_path / "data", script)
    assert serving.failures == []


def test_a_refused_instance_does_not_stop_the_association_while_others_hold_memory(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path / "data",
        limits=Limits(disk_reserve_bytes=0, ingest_bytes_max=8 << 20),
        quarantine=Quarantine(unparseable=False),
    )
    half = request(1, 7 << 20)[: 5 << 20]

    def script(serving: Serving) -> None:
        with serving.call() as holder, serving.call() as other, serving.call() as scripted:
            for each in (holder, other):
                each.associate(STORE)
                each.send(half)
            wait_for(lambda: serving.services.pool.outstanding * CHUNK_BYTES > 8 << 20)
            scripted.associate(STORE)
            # Its UIDs differ from the command's: refused before `store` returns.
            _, data_set = ct(2)
            scripted.send(peer.message(1, peer.c_store_rq(2, CT, "1.2.3"), data_set))
            assert scripted.expect_message().status() != 0
            assert store(scripted, 3) == 0
            assert store(scripted, 4) == 0
            scripted.release()
            holder.cut()
            other.cut()

    serve(tmp_path / "data", script, config=config)


def test_the_window_counts_unanswered_operations_but_not_incomplete_ones(tmp_path: Path) -> None:
    config = Config(data=tmp_path / "data", limits=LIMITS, peers=(KnownPeer(aet="SCRIPT", asynchronous_window=1),))

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE, STORE_TOO)
            # The refusals go out at once; if 9 counted as outstanding, nothing would let reading go on after the first.
            uid, data_set = ct(9)
            pdus = peer.message_pdus(3, peer.c_store_rq(9, CT, uid), data_set, fragment=100)
            scripted.send(b"".join(pdus[:-1]))
            _, wrong = ct(1)
            for number in (1, 2, 3):
                scripted.send(peer.message(1, peer.c_store_rq(number, CT, "1.2.3"), wrong))
                assert scripted.expect_message().responded_to() == number
            scripted.send(pdus[-1])
            assert scripted.expect_message().status() == 0
            scripted.release()

    serve(tmp_path / "data", script, config=config)


def test_a_release_waits_for_pending_responses(tmp_path: Path) -> None:
    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            scripted.send(b"".join(request(number) for number in (1, 2, 3)) + peer.pdu(peer.RELEASE_RQ, bytes(4)))
            assert [scripted.expect_message().status() for _ in range(3)] == [0, 0, 0]
            scripted.expect(peer.RELEASE_RP)

    serving = serve(tmp_path / "data", script)
    assert [acceptor.session.operations_count for acceptor in serving.acceptors] == [0]


def test_attributes_behind_the_first_chunk_are_found(tmp_path: Path) -> None:
    private = bytes(CHUNK_BYTES * 2)

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            ds = samples.instance(number=5)
            ds.add_new(0x00091002, "OB", private)
            uid = str(ds.SOPInstanceUID)
            scripted.send(peer.message(1, peer.c_store_rq(5, CT, uid), samples.encoded(ds)))
            assert scripted.expect_message().status() == 0
            ds = samples.instance(number=6, pixels=bytes(LARGE))
            ds.add_new(0x00091002, "OB", private)
            uid = str(ds.SOPInstanceUID)
            scripted.send(peer.message(1, peer.c_store_rq(6, CT, uid), samples.encoded(ds)))
            assert scripted.expect_message().status() == 0
            scripted.release()

    serve(tmp_path / "data", script)


def test_a_disk_that_fails_ends_the_writer_in_write_behind_too(tmp_path: Path) -> None:
    files = FaultyFiles()
    config = Config(data=tmp_path / "data", limits=LIMITS, durability="write-behind")

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            assert store(scripted, 1) == 0
            files.fail("pwritev", errno.EIO)
            assert store(scripted, 2) != 0
            scripted.release()

    serving = serve(tmp_path / "data", script, files=files, config=config)
    assert len(serving.failures) == 1


def test_a_disk_that_fails_under_a_large_object_ends_the_writer(tmp_path: Path) -> None:
    files = FaultyFiles()
    config = Config(data=tmp_path / "data", limits=LIMITS, durability="write-behind")

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            assert store(scripted, 1) == 0
            files.fail("pwritev", errno.EIO)
            assert store(scripted, 2, LARGE) != 0
            scripted.release()

    serving = serve(tmp_path / "data", script, files=files, config=config)
    assert len(serving.failures) == 1


def test_a_full_disk_refuses_what_does_not_fit_and_continues_when_there_is_space(tmp_path: Path) -> None:
    files = FaultyFiles()

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            assert store(scripted, 1) == 0
            files.fail("pwritev", errno.ENOSPC, partial_bytes=100)
            assert store(scripted, 2) == 0xA700
            files.fail("pwritev", errno.ENOSPC, partial_bytes=100)
            assert store(scripted, 3, LARGE) == 0xA700
            for number in (2, 4):
                assert store(scripted, number) == 0
            assert store(scripted, 3, LARGE) == 0
            scripted.release()

    serving = serve(tmp_path / "data", script, files=files)
    assert serving.failures == []


def test_a_failed_sync_of_what_was_sent_again_ends_the_writer(tmp_path: Path) -> None:
    files = FaultyFiles()

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            assert store(scripted, 1) == 0
            files.fail("fdatasync", errno.EIO)
            assert store(scripted, 1) != 0
            scripted.release()

    serving = serve(tmp_path / "data", script, files=files)
    assert len(serving.failures) == 1


def test_an_unexpected_error_while_a_large_object_is_written_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.storage.stream_appender import StreamAppender

    def broken(self: object, buffers: object, length: int) -> None:
        raise RuntimeError("a mistake of ours")

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            monkeypatch.setattr(StreamAppender, "write", broken)
            assert store(scripted, 1, LARGE) != 0
            monkeypatch.undo()
            assert store(scripted, 1, LARGE) == 0
            scripted.release()

    serve(tmp_path / "data", script)


def test_a_peer_that_may_not_store_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    config = Config(data=tmp_path / "data", limits=LIMITS, peers=(KnownPeer(aet="SCRIPT", may=("retrieve",)),))

    def script(serving: Serving) -> None:
        with serving.call() as scripted:
            scripted.associate(STORE)
            assert store(scripted, 1) == 0x0124
            assert store(scripted, 2, LARGE) == 0x0124
            scripted.release()

    serving = serve(tmp_path / "data", script, config=config)
    assert serving.services.engine.metrics.counters["instances_refused"] == 2
