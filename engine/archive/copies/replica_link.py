"""A replica on another machine: the protocol between `filmroom replicate tls://…` and `filmroom replicate --listen`.

It runs over TLS with certificates on both sides (`replica_tls`): TLS protects every byte, so frames have no checksum of
their own. Until the source has named its archive, frames are small and everything has one deadline. After that, each
frame has a deadline that follows from its length.

    frame    length u32 of the body | kind u8 | body, at most BODY_BYTES_MAX        all numbers little endian

    source                                    replica
      │  ◄── HELLO  format u32 ─────────────────  │
      │  ─── SOURCE  archive id 16, lineage 16 ─► │
      │  ◄── HELD  n × (id u64, salt u64, length u64, sealed u8, tail crc u32), … HELD_END
      │  ─── DATA  id u64, salt u64, offset u64, bytes ──►        no answer
      │  ─── COMMIT  n × (id u64, salt u64, length u64, sealed u8) ──►  DONE
      │  ─── SYNC  n × (…) as COMMIT, of records that somebody waits for ──►  DONE     if the replica takes it
      │  ─── REMOVE  n × id u64 ──►                                     DONE
      │  ─── AUDIT ──►                                                  HELD_AUDIT  n × (…), … HELD_END
      │  ─── AUDIT_DATA  file, place, bytes ──►   no answer             of audit logs (`shipped_audit`), if the replica
      │  ─── AUDIT_COMMIT ──►                                           DONE                              takes them
      │  ─── TELL  JSON, at most 64 KiB ──►                       no answer
      │  ◄── REFUSED  final u8 (2: fenced), UTF-8 text ─────  │               and the end

A segment's file is named by its id, a number. Put nothing else from the network into a path. A segment only grows at
its end. Format 1 had no TLS: both ends proved that they knew a secret.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import orjson

from engine.archive.copies.replica import Held, Shipped
from engine.archive.copies.replica_tls import Credentials, reason, shake_hands
from engine.archive.copies.sealed_file import HEAD_BYTES
from engine.archive.copies.shipped_audit import AuditFile, HeldFile, Piece
from engine.archive.copies.shipped_logs import AUDIT_TAKEN, LOGS_TAKEN, SYNCS_TAKEN
from engine.errors import ReplicationFailed

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMAT = 2
BODY_BYTES_MAX = (1 << 20) + 64
ENTRIES_MAX = 10_000
"""Of segments, in one frame."""
GREETING_BYTES_MAX = 2048
"""Of a frame before `Line.begin`."""
GREETING_TIMEOUT_S = 10.0
"""Time from the connection to the source's name, with the TLS handshake, however slowly the bytes come."""
TIMEOUT_S = 60.0
"""Time until the next frame begins: the source sends a frame every few seconds, and a replica syncs faster."""
LEAST_BYTES_PER_S = 8192
"""A frame that has begun must be complete within TIMEOUT_S plus its length at this rate."""

FENCED = 2
"""In a refusal: the replica was promoted, and continues the archive."""

_FRAME = struct.Struct("<IB")
HELLO = struct.Struct("<I")
SOURCE = struct.Struct("<16s16s")
HELD = struct.Struct("<QQQBI")
PLACE = struct.Struct("<QQQ")
SHIPPED = struct.Struct("<QQQB")
ID = struct.Struct("<Q")
AUDIT_FILE = struct.Struct("<16sBIQ")
HELD_AUDIT = struct.Struct(AUDIT_FILE.format + f"BQ{HEAD_BYTES}sI")
AUDIT_PIECE = struct.Struct(AUDIT_FILE.format + "BBQ")


class Frame(IntEnum):
    """The kinds."""

    HELLO = 1
    SOURCE = 2
    HELD = 4
    HELD_END = 5
    DATA = 6
    COMMIT = 7
    REMOVE = 8
    TELL = 9
    DONE = 10
    REFUSED = 11
    AUDIT = 12
    HELD_AUDIT = 13
    AUDIT_DATA = 14
    AUDIT_COMMIT = 15
    SYNC = 16


