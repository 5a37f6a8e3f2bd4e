"""Sending instances to peers that answer early, read slowly or take tiny PDUs: what arrives is what is stored."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.archive.retrieve import Retrieval
from engine.config import Config, Limits
from engine.config import Peer as KnownPeer
from engine.dimse.assembly import Frame, StoreBatch
from engine.index.format.types import Instance
from engine.net.connection import Connection
from engine.services import steady
from engine.services.frames import Frames
from engine.services.storage_scu import GAPS_MAX, InstanceSender
from tests import peer, samples
from tests.peer import CT, EXPLICIT, IMPLICIT, STUDY_ROOT_GET, STUDY_ROOT_MOVE, Listener, Message, Peer
from tests.services.serving import LIMITS, Serving, serve
from tests.system.server import wait_for

STORE = (1, CT, [EXPLICIT])
GET = (3, STUDY_ROOT_GET, [IMPLICIT])
MOVE = (5, STUDY_ROOT_MOVE, [IMPLICIT])
STUDY = {0x00080052: "STUDY", 0x0020000D: f"{samples.ROOT}.1"}


def fill(serving: Serving, sizes: list[int]) -> dict[str, bytes]:
    """Stores instances with so many bytes of pixels, no two alike; UID → data set."""
    stored: dict[str, bytes] = {}
    with serving.call() as scripted:
        scripted.associate(STORE)
        for number, size in enumerate(sizes, 1):
            ds = samples.instance(number=number, pixels=bytes([number]) * size)
            uid = str(ds.SOPInstanceUID)
            stored[uid] = samples.encoded(ds)
            scripted.send(peer.message(1, peer.c_store_rq(number, CT, uid), stored[uid]))
            assert scripted.expect_message().status() == 0
        scripted.release()
    return stored


def small_window(port: int) -> Peer:
    """A peer whose kernel takes little that the peer has not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    sock.connect(("127.0.0.1", port))
    return Peer(0, sock=sock)


def get(scripted: Peer, **options: object) -> None:
    scripted.associate(STORE, GET, user_items=peer.role(CT, scu=False, scp=True), **options)
    scripted.send(peer.message(3, peer.query_rq(peer.C_GET_RQ, 7, STUDY_ROOT_GET), peer.identifier(STUDY)))


def answers(scripted: Peer) -> tuple[dict[str, bytes], Message]:
    """Takes sub-operations until the final response; UID → what came."""
    came: dict[str, bytes] = {}
    while True:
        message = scripted.expect_message()
        if peer.number(message.command, peer.COMMAND_FIELD) == peer.C_STORE_RQ:
            came[peer.text(message.command, peer.SOP_INSTANCE)] = message.data_set or b""
            scripted.send(peer.message(message.context_id, peer.c_store_rsp(message.command)))
        elif message.status() != 0xFF00:
            return came, message


def test_a_peer_that_answers_before_it_has_read_all_gets_the_rest_unchanged(tmp_path: Path) -> None:
    config = Config(data=tmp_path / "data", limits=Limits(disk_reserve_bytes=0))

    def script(serving: Serving) -> None:
        stored = fill(serving, [7 << 20] * 5)
        with small_window(serving.port) as scripted:
            get(scripted)
            first = scripted.expect_command()
            scripted.send(peer.message(1, peer.c_store_rsp(first, 0xA700)))
            # Time for the server to go on with the next two, if it will.
            threading.Event().wait(0.5)
            uid = peer.text(first, peer.SOP_INSTANCE)
            assert scripted.expect_data_set() == stored.pop(uid)
            came, final = answers(scripted)
            assert came == stored
            assert [peer.number(final.command, what) for what in (peer.COMPLETED, peer.FAILED)] == [4, 1]
            scripted.release()

    serve(tmp_path / "data", script, config=config)


TIMEOUT_S = 0.8
PATIENT = Limits(disk_reserve_bytes=0, dimse_timeout_s=TIMEOUT_S)


