"""Receiver and Frame: messages framed by a slow, obvious writer come back whole, however the bytes are cut."""

from __future__ import annotations

import errno
import gc
import random
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from engine.dimse import assembly
from engine.storage.record import crc32c

SEEDS = range(40)


def pdv(context: int, control: int, fragment: bytes) -> bytes:
    return struct.pack(">IBB", len(fragment) + 2, context, control) + fragment


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BBI", 4, 0, len(body)) + body


def command(data_set: bool, padding: int = 0) -> bytes:
    elements = struct.pack("<HHIH", 0, 0x0100, 2, 1)
    elements += struct.pack("<HHI", 0, 0x0600, padding) + b"A" * padding
    elements += struct.pack("<HHIH", 0, 0x0800, 2, 1 if data_set else 0x0101)
    return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements


def feed(receiver: assembly.Receiver, data: bytes, cuts: Iterator[int]) -> None:
    at = 0
    while at < len(data):
        window = memoryview(receiver.get_buffer(-1))
        count = min(len(window), len(data) - at, max(1, next(cuts)))
        window[:count] = data[at : at + count]
        del window
        receiver.buffer_updated(count)
        at += count


def fixed(size: int) -> Iterator[int]:
    while True:
        yield size


def collect(
    chunk_bytes: int = 4096, part_bytes: int = 1 << 40, **limits: int
) -> tuple[assembly.Receiver, list[tuple[object, ...]], assembly.ChunkPool]:
    pool = assembly.ChunkPool(chunk_bytes, 4)
    events: list[tuple[object, ...]] = []
    receiver = assembly.Receiver(pool, events.extend, part_bytes=part_bytes, **limits)
    receiver.data_allowed = True
    return receiver, events, pool


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_come_back_whole_however_they_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    stream, expected = b"", []
    for _ in range(rng.randrange(1, 6)):
        context = rng.choice([1, 3, 255])
        payload = rng.randbytes(rng.choice([0, 1, 10, 4095, 4096, 4097, 20000]))
        data_set = rng.random() < 0.8
        sent = command(data_set, rng.choice([0, 2, 600]))
        pieces = [(1, sent)] + ([(0, payload)] if data_set else [])
        pdvs = []
        for control, content in pieces:
            fragments, at = [], 0
            while at < len(content):
                size = rng.choice([1, 7, 200, 5000, 100000])
                fragments.append(content[at : at + size])
                at += size
            fragments = fragments or [b""]
            if rng.random() < 0.2:
                fragments.insert(0, b"")
            pdvs += [pdv(context, control | (2 if i == len(fragments) - 1 else 0), f) for i, f in enumerate(fragments)]
        while pdvs:
            together = rng.choice([1, 1, 2, 5])
            stream += p_data(*pdvs[:together])
            pdvs = pdvs[together:]
        expected.append((context, sent, payload if data_set else None))
        if rng.random() < 0.3:
            stream += struct.pack(">BBI", 5, 0, 4) + b"\0\0\0\0"
            expected.append(5)
    for cuts in (fixed(1 << 30), fixed(1), iter(lambda: rng.randrange(1, 9000), None)):
        receiver, events, pool = collect()
        feed(receiver, stream, cuts)
        got, waiting = [], {}
        for event in events:
            if event[0] == assembly.PDU:
                got.append(event[1])
            elif event[0] == assembly.COMMAND:
                _, context, content, has_data = event
                if has_data:
                    waiting[context] = content
                else:
                    got.append((context, content, None))
            else:
                assert event[0] == assembly.DATA_SET, (seed, event)
                data_set = event[2]
                content = data_set.to_bytes()
                assert data_set.crc == crc32c(content), f"seed {seed}"
                got.append((event[1], waiting.pop(event[1]), content))
                data_set.release()
        assert got == expected, f"seed {seed}"
        assert not receiver.mid_message
        assert pool.outstanding == 0


def test_messages_of_two_contexts_may_interleave() -> None:
    receiver, events, _ = collect()
    stream = p_data(pdv(1, 3, command(True)), pdv(3, 3, command(True)))
    stream += p_data(pdv(1, 0, b"one-")) + p_data(pdv(3, 0, b"three-")) + p_data(pdv(1, 2, b"1"), pdv(3, 2, b"3"))
    feed(receiver, stream, fixed(1 << 20))
    assert [e[2].to_bytes() for e in events if e[0] == assembly.DATA_SET] == [b"one-1", b"three-3"]


