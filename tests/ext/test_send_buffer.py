"""engine._ext.send_buffer: a stretch of a file into a socket, with what stands around it."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine._ext.send_buffer import SendBuffer
from tests.oracle.crc32c import crc32c

CONTENT = random.Random(8).randbytes(10_000)
LONG = random.Random(9).randbytes(1_000_000)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(("offset", "count"), [(0, 0), (0, 10_000), (1, 9_999), (5_000, 123)])
def test_what_is_filled_in_is_sent(fd: int, offset: int, count: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        buffer = SendBuffer(20_000)
        assert buffer.fill(b"before", fd, offset, count, b"after")
        expected = b"before" + CONTENT[offset : offset + count] + b"after"
        assert buffer.length == len(expected)
        assert buffer.crc() == crc32c(CONTENT[offset : offset + count])
        assert buffer.send(ours.fileno()) == len(expected)
        assert theirs.recv(20_000) == expected
        assert buffer.rest(0) == expected
        assert buffer.rest(len(expected) - 2) == b"er"


def test_what_the_caller_writes_between_is_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        buffer = SendBuffer(20)
        buffer.lay_out(b"before", 5, b"after")[:] = b"pixel"
        assert buffer.crc() == crc32c(b"pixel")
        assert buffer.send(ours.fileno()) == 16
        assert theirs.recv(100) == b"beforepixelafter"
        with pytest.raises(ValueError, match="too small"):
            buffer.lay_out(b"before", 10, b"after")


def test_the_kernel_takes_what_it_can_and_the_rest_is_given_back(fd: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        buffer, taken = SendBuffer(20_000), 0
        for _ in range(1000):
            assert buffer.fill(b"", fd, 0, 10_000, b"")
            taken = buffer.send(ours.fileno())
            if taken < 10_000:
                break
        assert buffer.rest(taken) == CONTENT[taken:]
        assert buffer.send(-1) == 0, "the transport finds out what is wrong with a socket"


def test_nothing_is_in_the_buffer_unless_all_of_it_could_be_read(fd: int) -> None:
    buffer = SendBuffer(20_000)
    assert buffer.fill(b"x", fd, 0, 10, b"")
    assert not buffer.fill(b"x", fd, 9_995, 10, b"")
    assert not buffer.fill(b"x", -1, 0, 10, b"")
    assert buffer.length == 0
    with pytest.raises(ValueError, match="no message"):
        buffer.crc()
    for offset, count, before in ((0, 20_000, b"x"), (0, -1, b""), (-1, 1, b""), (0, 0, bytes(20_001))):
        with pytest.raises(ValueError, match="too small"):
            buffer.fill(before, fd, offset, count, b"")
    for sent in (-1, 1):
        with pytest.raises(ValueError, match="not so long"):
            buffer.rest(sent)


@pytest.fixture
def long_fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "long"
    path.write_bytes(LONG)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def connected() -> tuple[socket.socket, socket.socket]:
    """Two sockets of TCP, of which the first one does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    return ours, theirs


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(("offset", "count"), [(0, 0), (0, 1_000_000), (1, 999_999), (4095, 2), (300_001, 500_000)])
def test_what_is_referred_to_is_sent_as_what_is_filled_in(long_fd: int, offset: int, count: int, small: bool) -> None:
    ours, theirs = connected()
    with ours, theirs:
        if small:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        buffer, before, after = SendBuffer(1_100_000), bytes(range(200)), b"after"
        if not buffer.refer(before, long_fd, offset, count, after):
            pytest.skip("this kernel does not say what is in the page cache")
        expected = before + LONG[offset : offset + count] + after
        assert buffer.length == len(expected)
        sent = buffer.send(ours.fileno())
        assert sent == len(expected) or count > 100_000
        for at in {0, 1, 200, 201, min(sent, len(expected)), len(expected) - 2, len(expected)}:
            assert buffer.rest(at) == expected[at:]
        with pytest.raises(ValueError, match="no message"):
            buffer.crc()
        got = b""
        while len(got) < sent:
            got += theirs.recv(1 << 20)
        assert got == expected[:sent]
        assert buffer.send(-1) == 0


def test_nothing_is_referred_to_that_is_not_in_the_file(long_fd: int) -> None:
    buffer = SendBuffer(1_100_000)
    assert not buffer.refer(b"x", long_fd, 999_995, 10, b"")
    assert not buffer.refer(b"x", long_fd, 2_000_000, 10, b"")
    assert not buffer.refer(b"x", -1, 0, 10, b"")
    assert buffer.length == 0
    for offset, count in ((0, 1_100_000), (0, -1), (-1, 1)):
        with pytest.raises(ValueError, match="too small"):
            buffer.refer(b"x", long_fd, offset, count, b"")


def test_a_file_that_is_cut_off_behind_our_back_is_not_made_up(long_fd: int) -> None:
    ours, theirs = connected()
    with ours, theirs:
        buffer = SendBuffer(1_100_000)
        if not buffer.refer(b"head", long_fd, 0, 1_000_000, b""):
            pytest.skip("this kernel does not say what is in the page cache")
        os.ftruncate(long_fd, 1000)
        assert buffer.send(ours.fileno()) == 1004
        with pytest.raises(OSError, match="no longer be read"):
            buffer.rest(1004)