@pytest.mark.parametrize(
    "size",
    [1 << 20, 7 << 20, 16 << 20],
    ids=["all of it in the kernel at once", "one frame", "piece by piece"],
)
def test_a_slow_peer_gets_an_object_that_takes_longer_than_the_timeout(tmp_path: Path, size: int) -> None:
    """The limit is for silence. What the kernel has taken is no measure of it: it takes a megabyte at once."""

    def script(serving: Serving) -> None:
        stored = fill(serving, [size])

        def is_whole() -> bool:
            with small_window(serving.port) as scripted:
                try:
                    get(scripted)
                    for _ in range(8):
                        scripted.read_ahead(size // 10)
                        threading.Event().wait(TIMEOUT_S / 4)
                    came, final = answers(scripted)
                    scripted.release()
                except (peer.Closed, AssertionError, ConnectionError):
                    return False
            assert final.status() == 0
            assert came == stored
            return True

        # A busy machine may be silent for longer.
        wait_for(is_whole, what="a slow peer that is never silent for the timeout")

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=PATIENT))


@pytest.mark.parametrize("size", [1 << 20, 16 << 20], ids=["one frame", "piece by piece"])
def test_a_peer_that_stops_reading_is_aborted_despite_earlier_progress(tmp_path: Path, size: int) -> None:
    def script(serving: Serving) -> None:
        fill(serving, [size])
        with small_window(serving.port) as scripted:
            get(scripted)
            scripted.read_ahead(size // 10)
            assert not serving.acceptors[-1].connection.unsent_bytes or size > 8 << 20
            wait_for(lambda: not serving.acceptors[-1].connection.is_open, what="the association ended by us")
            with pytest.raises((peer.Closed, AssertionError, ConnectionError)):
                answers(scripted)

    serve(tmp_path / "data", script, config=Config(data=tmp_path / "data", limits=PATIENT))


@pytest.mark.parametrize("maximum_length", [1, 8, 100])
def test_a_peer_with_tiny_pdus_costs_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maximum_length: int
) -> None:
    frames: list[int] = []
    make = Frames.take

    def watched(self: Frames, prefix: int, payload: int, share: float) -> object:
        frame = make(self, prefix, payload, share)
        assert frame is not None
        frames.append(frame.capacity)
        return frame

    monkeypatch.setattr(Frames, "take", watched)

    def script(serving: Serving) -> None:
        stored = fill(serving, [20_000 if maximum_length < 100 else 1_000_000])
        with serving.call() as scripted:
            get(scripted, maximum_length=maximum_length)
            came, final = answers(scripted)
            assert final.status() == 0
            assert came == stored
            scripted.release()

    serve(tmp_path / "data", script)
    fragment = max(maximum_length - 6, 1)
    assert max(frames) < 2 * GAPS_MAX * (fragment + 12) + 2000


@pytest.mark.parametrize("sender", ["in a batch", "one by one"])
def test_after_an_internal_error_the_destination_is_not_left_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    async def broken(self: object, ready: object) -> None:
        raise RuntimeError("a mistake of ours")

    def broken_send(self: Connection, data: object) -> None:
        if isinstance(data, Frame):
            raise RuntimeError("a mistake of ours")
        send(self, data)

    send = Connection.send

    with Listener() as listener:
        config = Config(
            data=tmp_path / "data", limits=LIMITS, peers=(KnownPeer(aet="SINK", host="127.0.0.1", port=listener.port),)
        )

        def script(serving: Serving) -> None:
            fill(serving, [100, 100])
            if sender == "in a batch":
                monkeypatch.setattr(Connection, "open_outlet", lambda self: None)
                monkeypatch.setattr(Connection, "send", broken_send)
            else:
                monkeypatch.setattr(steady, "DATA_SET_BYTES_MAX", 0)
                monkeypatch.setattr(InstanceSender, "_transmit", broken)
            with serving.call() as scripted:
                scripted.associate(MOVE)
                rq = peer.query_rq(peer.C_MOVE_RQ, 7, STUDY_ROOT_MOVE, "SINK")
                scripted.send(peer.message(5, rq, peer.identifier(STUDY)))
                with listener.accept() as destination:
                    destination.accept()
                    destination.expect_abort()
                _, final = answers(scripted)
                assert final.status() == 0xA702
                assert [peer.number(final.command, what) for what in (peer.COMPLETED, peer.FAILED)] == [0, 2]
                scripted.release()

        serve(tmp_path / "data", script, config=config, crashes=True)