def test_a_large_data_set_comes_in_parts_with_a_running_checksum() -> None:
    receiver, events, pool = collect(chunk_bytes=4096, part_bytes=8192)
    payload = random.Random(7).randbytes(50_001)
    stream = p_data(pdv(1, 3, command(True)))
    for at in range(0, len(payload), 3000):
        stream += p_data(pdv(1, 2 if at + 3000 >= len(payload) else 0, payload[at : at + 3000]))
    feed(receiver, stream, fixed(1 << 20))
    parts = [e[2] for e in events if e[0] in (assembly.DATA_SET_PART, assembly.DATA_SET)]
    assert len(parts) == 7
    assert b"".join(p.to_bytes() for p in parts) == payload
    assert parts[-1].crc == crc32c(payload)
    assert [p.offset for p in parts] == [8192 * i for i in range(7)]
    for part in parts:
        part.release()
        part.release()
    assert pool.outstanding == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 1),
        (struct.pack(">BBI", 4, 0, 0xFFFFFFFF), 6),
        (struct.pack(">BBI", 1, 0, 0xFFFFFFFF), 6),
        (p_data(b"\0\0\0"), 6),
        (p_data(pdv(2, 3, b"")), 6),
        (struct.pack(">BBIIBB", 4, 0, 6, 0xFFFFFFFF, 1, 3), 6),
        (struct.pack(">BBIIBB", 4, 0, 6, 1, 1, 3), 6),
        (p_data(pdv(1, 2, b"data")), 5),
        (p_data(pdv(1, 3, command(True)), pdv(1, 1, b"x")), 5),
        (p_data(pdv(1, 3, command(False)), pdv(1, 2, b"x")), 5),
        (p_data(pdv(1, 1, b"x" * 70_000)), 6),
    ],
)
def test_an_invalid_fragment_is_one_error_and_then_nothing(data: bytes, reason: int) -> None:
    for size in (1, 1 << 20):
        receiver, events, pool = collect()
        feed(receiver, data + b"\x05\0\0\0\0\4\0\0\0\0", fixed(size))
        assert [e[1] for e in events if e[0] == assembly.ERROR] == [reason]
        assert events[-1][0] == assembly.ERROR
        assert pool.outstanding <= 1


