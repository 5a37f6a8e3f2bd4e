"""Receipts: a process that copies the log elsewhere tells workers up to where their segments are durable there.

    DATA/replication-<hash>.sock    of `filmroom replicate` (`copies.replication`), by its destination
    DATA/object-store.sock          of the caretaker, for the bucket (`tiering.shipping`)

Sockets of the type SOCK_SEQPACKET, whoever may open the folder may connect. All numbers are little endian:

    message    kind u8 | n × (segment id u64, end u64), n at most ENTRIES_MAX

    worker                                                     who copies
      │  ◄── READY │ AWAY │ FENCED ────────────────────────────  │   at first, and at each change. An entry of zeros
      │                                                          │   says that COMING is understood
      │  ─── COMING the ends of records that are written ──────► │   while the disk here is at work; no answer
      │  ─── WANT   the ends of records that are durable here ─► │   one for all that were committed together
      │  ◄── HAVE   up to where these segments are durable ────  │

A worker that has connected anew asks again for all that it waits for. FENCED is final: another machine continues this
archive. `Desk` is the end of who copies, and runs in the thread that copies; `archive.ingest.second_copy` is the other.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import Final

from engine import log
from engine.errors import StorageError, for_log

logger = log.get("archive.receipts")

OBJECT_STORE: Final = "object-store.sock"
ENTRIES_MAX: Final = 1000
MESSAGE_BYTES_MAX: Final = 1 + 16 * ENTRIES_MAX
CLIENTS_MAX: Final = 1024
"""As many as there may be workers."""
WANTED_MAX: Final = 10_000
"""Segments for which one client waits; one that asks for more is no worker of ours."""
TAKES_COMING: Final = {0: 0}
"""The entry of zeros."""
_ENTRY: Final = struct.Struct("<QQ")


class Kind(IntEnum):
    """The messages."""

    WANT = 1
    HAVE = 2
    READY = 3
    AWAY = 4
    FENCED = 5
    COMING = 6


def replication_name(destination: str) -> str:
    """The socket of the replication to a destination, which is no file name."""
    return f"replication-{blake2b(destination.encode(), digest_size=8).hexdigest()}.sock"


def pack(kind: Kind, ends: Mapping[int, int] | None = None) -> Iterator[bytes]:
    """The messages for some ends: one at least."""
    rows = [_ENTRY.pack(segment_id, end) for segment_id, end in (ends or {}).items()]
    for at in range(0, max(1, len(rows)), ENTRIES_MAX):
        yield bytes([kind]) + b"".join(rows[at : at + ENTRIES_MAX])


def unpack(message: bytes) -> tuple[Kind, dict[int, int]]:
    """Kind and ends. Raises StorageError."""
    try:
        return Kind(message[0]), dict(_ENTRY.iter_unpack(message[1:]))
    except (IndexError, ValueError, struct.error) as error:
        raise StorageError("a message that is no receipt") from error


@contextmanager
def address(data: Path, name: str) -> Iterator[str]:
    """The path of a socket in a form that fits into the 108 bytes of an address, also where `data` is long."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