@pytest.mark.parametrize("helps", [True, False], ids=["and then is", "nor afterwards"])
def test_what_is_not_in_the_page_cache_is_read_there_and_the_batch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helps: bool
) -> None:
    """The batch reads from a copy in which a payload is only when it has been warmed."""
    copy = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    warmed: list[str] = []
    alone: list[str] = []
    warm, transmit = Retrieval.warm, InstanceSender._transmit

    class ColdBatch(StoreBatch):
        def add(self, head: int, message_id: int, uid: str, fd: int, *place: Any) -> bool:
            return super().add(head, message_id, uid, copy, *place)

    def watched_warm(self: Retrieval, instances: Sequence[Instance]) -> None:
        warm(self, instances)
        warmed.append(instances[0].sop_instance_uid)
        if helps:
            os.pwrite(copy, self.open(instances[0]).whole(), instances[0].position.payload_offset)

    async def watched_transmit(self: InstanceSender, ready: Any) -> None:
        alone.append(ready.instance.sop_instance_uid)
        await transmit(self, ready)

    def script(serving: Serving) -> None:
        stored = fill(serving, [20_000] * 5)
        monkeypatch.setattr(steady, "StoreBatch", ColdBatch)
        monkeypatch.setattr(Retrieval, "warm", watched_warm)
        monkeypatch.setattr(InstanceSender, "_transmit", watched_transmit)
        with serving.call() as scripted:
            get(scripted)
            came, final = answers(scripted)
            assert final.status() == 0
            assert came == stored
            scripted.release()
        assert (warmed, alone) == ((list(stored), []) if helps else (warmed, list(stored)))
        assert len(warmed) == len(set(warmed)), "a second attempt would be for nothing"

    serve(tmp_path / "data", script)
    os.close(copy)


def test_thousands_of_failed_instances_are_named_in_the_final_response(tmp_path: Path) -> None:
    count = 1700
    config = Config(data=tmp_path / "data", limits=LIMITS, durability="write-behind")

    def script(serving: Serving) -> None:
        template = samples.encoded(samples.instance(number=1, pixels=b"\0\1"))
        uid = f"{samples.ROOT}.1.1.1"
        uids = [f"{uid[:-8]}{number}" for number in range(10_000_000, 10_000_000 + count)]
        with serving.call() as scripted:
            scripted.associate(STORE)
            for number, each in enumerate(uids):
                data_set = template.replace(uid.encode(), each.encode(), 1)
                scripted.send(peer.message(1, peer.c_store_rq(number, CT, each), data_set))
                assert scripted.expect_message().status() == 0
            scripted.release()
        with serving.call() as scripted:
            # No storage context at all: every sub-operation fails.
            scripted.associate((3, STUDY_ROOT_GET, [EXPLICIT]))
            rq = peer.query_rq(peer.C_GET_RQ, 7, STUDY_ROOT_GET)
            scripted.send(peer.message(3, rq, peer.identifier(STUDY, explicit=True)))
            _, final = answers(scripted)
            assert final.status() == 0xA702
            assert peer.number(final.command, peer.FAILED) == count
            assert all(each.encode() in (final.data_set or b"") for each in uids)
            scripted.release()

    serve(tmp_path / "data", script, config=config)