class Line:
    """Frames over a TLS connection: small ones until `begin`, all before one deadline."""

    def __init__(self, sock: socket.socket, credentials: Credentials) -> None:
        """Raises ReplicationFailed."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._credentials = credentials
        self._until_s: float | None = time.monotonic() + GREETING_TIMEOUT_S
        self._body_bytes_max = GREETING_BYTES_MAX
        try:
            self._sock, self._version = credentials.secure(sock)
        except OSError as error:
            raise ReplicationFailed(reason(error)) from error
        self.heard_s = time.monotonic()
        """When the other end was last heard (`time.monotonic`)."""

    def shake_hands(self) -> None:
        """Call this first: the TLS handshake. Raises ReplicationFailed."""
        shake_hands(self._sock, max(0.001, self._due_s(0) - time.monotonic()))

    def judge(self) -> None:
        """Call this next: raises ReplicationFailed when the other end's certificate is not one that we accept."""
        self._credentials.judge(self._sock)

    def begin(self) -> None:
        """Call this once the source has named its archive: allows large frames, and ends the common deadline."""
        self._until_s = None
        self._body_bytes_max = BODY_BYTES_MAX

    def check(self) -> None:
        """Raises ReplicationFailed when a TLS file has changed since the connection was made."""
        if not self._credentials.is_current(self._version):
            raise ReplicationFailed("the TLS files have changed: the connection is made anew")

    def send(self, kind: int, *parts: Buffer) -> None:
        """One frame. Raises ReplicationFailed when the connection is lost."""
        body = b"".join(parts)
        left = memoryview(b"".join((_FRAME.pack(len(body), kind), body)))
        due_s = self._due_s(len(body))
        try:
            while left:
                self._wait_until(due_s)
                left = left[self._sock.send(left) :]
        except OSError as error:
            raise ReplicationFailed(reason(error)) from error

    def receive(self) -> tuple[int, bytes]:
        """The next frame. Raises ReplicationFailed when there is none, or what comes is no frame."""
        head = self._exactly(1, self._due_s(0))
        head += self._exactly(_FRAME.size - 1, self._due_s(0))
        length, kind = _FRAME.unpack(head)
        if length > self._body_bytes_max or not Frame.HELLO <= kind <= Frame.SYNC:
            raise ReplicationFailed("the other end does not speak this protocol")
        body = self._exactly(length, self._due_s(length))
        if kind == Frame.REFUSED:
            text = body[1:1025].decode("utf-8", "replace")
            is_fenced, is_final = body[:1] == bytes([FENCED]), bool(body[:1].strip(b"\0"))
            raise ReplicationFailed(f"the replica refuses: {text}", is_final=is_final, is_fenced=is_fenced)
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
                raise ReplicationFailed(reason(error)) from error
            if not piece:
                raise ReplicationFailed("the other end has closed the connection")
            self.heard_s = time.monotonic()
            data += piece
        return bytes(data)

    def cut(self) -> None:
        """Ends the connection from another thread, and wakes the thread that waits for it."""
        try:
            # `SSLSocket.shutdown` would make the other thread go on without TLS.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
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
        status = orjson.loads(body)
    except ValueError as error:
        raise ReplicationFailed("a status that is no JSON") from error
    return status if isinstance(status, dict) else {}


# The source's end --------------------------------------------------------------------------------


class RemoteReplica:
    """A replica behind a connection: a `replica.Destination`."""

    def __init__(self, host: str, port: int, credentials: Credentials, archive_id: bytes, lineage: str) -> None:
        """Connects. Raises ReplicationFailed."""
        self.takes_all_logs = False
        """Whether it takes patients, orders and messages too; known after `held`."""
        self.audit: RemoteAudit | None = None
        """Where audit logs go; known after `held`."""
        self.takes_syncs = False
        """Whether `sync` leaves it to `commit` to note what has come; known after `held`."""
        try:
            sock = socket.create_connection((host, port), GREETING_TIMEOUT_S)
        except OSError as error:
            raise ReplicationFailed(f"{host}:{port} cannot be reached: {error.strerror or error}") from error
        try:
            self._line = Line(sock, credentials)
        except BaseException:
            sock.close()
            raise
        try:
            self._line.shake_hands()
            self._line.judge()
            (format_,) = HELLO.unpack(sized(self._line.expect(Frame.HELLO), HELLO.size))
            if format_ != FORMAT:
                raise ReplicationFailed(f"the replica speaks version {format_}, this is {FORMAT}", is_final=True)
            self._line.send(Frame.SOURCE, SOURCE.pack(archive_id, bytes.fromhex(lineage)))
            self._line.begin()
        except BaseException:
            self._line.close()
            raise

    def held(self) -> dict[int, Held]:
        """The durable segments."""
        segments: dict[int, Held] = {}
        while True:
            kind, body = self._line.receive()
            if kind == Frame.HELD_END:
                taken = segments.pop(LOGS_TAKEN, None)
                self.takes_all_logs = taken is not None
                self.takes_syncs = taken is not None and taken.length == SYNCS_TAKEN
                self.audit = RemoteAudit(self._line) if taken is not None and taken.salt == AUDIT_TAKEN else None
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
        self._confirm(Frame.COMMIT, shipped)

    def sync(self, shipped: Sequence[Shipped]) -> None:
        """As `Replica.sync`; a replica of an older version commits."""
        self._confirm(Frame.SYNC if self.takes_syncs else Frame.COMMIT, shipped)

    def _confirm(self, kind: Frame, shipped: Sequence[Shipped]) -> None:
        self._line.check()
        self._line.send(kind, *(SHIPPED.pack(*item) for item in shipped))
        self._line.expect(Frame.DONE)

    def remove(self, segment_ids: Sequence[int]) -> None:
        """As `Replica.remove`."""
        for at in range(0, len(segment_ids), ENTRIES_MAX):
            self._line.send(Frame.REMOVE, *(ID.pack(segment_id) for segment_id in segment_ids[at : at + ENTRIES_MAX]))
            self._line.expect(Frame.DONE)

    def tell(self, status: Mapping[str, object]) -> None:
        """As `Replica.tell`."""
        self._line.check()
        self._line.send(Frame.TELL, orjson.dumps(dict(status)))

    def close(self) -> None:
        """Ends the connection."""
        self._line.close()


