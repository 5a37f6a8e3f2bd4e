"""StoreBatch: what it sends is what the general way would send, and every reason to stop stops it."""

from __future__ import annotations

import functools
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.dimse import assembly
from engine.dimse.assembly import Frame, Outlet, Receiver, StoreBatch, p_data_tf
from engine.dimse.messages import CStoreRQ, CStoreRSP
from engine.storage.record import crc32c

CLASS = "1.2.840.10008.5.1.4.1.1.2"
LENGTH_MAX = 20_000


class Wire:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.unsent_bytes = 0
        self.error: Exception | None = None

    def send(self, data: Frame) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(bytes(data))


class Bench:
    """A batch over a file of records, and what it said."""

    def __init__(self, path: Path, *, window: int = 1, fragment: int = 4096, rq: CStoreRQ | None = None) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.wire = Wire()
        self.news = 0
        self.is_wanted = True
        self.is_cached = True
        frames = [Frame(Frame.room_for(512, LENGTH_MAX, fragment)) for _ in range(window + 1)]
        self.batch = StoreBatch(self.wire, lambda: self.is_wanted, self._told, frames, fragment, window)
        self.fragment = fragment
        self.rq = rq or CStoreRQ(1, CLASS, "1")
        self.head = self.batch.add_head(5, self.rq.encode())
        self.expected: list[bytes] = []

    def _told(self) -> None:
        self.news += 1

    def fill(self, data: bytes, gaps: list[memoryview]) -> bool:
        """What fills the frame of a data set that does not lie in the file as it is sent."""
        assert sum(map(len, gaps)) == len(data)
        at = 0
        for gap in gaps:
            gap[:] = data[at : at + len(gap)]
            at += len(gap)
        return self.is_cached

    def add_filled(self, message_id: int, uid: str, data: bytes) -> bool:
        """Tells the batch of a data set that is not in the file."""
        rq = replace(self.rq, message_id=message_id, affected_sop_instance_uid=uid)
        self.expected.append(p_data_tf(5, True, rq.encode(), self.fragment) + p_data_tf(5, False, data, self.fragment))
        return self.batch.add(
            self.head, message_id, uid, self.fd, 0, len(data), crc32c(data), functools.partial(self.fill, data)
        )

    def add(self, message_id: int, uid: str, data: bytes, crc: int | None = None) -> bool:
        """Puts a data set behind what is in the file, and tells the batch of it."""
        offset = os.fstat(self.fd).st_size
        os.pwrite(self.fd, data, offset)
        rq = replace(self.rq, message_id=message_id, affected_sop_instance_uid=uid)
        self.expected.append(p_data_tf(5, True, rq.encode(), self.fragment) + p_data_tf(5, False, data, self.fragment))
        crc = crc32c(data) if crc is None else crc
        return self.batch.add(self.head, message_id, uid, self.fd, offset, len(data), crc)

    def answer(self, message_id: int, status: int = 0, context_id: int = 5) -> bool:
        return self.batch.take(context_id, CStoreRSP(message_id, CLASS, "1.2", status).encode())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "log")
    yield made
    os.close(made.fd)


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("fragment", [600, 4096, 131_060])
@pytest.mark.parametrize("originator", [CStoreRQ(1, CLASS, "1"), CStoreRQ(1, CLASS, "1", 2, "ASKER", 77)])
def test_it_sends_the_same_bytes_as_the_general_path(
    tmp_path: Path, window: int, fragment: int, originator: CStoreRQ
) -> None:
    rng = random.Random(window * fragment)
    bench = Bench(tmp_path / "log", window=window, fragment=fragment, rq=originator)
    message_ids = rng.sample(range(1, 65536), 300)
    todo = list(message_ids)
    outstanding: list[int] = []
    statuses: list[int] = []
    given: dict[int, int] = {}
    while todo or outstanding:
        while todo and bench.batch.room:
            length = 2 * rng.randrange(1, LENGTH_MAX // 2 + 1)
            uid = "1." + "9" * rng.randrange(1, 63)
            assert bench.add(todo.pop(0), uid, rng.randbytes(length))
        bench.batch.advance()
        assert bench.batch.outstanding == min(window, len(message_ids) - len(given))
        outstanding = [each for each in message_ids[: len(bench.wire.sent)] if each not in given]
        answered = rng.choice(outstanding)
        given[answered] = rng.choice([0, 0xB000, 0xA700])
        assert bench.answer(answered, given[answered])
        outstanding = [each for each in message_ids[: len(bench.wire.sent)] if each not in given]
        statuses += bench.batch.collect()
    assert bench.wire.sent == bench.expected
    assert statuses == [given[each] for each in message_ids]
    assert not bench.batch.stopped
    assert bench.news
    os.close(bench.fd)


def test_a_data_set_that_something_else_fills_in_is_sent_as_any_other_and_may_have_to_wait(bench: Bench) -> None:
    rng = random.Random(2)
    assert bench.add(1, "1.1", rng.randbytes(10_000))
    assert bench.add_filled(2, "1.2", rng.randbytes(10_000))
    assert bench.add(3, "1.3", rng.randbytes(10_000))
    bench.is_cached = False
    bench.batch.advance()
    assert bench.answer(1)
    assert bench.batch.stopped == assembly.NOT_CACHED
    bench.is_cached = True
    bench.batch.resume()
    assert bench.answer(2)
    assert bench.answer(3)
    assert bench.wire.sent == bench.expected


def test_one_is_read_ahead_and_sent_as_soon_as_the_answer_comes(bench: Bench) -> None:
    for number in (1, 2):
        assert bench.add(number, "1.2", bytes(100))
    bench.batch.advance()
    os.ftruncate(bench.fd, 0)
    assert bench.answer(1)
    assert bench.wire.sent == bench.expected
    assert bench.answer(2)
    assert bench.batch.collect() == [0, 0]


def test_an_unknown_response_is_left_to_others(bench: Bench) -> None:
    assert bench.add(1, "1.2", bytes(100))
    assert not bench.answer(1), "not sent yet"
    bench.batch.advance()
    assert not bench.answer(2)
    assert not bench.answer(1, context_id=7)
    rsp = CStoreRSP(1, CLASS, "1.2", 0).encode()
    assert not bench.batch.take(5, rsp[:-1])
    assert not bench.batch.take(5, rsp.replace(b"\x01\x80", b"\x20\x80"))
    assert bench.answer(1)
    assert not bench.answer(1), "answered already"
    assert bench.batch.collect() == [0]


def test_a_damaged_data_set_stops_it_before_a_byte_of_it_is_sent(bench: Bench) -> None:
    assert bench.add(1, "1.2", bytes(100))
    assert bench.add(2, "1.3", bytes(100), crc=7)
    assert bench.add(3, "1.4", bytes(100))
    bench.batch.advance()
    assert bench.answer(1)
    assert bench.batch.stopped == assembly.DAMAGED
    assert bench.news
    assert bench.wire.sent == bench.expected[:1]
    assert bench.batch.rest() == [(True, 0), (False, None), (False, None)]


def test_uncached_data_stops_it(bench: Bench) -> None:
    assert bench.add(1, "1.2", bytes(100))
    os.ftruncate(bench.fd, 99)
    bench.batch.advance()
    assert bench.batch.stopped == assembly.NOT_CACHED
    assert not bench.wire.sent


def test_it_goes_on_when_what_could_not_be_read_can_be(bench: Bench) -> None:
    assert bench.add(1, "1.2", bytes(100))
    assert bench.add(2, "1.2", bytes(100))
    os.ftruncate(bench.fd, 199)
    bench.batch.advance()
    assert bench.answer(1)
    assert bench.batch.stopped == assembly.NOT_CACHED
    assert bench.batch.read_count == 1, "the second one is read next"
    os.ftruncate(bench.fd, 200)
    bench.batch.resume()
    assert not bench.batch.stopped
    assert bench.answer(2)
    assert bench.wire.sent == bench.expected


def test_what_was_halted_does_not_go_on(bench: Bench) -> None:
    assert bench.add(1, "1.2", bytes(100))
    os.ftruncate(bench.fd, 99)
    bench.batch.advance()
    bench.batch.halt()
    os.ftruncate(bench.fd, 100)
    bench.batch.resume()
    assert bench.batch.stopped == assembly.HALTED
    assert not bench.wire.sent


def test_an_early_answer_stops_it_and_its_frame_stays_as_it_is(bench: Bench) -> None:
    frames = [bench.add(number, "1.2", bytes([number]) * 100) for number in (1, 2, 3)]
    assert all(frames)
    bench.batch.advance()
    bench.wire.unsent_bytes = 50
    assert bench.answer(1)
    assert bench.batch.stopped == assembly.ANSWERED_EARLY
    assert len(bench.wire.sent) == 1


def test_cancelled_instances_are_not_sent(bench: Bench) -> None:
    assert bench.add(1, "1.2", bytes(100))
    assert bench.add(2, "1.2", bytes(100))
    bench.batch.advance()
    bench.is_wanted = False
    assert bench.answer(1)
    assert bench.batch.stopped == assembly.UNWANTED
    assert bench.batch.rest() == [(True, 0), (False, None)]


def test_an_internal_error_is_kept_for_the_waiter(bench: Bench) -> None:
    assert bench.add(1, "1.2", bytes(100))
    assert bench.add(2, "1.2", bytes(100))
    bench.batch.advance()
    bench.wire.error = RuntimeError("a mistake of ours")
    assert bench.answer(1)
    assert bench.batch.stopped == assembly.BROKEN
    assert bench.batch.error is bench.wire.error


def test_after_a_halt_responses_are_read_and_nothing_is_sent(bench: Bench) -> None:
    for number in (1, 2):
        assert bench.add(number, "1.2", bytes(100))
    bench.batch.advance()
    bench.batch.let_go()
    assert bench.batch.stopped == assembly.HALTED
    assert bench.batch.answered(1, 0xA700)
    assert (len(bench.wire.sent), bench.batch.outstanding, bench.batch.collect()) == (1, 0, [0xA700])


def test_data_that_does_not_fit_is_refused(bench: Bench) -> None:
    assert not bench.add(1, "1." + "9" * 63, bytes(100))
    assert not bench.batch.add(bench.head, 1, "1.\u0662", bench.fd, 0, 2, 0)
    assert not bench.add(1, "1.2", bytes(LENGTH_MAX * 2))
    assert not bench.add(1, "1.2", b"")
    for number in range(assembly.BATCH_SLOTS):
        assert bench.add(number + 1, "1.2", bytes(2))
    assert not bench.add(1, "1.2", bytes(2))
    with pytest.raises(ValueError, match="no such head"):
        bench.batch.add(1, 1, "1.2", bench.fd, 0, 2, 0)
    with pytest.raises(ValueError, match=r"no C-STORE-RQ"):
        bench.batch.add_head(5, CStoreRSP(1, CLASS, "1.2", 0).encode())
    with pytest.raises(ValueError, match="does not fit"):
        StoreBatch(bench.wire, bool, bool, [Frame(10), Frame(10)], 100, 1).add_head(5, bench.rq.encode())
    with pytest.raises(ValueError, match="2 to 128 frames"):
        StoreBatch(bench.wire, bool, bool, [Frame(10)], 100, 1)


def test_the_receiver_shows_it_commands_and_tells_others_of_what_it_does_not_take() -> None:
    events: list[tuple[object, ...]] = []
    shown: list[bytes] = []

    def take(context_id: int, command: bytes) -> bool:
        shown.append(command)
        return context_id == 5

    receiver = Receiver(assembly.ChunkPool(4096), events.extend)
    receiver.data_allowed = True
    receiver.on_command = take
    rsp, rq = CStoreRSP(1, CLASS, "1.2", 0).encode(), CStoreRQ(1, CLASS, "1.2").encode()
    for data in (
        p_data_tf(5, True, rsp, 4096),
        p_data_tf(7, True, rsp, 4096),
        p_data_tf(5, True, rq, 4096) + p_data_tf(5, False, b"12", 4096),
        p_data_tf(7, True, rsp, 4096) + p_data_tf(5, True, rsp, 4096),
    ):
        memoryview(receiver.get_buffer(-1))[: len(data)] = data
        receiver.buffer_updated(len(data))
    kinds = [event[:2] for event in events]
    assert kinds == [
        (assembly.COMMAND, 7),
        (assembly.COMMAND, 5),
        (assembly.DATA_SET, 5),
        (assembly.COMMAND, 7),
        (assembly.COMMAND, 5),  # what came before it is told first
    ]
    assert shown == [rsp, rsp, rsp]


def _through_outlet(path: Path, lengths: list[int], *, send_buffer_bytes: int = 0) -> tuple[Bench, bytes, list[int]]:
    """A bench whose batch has an outlet: what came out of the socket, and how much of each the wire was given."""
    bench = Bench(path)
    near, far = socket.socketpair()
    if send_buffer_bytes:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    outlet = Outlet(near.fileno())
    outlet.is_free = True
    frames = [Frame(Frame.room_for(512, LENGTH_MAX, 4096)) for _ in range(2)]
    bench.batch = StoreBatch(bench.wire, lambda: True, bench._told, frames, 4096, 1, outlet)
    bench.head = bench.batch.add_head(5, bench.rq.encode())
    arrived, given = b"", []
    for number, length in enumerate(lengths, 1):
        assert bench.add(number, "1.2", bytes([number]) * length)
        bench.batch.advance()
        far.setblocking(False)
        while True:
            try:
                arrived += far.recv(1 << 20)
            except BlockingIOError:
                break
        arrived += b"".join(bench.wire.sent)
        given.append(sum(map(len, bench.wire.sent)))
        bench.wire.sent.clear()
        assert bench.answer(number)
    near.close()
    far.close()
    os.close(bench.fd)
    return bench, arrived, given


def test_what_an_outlet_takes_does_not_go_to_the_connection(tmp_path: Path) -> None:
    bench, arrived, given = _through_outlet(tmp_path / "log", [100, 5000, 20_000, 2])
    assert arrived == b"".join(bench.expected)
    assert given == [0, 0, 0, 0]


def test_the_connection_gets_what_an_outlet_does_not_take_at_once(tmp_path: Path) -> None:
    bench, arrived, given = _through_outlet(tmp_path / "log", [100, 20_000], send_buffer_bytes=1)
    assert arrived == b"".join(bench.expected)
    assert given[0] == 0
    assert 0 < given[1] < len(bench.expected[1])


def test_an_outlet_that_is_not_free_takes_nothing_and_outlives_the_socket_it_was_made_of() -> None:
    near, far = socket.socketpair()
    outlet = Outlet(near.fileno())
    assert not outlet.is_free
    near.close()
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)  # the descriptor of its own keeps the socket open
    outlet.close()
    assert far.recv(1) == b""
    far.close()
