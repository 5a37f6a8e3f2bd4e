"""Messages of any length arrive whole and in order, whatever room the kernel has; full is not closed."""

from __future__ import annotations

import gc
import os
import socket

import pytest

from engine.server.channel import INLINE_BYTES_MAX, Channel, ChannelClosed


def pair(buffer_bytes: int = 4096) -> tuple[Channel, Channel]:
    """Both ends, with the smallest buffers."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    return Channel(ends[0]), Channel(ends[1])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("length", [0, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 300_000, 5_000_000])
def test_a_message_of_any_length_arrives(length: int) -> None:
    one, other = pair()
    before = descriptors()
    one.send("config", config="x" * length, version=3)
    received = other.receive()
    assert received == ({"kind": "config", "config": "x" * length, "version": 3}, None)
    assert descriptors() == before


def test_messages_that_do_not_fit_wait_and_arrive_in_order() -> None:
    one, other = pair()
    told: list[int] = []
    one.on_backlog = lambda: told.append(one.backlog)
    for number in range(500):
        one.send("closed", number=number)
    assert one.backlog > 0 and len(told) == 1
    found = []
    while len(found) < 500:
        one.flush()
        while (received := other.receive()) is not None:
            found.append(received[0]["number"])
    assert found == list(range(500)) and one.backlog == 0


def test_a_connection_is_not_queued_and_its_descriptor_is_not_kept() -> None:
    one, other = pair()
    with open(os.devnull) as file:
        gc.collect()  # what other tests left open is closed by it, and must not be closed between the two counts
        before = descriptors()
        taken = 0
        while one.offer("accept", fd=file.fileno(), serial=taken):
            taken += 1
        assert taken > 0 and one.backlog == 0
        for serial in range(taken):
            received = other.receive()
            assert received is not None and received[0]["serial"] == serial and received[1] is not None
            os.close(received[1])
        assert descriptors() == before
        assert one.offer("accept", fd=file.fileno(), serial=0)


def test_no_message_overtakes_a_waiting_configuration_and_only_the_newest_is_sent() -> None:
    one, other = pair()
    while one.offer("closed"):
        pass
    for version in (1, 2, 3):
        one.send_latest("config", config="x" * 100_000, version=version)
    assert one.backlog == 1
    assert not one.offer("accept", serial=1)
    found = []
    while not (one.flush() and found and found[-1]["kind"] == "config"):
        received = other.receive()
        if received is not None:
            found.append(received[0])
    assert [message["version"] for message in found if message["kind"] == "config"] == [3]


def test_the_end_of_the_other_process_is_distinguished_from_a_full_buffer() -> None:
    one, other = pair()
    other.close()
    with pytest.raises(ChannelClosed):
        one.send("closed")
    with pytest.raises(ChannelClosed):
        one.offer("closed")
    with pytest.raises(ChannelClosed):
        one.receive()