def test_p_data_before_it_is_allowed_is_reported_and_not_read() -> None:
    receiver, events, pool = collect()
    receiver.data_allowed = False
    feed(receiver, p_data(pdv(1, 3, command(False))), fixed(1 << 20))
    assert events == [(assembly.P_DATA_EARLY,)]
    assert pool.outstanding == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_random_bytes_never_break_the_receiver(seed: int) -> None:
    rng = random.Random(seed)
    receiver, events, _ = collect()
    good = p_data(pdv(1, 3, command(True))) + p_data(pdv(1, 0, rng.randbytes(500)), pdv(1, 2, b"end"))
    damaged = bytearray(good * 3)
    for _ in range(rng.randrange(1, 8)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    feed(receiver, bytes(damaged), iter(lambda: rng.randrange(1, 300), None))
    assert sum(1 for e in events if e[0] in (assembly.ERROR, assembly.P_DATA_EARLY)) <= 1


def test_an_undelivered_part_is_released_when_the_association_ends() -> None:
    receiver, events, pool = collect(chunk_bytes=4096, part_bytes=4096)
    feed(receiver, p_data(pdv(1, 3, command(True))) + p_data(pdv(1, 0, bytes(5000)))[: 12 + 4096], fixed(1 << 20))
    receiver.get_buffer(-1)
    assert pool.outstanding == 2
    receiver.stop()
    assert pool.outstanding == 0
    assert [event[0] for event in events] == [assembly.COMMAND]


def test_chunks_freed_by_the_garbage_collector_are_counted() -> None:
    receiver, events, pool = collect()
    whole = p_data(pdv(1, 3, command(True))) + p_data(pdv(1, 2, bytes(5000)))
    feed(receiver, whole + p_data(pdv(3, 3, command(True)), pdv(3, 0, bytes(9000))), fixed(1 << 20))
    assert pool.outstanding == 5
    events.append((events, receiver))  # a cycle, as of a connection and its receiver, or of an exception's traceback
    del receiver, events
    gc.collect()
    assert pool.outstanding == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_frame_is_read_back_by_the_receiver(seed: int) -> None:
    rng = random.Random(seed)
    payload = rng.randbytes(rng.choice([0, 1, 5, 4096, 70_000]))
    fragment = assembly.fragment_bytes(rng.choice([0, 16384, 1000, 8, 7]), 131072)
    prefix = assembly.p_data_tf(5, True, command(True), fragment)
    frame = assembly.Frame(assembly.Frame.room_for(len(prefix), len(payload), fragment))
    at = 0
    for gap in frame.layout(prefix, len(payload), fragment, 5, True):
        gap[:] = payload[at : at + len(gap)]
        at += len(gap)
    assert at == len(payload)
    assert frame.crc() == crc32c(payload)
    receiver, events, _ = collect()
    feed(receiver, bytes(memoryview(frame)), fixed(1 << 20))
    assert [e[0] for e in events] == [assembly.COMMAND, assembly.DATA_SET], f"seed {seed}"
    padding = bytes(len(payload) % 2) if fragment > 1 else b""
    assert events[1][2].to_bytes() == payload + padding


def test_only_the_last_fragment_of_an_odd_data_set_is_padded_and_its_checksum_is_that_of_the_data_set() -> None:
    frame = assembly.Frame(assembly.Frame.room_for(0, 5, 4))
    for is_last, end in ((False, b"\x05"), (True, b"\x05\x00")):
        gaps = frame.layout(b"", 5, 4, 1, is_last)
        assert [len(gap) for gap in gaps] == [4, 1]
        gaps[0][:], gaps[1][:] = b"\x01\x02\x03\x04", b"\x05"
        assert bytes(memoryview(frame))[16:] == p_data(pdv(1, 2 if is_last else 0, end))
        assert frame.crc() == crc32c(b"\x01\x02\x03\x04\x05")


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def test_reads_that_leave_a_message_incomplete_ask_for_an_acknowledgement(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    receiver, _, _ = collect()
    receiver.quick_ack_fd = tcp[0].fileno()

    def after(data: bytes) -> int:
        feed(receiver, data, fixed(1 << 30))
        return receiver.quick_acks

    echo = p_data(pdv(1, 3, command(False)))
    assert after(echo) == 0, "a whole message is answered, and that acknowledges it"
    assert after(echo[:3]) == 1
    assert after(echo[3:]) == 1
    assert after(p_data(pdv(1, 3, command(True)))) == 2, "its data set is due"
    assert after(p_data(pdv(1, 0, bytes(100)))) == 3, "the last fragment is due"
    assert after(p_data(pdv(1, 2, bytes(100)))) == 3
    assert after(echo + echo[:8]) == 4
    assert after(echo[8:]) == 4
    tcp[0].close()
    assert after(echo[:3]) == 5, "a socket that is gone costs nothing but the call"
    receiver.stop()
    assert receiver.quick_ack_fd == -1


def test_long_reads_are_left_to_the_kernel(tcp: tuple[socket.socket, socket.socket]) -> None:
    """Two segments have come by then, which it acknowledges by itself: a fast sender costs no call a read."""
    receiver, _, pool = collect(chunk_bytes=1 << 20)
    receiver.quick_ack_fd = tcp[0].fileno()
    feed(receiver, p_data(pdv(1, 3, command(True))), fixed(1 << 30))
    before = receiver.quick_acks
    feed(receiver, p_data(pdv(1, 0, bytes(1 << 20)))[:-1], fixed(1 << 17))
    assert receiver.bytes_received > 1 << 20
    assert receiver.quick_acks - before <= 1
    receiver.stop()
    assert pool.outstanding == 0


def test_a_receiver_without_a_tcp_socket_requests_no_acknowledgement() -> None:
    receiver, _, _ = collect()
    feed(receiver, p_data(pdv(1, 3, command(False))), fixed(1))
    assert receiver.quick_acks == 0


def test_an_eager_receiver_reads_what_has_come_meanwhile_but_not_for_ever() -> None:
    near, far = socket.socketpair()
    answer = p_data(pdv(1, 3, command(False)))
    taken = 0

    def take(events: list[tuple[object, ...]]) -> None:
        nonlocal taken
        taken += len(events)
        far.sendall(answer)  # each answer causes another one, as in a retrieval

    receiver = assembly.Receiver(assembly.ChunkPool(4096, 4), take)
    receiver.data_allowed = True
    feed(receiver, answer, fixed(1 << 30))
    assert taken == 1, "it is not eager yet"
    receiver.eager_fd = near.fileno()
    feed(receiver, answer, fixed(1 << 30))
    assert 2 < taken < 50
    assert near.recv(1000, socket.MSG_DONTWAIT) == answer, "the event loop has its turn"
    receiver.stop()
    assert receiver.eager_fd == -1
    near.close()
    far.close()


def test_an_eager_receiver_leaves_the_end_of_the_connection_to_the_event_loop(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    receiver, events, _ = collect()
    receiver.eager_fd = tcp[0].fileno()
    tcp[1].sendall(p_data(pdv(1, 3, command(False))))
    tcp[1].shutdown(socket.SHUT_WR)
    feed(receiver, p_data(pdv(1, 3, command(False))), fixed(1 << 30))
    assert len(events) == 2
    assert receiver.read_errno == 0
    assert tcp[0].recv(1) == b""


def test_an_eager_read_that_fails_is_remembered_since_the_kernel_tells_once(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    receiver, _, _ = collect()
    receiver.eager_fd = tcp[0].fileno()
    tcp[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tcp[1].close()
    select.select([tcp[0]], [], [], 5)
    feed(receiver, p_data(pdv(1, 3, command(False))), fixed(1 << 30))
    assert receiver.read_errno == errno.ECONNRESET


def test_fragments_honour_the_peers_maximum_length() -> None:
    assert assembly.fragment_bytes(16384, 131072) == 16378
    assert assembly.fragment_bytes(0, 131072) == 131066
    assert assembly.fragment_bytes(1 << 31, 131072) == 131066
    assert assembly.fragment_bytes(8, 131072) == 2
