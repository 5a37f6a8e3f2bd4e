"""A replica on another machine: the protocol between `filmroom replicate tcp://…` and `filmroom replicate --listen`.

It is NOT encrypted: who can read the line reads the instances, and who can change it changes them. It belongs on a
private network or into a tunnel (WireGuard, ssh, stunnel). The secret that both ends have in a file proves each to the
other and never crosses the line; what follows is bound to the connection by nothing but TCP.

    frame    length u32 of the body | kind u8 | body, at most BODY_BYTES_MAX | crc32c u32 of kind and body

    source                                    replica             all numbers little endian
      │  ◄── HELLO  format u32, nonce 32 ───────  │
      │  ─── PROVE  archive id 16, lineage 16, nonce 32, HMAC 32 ──►
      │  ◄── WELCOME  HMAC 32 ──────────────────  │
      │  ◄── HELD  n × (id u64, salt u64, length u64, sealed u8, tail crc u32), … HELD_END
      │  ─── DATA  id u64, salt u64, offset u64, bytes ──►        no answer
      │  ─── COMMIT  n × (id u64, salt u64, length u64, sealed u8) ──►  DONE
      │  ─── REMOVE  n × id u64 ──►                                     DONE
      │  ─── TELL  JSON, at most 64 KiB ──►                       no answer
      │  ◄── REFUSED  final u8, UTF-8 text ─────  │               and the end

HMAC-SHA256 with the secret over the role's name, both nonces, archive id and lineage. A segment's file is named by its
id, a number; nothing else from the line goes into a path, and a segment only grows at its end.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import orjson

from engine import log
from engine.archive.copies.replica import STATUS_BYTES_MAX, Held, Replica, Shipped
from engine.errors import EngineError, ReplicationFailed
from engine.storage.files import Files
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = log.get("archive.replica_link")

FORMAT = 1
BODY_BYTES_MAX = (1 << 20) + 64
ENTRIES_MAX = 10_000
"""Of segments, in one frame."""
NONCE_BYTES = 32
SECRET_BYTES_MIN = 16
SECRET_BYTES_MAX = 4096
HANDSHAKE_TIMEOUT_S = 10.0
TIMEOUT_S = 60.0
"""Within a connection; the source says something every few seconds, and a sync of the replica takes less."""
BACKLOG = 4

_FRAME = struct.Struct("<IB")
_CRC = struct.Struct("<I")
_HELLO = struct.Struct("<I32s")
_PROVE = struct.Struct("<16s16s32s32s")
_HELD = struct.Struct("<QQQBI")
_PLACE = struct.Struct("<QQQ")
_SHIPPED = struct.Struct("<QQQB")
_ID = struct.Struct("<Q")


class Frame(IntEnum):
    """The kinds."""

    HELLO = 1
    PROVE = 2
    WELCOME = 3
    HELD = 4
    HELD_END = 5
    DATA = 6
    COMMIT = 7
    REMOVE = 8
    TELL = 9
    DONE = 10
    REFUSED = 11


def read_secret(path: Path) -> bytes:
    """The secret in a file, without the line's end. Raises ReplicationFailed."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(SECRET_BYTES_MAX).strip()
    except OSError as error:
        raise ReplicationFailed(f"the secret cannot be read: {path}: {error.strerror}", is_final=True) from error
    if mode & stat.S_IRWXO:
        raise ReplicationFailed(f"{path} can be read by everybody: chmod o= {path}", is_final=True)
    if len(secret) < SECRET_BYTES_MIN:
        what = f"{path} holds {len(secret)} bytes, a secret has {SECRET_BYTES_MIN} or more"
        raise ReplicationFailed(f"{what}: head -c 32 /dev/urandom | base64 > {path}", is_final=True)
    return secret


def _proof(secret: bytes, role: bytes, *parts: bytes) -> bytes:
    return hmac.new(secret, b"\0".join((b"filmroom replica", role, *parts)), sha256).digest()