class _Client:
    """A worker that has connected."""

    __slots__ = ("ends", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ends: dict[int, int] = {}
        """What it waits for."""


class Desk:
    """Takes what workers want, and gives receipts. For one thread."""

    def __init__(self, data: Path, name: str) -> None:
        """Takes the place of a desk that has ended. Raises StorageError."""
        self._data = data
        self._name = name
        self._state = Kind.AWAY
        self._clients: dict[int, _Client] = {}
        self._coming: dict[int, int] = {}
        self._put_off: set[int] = set()
        """Segments of which nobody can have receipts for now."""
        self._poll = select.poll()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        try:
            with address(data, name) as path:
                if os.path.exists(path):
                    os.unlink(path)
                self._sock.bind(path)
                os.chmod(path, 0o600)
                self._inode = os.stat(path).st_ino
            self._sock.listen(64)
        except OSError as error:
            self._sock.close()
            raise StorageError(f"{data / name} cannot be made: {error.strerror}") from error
        self._poll.register(self._sock, select.POLLIN)

    def tell(self, state: Kind) -> None:
        """Tells all workers, now and later, whether receipts can be had."""
        if state is not self._state:
            self._state = state
            for client in list(self._clients.values()):
                self._send(client, state, TAKES_COMING)

    def wait(self, timeout_s: float) -> bool:
        """Waits until somebody wants something that was neither granted nor put off, or has something to come, for so
        long; whether it is so."""
        until_s = time.monotonic() + timeout_s
        while True:
            for fd, _ in self._poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
                if fd == self._sock.fileno():
                    self._accept()
                elif fd in self._clients:
                    self._receive(self._clients[fd])
            is_due = bool(self._coming) or any(each.ends.keys() - self._put_off for each in self._clients.values())
            if is_due or time.monotonic() >= until_s:
                return is_due

    @property
    def has_clients(self) -> bool:
        """Whether a worker is connected."""
        return bool(self._clients)

    def wanted(self) -> dict[int, int]:
        """By segment, the end up to which somebody waits."""
        ends: dict[int, int] = {}
        for client in self._clients.values():
            for segment_id, end in client.ends.items():
                ends[segment_id] = max(end, ends.get(segment_id, 0))
        return ends

    def take_coming(self) -> dict[int, int]:
        """By segment, the end up to which records have been written since the last call, durable here or not."""
        coming, self._coming = self._coming, {}
        return coming

    def put_off(self, segment_ids: Collection[int]) -> None:
        """Waits for these segments no more until somebody wants them anew, or until `renew`."""
        self._put_off.update(segment_ids)

    def renew(self) -> None:
        """Tries all again."""
        self._put_off.clear()

    def grant(self, ends: Mapping[int, int]) -> None:
        """These segments are durable elsewhere up to these ends."""
        for client in list(self._clients.values()):
            granted = {each: ends[each] for each, end in client.ends.items() if end <= ends.get(each, 0)}
            if granted:
                for segment_id in granted:
                    del client.ends[segment_id]
                self._send(client, Kind.HAVE, granted)

    def close(self) -> None:
        """Ends all connections."""
        try:
            with address(self._data, self._name) as path:
                if os.stat(path).st_ino == self._inode:  # another desk may have taken the place
                    os.unlink(path)
        except OSError:
            pass  # gone
        for client in list(self._clients.values()):
            self._drop(client)
        self._sock.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                logger.warning("a worker cannot connect", error=for_log(error))
            return
        if len(self._clients) >= CLIENTS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        client = _Client(sock)
        self._clients[sock.fileno()] = client
        self._poll.register(sock, select.POLLIN)
        self._send(client, self._state, TAKES_COMING)

    def _receive(self, client: _Client) -> None:
        try:
            message = client.sock.recv(MESSAGE_BYTES_MAX + 1)
            kind, ends = unpack(message) if message else (Kind.AWAY, {})
        except BlockingIOError:
            return
        except (OSError, StorageError):
            self._drop(client)
            return
        if kind is Kind.COMING and len(self._coming) + len(ends) <= WANTED_MAX:
            for segment_id, end in ends.items():
                self._coming[segment_id] = max(end, self._coming.get(segment_id, 0))
            return
        if kind is not Kind.WANT or len(client.ends) + len(ends) > WANTED_MAX:
            self._drop(client)
            return
        for segment_id, end in ends.items():
            client.ends[segment_id] = max(end, client.ends.get(segment_id, 0))
        self._put_off.difference_update(ends)

    def _send(self, client: _Client, kind: Kind, ends: Mapping[int, int] | None = None) -> None:
        try:
            for message in pack(kind, ends):
                client.sock.send(message)
        except OSError:  # gone, or it has not read for long: it connects anew
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        fd = client.sock.fileno()
        if self._clients.pop(fd, None) is not None:
            self._poll.unregister(fd)
            client.sock.close()