class RemoteAudit:
    """The audit logs of a replica behind a connection: a `shipped_audit.AuditDestination`."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def held(self) -> dict[AuditFile, HeldFile]:
        """As `ReplicaAudit.held`."""
        self._line.send(Frame.AUDIT)
        files: dict[AuditFile, HeldFile] = {}
        while True:
            kind, body = self._line.receive()
            if kind == Frame.HELD_END:
                return files
            if kind != Frame.HELD_AUDIT:
                raise ReplicationFailed(f"a frame of kind {kind} where {Frame.HELD_AUDIT} should be")
            files |= held_audit(body)

    def write(self, piece: Piece) -> None:
        """As `ReplicaAudit.write`; an error arrives with the next answer."""
        self._line.send(Frame.AUDIT_DATA, *audit_parts(piece))

    def commit(self) -> None:
        """As `ReplicaAudit.commit`."""
        self._line.check()
        self._line.send(Frame.AUDIT_COMMIT)
        self._line.expect(Frame.DONE)

    def close(self) -> None:
        """The connection is closed with the replica."""


def held_audit(body: bytes) -> dict[AuditFile, HeldFile]:
    """What a replica says it has of audit logs. Raises ReplicationFailed."""
    if len(body) % HELD_AUDIT.size:
        raise ReplicationFailed("a frame of a wrong length")
    held: dict[AuditFile, HeldFile] = {}
    for lineage, kind, chain, first, is_sealed, end, head, crc in HELD_AUDIT.iter_unpack(body):
        file = AuditFile.of_numbers(lineage, kind, chain, first)
        held[file] = HeldFile(bool(is_sealed), end, head if is_sealed else b"", crc)
    return held


def held_audit_row(file: AuditFile, held: HeldFile) -> bytes:
    """What `held_audit` reads."""
    head = held.head.ljust(HEAD_BYTES, b"\0")
    return HELD_AUDIT.pack(*_numbers(file), held.is_sealed, held.end, head, held.crc)


def audit_piece(body: bytes) -> Piece:
    """A piece that a source has sent. Raises ReplicationFailed."""
    if len(body) < AUDIT_PIECE.size:
        raise ReplicationFailed("a frame of a wrong length")
    lineage, kind, chain, first, is_sealed, is_new, at = AUDIT_PIECE.unpack_from(body)
    file = AuditFile.of_numbers(lineage, kind, chain, first)
    return Piece(file, bool(is_sealed), bool(is_new), at, body[AUDIT_PIECE.size :])


def audit_parts(piece: Piece) -> tuple[bytes, bytes]:
    """What `audit_piece` reads."""
    return AUDIT_PIECE.pack(*_numbers(piece.file), piece.is_sealed, piece.is_new, piece.at), piece.data


def _numbers(file: AuditFile) -> tuple[bytes, int, int, int]:
    return bytes.fromhex(file.lineage), file.kind, file.chain, file.first


def sized(body: bytes, length: int) -> bytes:
    """A body that has this length. Raises ReplicationFailed."""
    if len(body) != length:
        raise ReplicationFailed("a frame of a wrong length")
    return body