class _Line:
    """Frames over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind: int, *parts: Buffer) -> None:
        """One frame. Raises ReplicationFailed when the connection is lost."""
        body = b"".join(parts)
        tail = _CRC.pack(crc32c(body, crc32c(bytes([kind]))))
        try:
            self._sock.sendall(b"".join((_FRAME.pack(len(body), kind), body, tail)))
        except OSError as error:
            raise ReplicationFailed(f"the connection is lost: {error.strerror or error}") from error

    def receive(self) -> tuple[int, bytes]:
        """The next frame. Raises ReplicationFailed when there is none, or what comes is no frame."""
        length, kind = _FRAME.unpack(self._exactly(_FRAME.size))
        if length > BODY_BYTES_MAX or not Frame.HELLO <= kind <= Frame.REFUSED:
            raise ReplicationFailed("the other end does not speak this protocol")
        body = self._exactly(length)
        if _CRC.unpack(self._exactly(_CRC.size))[0] != crc32c(body, crc32c(bytes([kind]))):
            raise ReplicationFailed("a frame came damaged")
        if kind == Frame.REFUSED:
            text = body[1:1025].decode("utf-8", "replace")
            raise ReplicationFailed(f"the replica refuses: {text}", is_final=bool(body[:1].strip(b"\0")))
        return kind, body

    def expect(self, kind: int) -> bytes:
        """The body of the next frame, which is of this kind."""
        found, body = self.receive()
        if found != kind:
            raise ReplicationFailed(f"a frame of kind {found} where {kind} should be")
        return body

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                piece = self._sock.recv(min(length - len(data), 1 << 18))
            except OSError as error:
                raise ReplicationFailed(f"the connection is lost: {error.strerror or error}") from error
            if not piece:
                raise ReplicationFailed("the other end has closed the connection")
            data += piece
        return bytes(data)

    def timeout(self, seconds: float) -> None:
        """For each wait from now on."""
        self._sock.settimeout(seconds)

    def close(self) -> None:
        """Ends the connection."""
        self._sock.close()


def _unpack(shape: struct.Struct, body: bytes, end: int | None = None) -> tuple[int, ...]:
    try:
        return shape.unpack(body[:end])
    except struct.error as error:
        raise ReplicationFailed("a frame of a wrong length") from error


def _entries(shape: struct.Struct, body: bytes) -> Iterator[tuple[int, ...]]:
    if len(body) % shape.size:
        raise ReplicationFailed("a frame of a wrong length")
    yield from shape.iter_unpack(body)


def _status(body: bytes) -> dict[str, object]:
    try:
        status = orjson.loads(body[:STATUS_BYTES_MAX])
    except ValueError as error:
        raise ReplicationFailed("a status that is no JSON") from error
    return status if isinstance(status, dict) else {}


# The source's end --------------------------------------------------------------------------------


class RemoteReplica:
    """A replica behind a connection: a `replica.Destination`."""

    def __init__(self, host: str, port: int, secret: bytes, archive_id: bytes, lineage: str) -> None:
        """Connects and proves itself. Raises ReplicationFailed."""
        try:
            sock = socket.create_connection((host, port), HANDSHAKE_TIMEOUT_S)
        except OSError as error:
            raise ReplicationFailed(f"{host}:{port} cannot be reached: {error.strerror or error}") from error
        self._line = _Line(sock)
        try:
            self._prove(secret, archive_id, bytes.fromhex(lineage).ljust(16, b"\0"))
            self._line.timeout(TIMEOUT_S)
        except BaseException:
            self._line.close()
            raise

    def _prove(self, secret: bytes, archive_id: bytes, lineage: bytes) -> None:
        format_, theirs = _HELLO.unpack(_sized(self._line.expect(Frame.HELLO), _HELLO.size))
        if format_ != FORMAT:
            raise ReplicationFailed(f"the replica speaks version {format_}, this is {FORMAT}", is_final=True)
        ours = secrets.token_bytes(NONCE_BYTES)
        parts = (theirs, ours, archive_id, lineage)
        self._line.send(Frame.PROVE, _PROVE.pack(archive_id, lineage, ours, _proof(secret, b"source", *parts)))
        answer = self._line.expect(Frame.WELCOME)
        if not hmac.compare_digest(answer, _proof(secret, b"replica", *parts)):
            raise ReplicationFailed("the other end does not know the secret", is_final=True)

    def held(self) -> dict[int, Held]:
        """What is there and durable."""
        held: dict[int, Held] = {}
        while True:
            kind, body = self._line.receive()
            if kind == Frame.HELD_END:
                return held
            if kind != Frame.HELD:
                raise ReplicationFailed(f"a frame of kind {kind} where {Frame.HELD} should be")
            for segment_id, salt, length, is_sealed, tail_crc in _entries(_HELD, body):
                held[segment_id] = Held(salt, length, bool(is_sealed), tail_crc)

    def write(self, segment_id: int, salt: int, offset: int, data: bytes) -> None:
        """As `Replica.write`; what is wrong comes with the next answer."""
        self._line.send(Frame.DATA, _PLACE.pack(segment_id, salt, offset), data)

    def commit(self, shipped: Sequence[Shipped]) -> None:
        """As `Replica.commit`."""
        self._line.send(Frame.COMMIT, *(_SHIPPED.pack(*item) for item in shipped))
        self._line.expect(Frame.DONE)

    def remove(self, segment_ids: Sequence[int]) -> None:
        """As `Replica.remove`."""
        for at in range(0, len(segment_ids), ENTRIES_MAX):
            self._line.send(Frame.REMOVE, *(_ID.pack(segment_id) for segment_id in segment_ids[at : at + ENTRIES_MAX]))
            self._line.expect(Frame.DONE)

    def tell(self, status: Mapping[str, object]) -> None:
        """As `Replica.tell`."""
        self._line.send(Frame.TELL, orjson.dumps(dict(status)))

    def close(self) -> None:
        """Ends the connection."""
        self._line.close()


def _sized(body: bytes, length: int) -> bytes:
    if len(body) != length:
        raise ReplicationFailed("a frame of a wrong length")
    return body


# The replica's end -------------------------------------------------------------------------------


class Listener:
    """Takes sources one after the other and writes what they ship into one replica."""

    def __init__(self, host: str, port: int, data: Path, secret: bytes, files: Files | None = None) -> None:
        """Raises ReplicationFailed when the port cannot be had."""
        self._data = data
        self._secret = secret
        self._files = files or Files()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._sock.bind((host, port))
            self._sock.listen(BACKLOG)
        except OSError as error:
            self._sock.close()
            what = f"{host}:{port} cannot be listened on"
            raise ReplicationFailed(f"{what}: {error.strerror or error}", is_final=True) from error
        self._line: _Line | None = None
        self._closing = False

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sock.getsockname()[1])

    def run(self, stop: threading.Event, on_event: Callable[[str], None] = lambda text: None) -> None:
        """Until `stop`, and `close` from another thread or a signal handler."""
        try:
            while not stop.is_set():
                try:
                    sock, address = self._sock.accept()
                except OSError:
                    if stop.is_set():
                        return
                    logger.error("no connection could be accepted")
                    stop.wait(1.0)
                    continue
                sock.settimeout(HANDSHAKE_TIMEOUT_S)
                self._line = _Line(sock)
                on_event(f"connected: {address[0]}")
                try:
                    self._serve(self._line)
                except (EngineError, OSError) as error:
                    on_event(f"disconnected: {error}")
                    logger.warning("replication ended", peer=str(address[0]), reason=str(error))
                finally:
                    self._line.close()
                    self._line = None
        finally:
            self._sock.close()

    def close(self) -> None:
        """Wakes `run` up."""
        for sock in (self._sock, self._line._sock if self._line is not None else None):
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # not connected, or gone

    def _serve(self, line: _Line) -> None:
        archive_id, lineage = self._admit(line)
        line.timeout(TIMEOUT_S)
        try:
            replica = Replica(self._data, archive_id, lineage, self._files)
        except EngineError as error:
            self._refuse(line, error)
        try:
            self._send_held(line, replica)
            while True:
                kind, body = line.receive()
                try:
                    self._take(line, replica, kind, body)
                except (EngineError, OSError) as error:
                    self._refuse(line, error)
        finally:
            replica.close()

    def _admit(self, line: _Line) -> tuple[bytes, str]:
        ours = secrets.token_bytes(NONCE_BYTES)
        line.send(Frame.HELLO, _HELLO.pack(FORMAT, ours))
        archive_id, lineage, theirs, proof = _PROVE.unpack(_sized(line.expect(Frame.PROVE), _PROVE.size))
        parts = (ours, theirs, archive_id, lineage)
        if not hmac.compare_digest(proof, _proof(self._secret, b"source", *parts)):
            self._refuse(line, ReplicationFailed("the secret is another one", is_final=True))
        line.send(Frame.WELCOME, _proof(self._secret, b"replica", *parts))
        return archive_id, lineage.hex() if lineage.strip(b"\0") else ""

    def _send_held(self, line: _Line, replica: Replica) -> None:
        rows = [_HELD.pack(segment_id, *item) for segment_id, item in replica.held().items()]
        for at in range(0, len(rows), ENTRIES_MAX):
            line.send(Frame.HELD, *rows[at : at + ENTRIES_MAX])
        line.send(Frame.HELD_END)

    def _take(self, line: _Line, replica: Replica, kind: int, body: bytes) -> None:
        match kind:
            case Frame.DATA:
                segment_id, salt, offset = _unpack(_PLACE, body, _PLACE.size)
                replica.write(segment_id, salt, offset, body[_PLACE.size :])
            case Frame.COMMIT:
                rows = _entries(_SHIPPED, body)
                replica.commit([Shipped(row[0], row[1], row[2], bool(row[3])) for row in rows])
                line.send(Frame.DONE)
            case Frame.REMOVE:
                replica.remove([segment_id for (segment_id,) in _entries(_ID, body)])
                line.send(Frame.DONE)
            case Frame.TELL:
                replica.tell(_status(body))
            case _:
                raise ReplicationFailed(f"a frame of kind {kind} is not for a replica")

    def _refuse(self, line: _Line, error: EngineError | OSError) -> NoReturn:
        is_final = isinstance(error, ReplicationFailed) and error.is_final
        line.send(Frame.REFUSED, bytes([is_final]), str(error).encode()[:1024])
        raise error
