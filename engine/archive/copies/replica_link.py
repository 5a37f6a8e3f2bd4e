"""A replica on another machine: the protocol between `filmroom replicate tcp://…` and `filmroom replicate --listen`.

It is NOT encrypted: anybody who can read the traffic reads the instances, and anybody who can change it changes them.
Use it on a private network or in a tunnel (WireGuard, ssh, stunnel). Both ends have the secret in a file and prove to
each other that they know it; it never crosses the network. After the proof only TCP protects the connection.

Before the proof, frames are small and the whole handshake has one deadline. After it, each frame has a deadline that
follows from its length.

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
id, a number. Put nothing else from the network into a path. A segment only grows at its end.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import stat
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from engine.archive.copies.replica import STATUS_BYTES_MAX, Held, Shipped
from engine.errors import ReplicationFailed
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMAT = 1
BODY_BYTES_MAX = (1 << 20) + 64
ENTRIES_MAX = 10_000
"""Of segments, in one frame."""
NONCE_BYTES = 32
SECRET_BYTES_MIN = 16
SECRET_BYTES_MAX = 4096
HANDSHAKE_BYTES_MAX = 2048
"""Of a frame before the proof."""
HANDSHAKE_TIMEOUT_S = 10.0
"""Time from the connection to the proof, however slowly the bytes come."""
TIMEOUT_S = 60.0
"""Time until the next frame begins: the source sends a frame every few seconds, and a replica syncs faster."""
LEAST_BYTES_PER_S = 8192
"""A frame that has begun must be complete within TIMEOUT_S plus its length at this rate."""

_FRAME = struct.Struct("<IB")
_CRC = struct.Struct("<I")
HELLO = struct.Struct("<I32s")
PROVE = struct.Struct("<16s16s32s32s")
HELD = struct.Struct("<QQQBI")
PLACE = struct.Struct("<QQQ")
SHIPPED = struct.Struct("<QQQB")
ID = struct.Struct("<Q")


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


def proof(secret: bytes, role: bytes, *parts: bytes) -> bytes:
    """Proves that the end with this role knows the secret."""
    return hmac.new(secret, b"\0".join((b"filmroom replica", role, *parts)), sha256).digest()


class Line:
    """Frames over a socket: small ones until `prove`, all before one deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._until_s: float | None = time.monotonic() + HANDSHAKE_TIMEOUT_S
        self._body_bytes_max = HANDSHAKE_BYTES_MAX
        self.heard_s = time.monotonic()
        """When the other end was last heard (`time.monotonic`)."""

    def prove(self) -> None:
        """Call this once both ends have proven themselves: allows large frames, and ends the common deadline."""
        self._until_s = None
        self._body_bytes_max = BODY_BYTES_MAX

    def send(self, kind: int, *parts: Buffer) -> None:
        """One frame. Raises ReplicationFailed when the connection is lost."""
        body = b"".join(parts)
        tail = _CRC.pack(crc32c(body, crc32c(bytes([kind]))))
        try:
            self._wait_until(self._due_s(len(body)))
            self._sock.sendall(b"".join((_FRAME.pack(len(body), kind), body, tail)))
        except OSError as error:
            raise ReplicationFailed(f"the connection is lost: {error.strerror or error}") from error

    def receive(self) -> tuple[int, bytes]:
        """The next frame. Raises ReplicationFailed when there is none, or what comes is no frame."""
        head = self._exactly(1, self._due_s(0))
        head += self._exactly(_FRAME.size - 1, self._due_s(0))
        length, kind = _FRAME.unpack(head)
        if length > self._body_bytes_max or not Frame.HELLO <= kind <= Frame.REFUSED:
            raise ReplicationFailed("the other end does not speak this protocol")
        rest = self._exactly(length + _CRC.size, self._due_s(length))
        body = rest[:length]
        if _CRC.unpack(rest[length:])[0] != crc32c(body, crc32c(bytes([kind]))):
            raise ReplicationFailed("a frame came damaged")
        if kind == Frame.REFUSED:
            text = body[1:1025].decode("utf-8", "replace")
            raise ReplicationFailed(f"the replica refuses: {text}", is_final=bool(body[:1].strip(b"\0")))
        return kind, body

    def expect(self, kind: int) -> bytes:
        """The body of the next frame, which is of this kind."""
        kind_received, body = self.receive()
        if kind_received != kind:
            raise ReplicationFailed(f"a frame of kind {kind_received} where {kind} should be")
        return body

    def _due_s(self, length: int) -> float:
        """The deadline of a frame of this length."""
        if self._until_s is not None:
            return self._until_s
        return time.monotonic() + TIMEOUT_S + length / LEAST_BYTES_PER_S

    def _wait_until(self, due_s: float) -> None:
        left_s = due_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)

    def _exactly(self, length: int, due_s: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                self._wait_until(due_s)
                piece = self._sock.recv(min(length - len(data), 1 << 18))
            except OSError as error:
                raise ReplicationFailed(f"the connection is lost: {error.strerror or error}") from error
            if not piece:
                raise ReplicationFailed("the other end has closed the connection")
            self.heard_s = time.monotonic()
            data += piece
        return bytes(data)

    def cut(self) -> None:
        """Ends the connection from another thread, and wakes the thread that waits for it."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more

    def close(self) -> None:
        """Ends the connection."""
        self._sock.close()


def unpack(shape: struct.Struct, body: bytes, end: int | None = None) -> tuple[int, ...]:
    """Raises ReplicationFailed."""
    try:
        return shape.unpack(body[:end])
    except struct.error as error:
        raise ReplicationFailed("a frame of a wrong length") from error


def entries(shape: struct.Struct, body: bytes) -> Iterator[tuple[int, ...]]:
    """Rows of one shape. Raises ReplicationFailed."""
    if len(body) % shape.size:
        raise ReplicationFailed("a frame of a wrong length")
    yield from shape.iter_unpack(body)


def status(body: bytes) -> dict[str, object]:
    """The status that a source has sent. Raises ReplicationFailed."""
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
        self._line = Line(sock)
        try:
            self._prove(secret, archive_id, bytes.fromhex(lineage).ljust(16, b"\0"))
            self._line.prove()
        except BaseException:
            self._line.close()
            raise

    def _prove(self, secret: bytes, archive_id: bytes, lineage: bytes) -> None:
        format_, theirs = HELLO.unpack(sized(self._line.expect(Frame.HELLO), HELLO.size))
        if format_ != FORMAT:
            raise ReplicationFailed(f"the replica speaks version {format_}, this is {FORMAT}", is_final=True)
        ours = secrets.token_bytes(NONCE_BYTES)
        parts = (theirs, ours, archive_id, lineage)
        self._line.send(Frame.PROVE, PROVE.pack(archive_id, lineage, ours, proof(secret, b"source", *parts)))
        answer = self._line.expect(Frame.WELCOME)
        if not hmac.compare_digest(answer, proof(secret, b"replica", *parts)):
            raise ReplicationFailed("the other end does not know the secret", is_final=True)

    def held(self) -> dict[int, Held]:
        """The durable segments."""
        segments: dict[int, Held] = {}
        while True:
            kind, body = self._line.receive()
            if kind == Frame.HELD_END:
                return segments
            if kind != Frame.HELD:
                raise ReplicationFailed(f"a frame of kind {kind} where {Frame.HELD} should be")
            for segment_id, salt, length, is_sealed, tail_crc in entries(HELD, body):
                segments[segment_id] = Held(salt, length, bool(is_sealed), tail_crc)

    def write(self, segment_id: int, salt: int, offset: int, data: bytes) -> None:
        """As `Replica.write`; an error arrives with the next answer."""
        self._line.send(Frame.DATA, PLACE.pack(segment_id, salt, offset), data)

    def commit(self, shipped: Sequence[Shipped]) -> None:
        """As `Replica.commit`."""
        self._line.send(Frame.COMMIT, *(SHIPPED.pack(*item) for item in shipped))
        self._line.expect(Frame.DONE)

    def remove(self, segment_ids: Sequence[int]) -> None:
        """As `Replica.remove`."""
        for at in range(0, len(segment_ids), ENTRIES_MAX):
            self._line.send(Frame.REMOVE, *(ID.pack(segment_id) for segment_id in segment_ids[at : at + ENTRIES_MAX]))
            self._line.expect(Frame.DONE)

    def tell(self, status: Mapping[str, object]) -> None:
        """As `Replica.tell`."""
        self._line.send(Frame.TELL, orjson.dumps(dict(status)))

    def close(self) -> None:
        """Ends the connection."""
        self._line.close()


def sized(body: bytes, length: int) -> bytes:
    """A body that has this length. Raises ReplicationFailed."""
    if len(body) != length:
        raise ReplicationFailed("a frame of a wrong length")
    return body
