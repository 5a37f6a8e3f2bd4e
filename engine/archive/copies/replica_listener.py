"""Accepts the source of a replica over the network: `filmroom replicate --listen`. Protocol: `replica_link`.

    accepted ──► unknown, a thread each, UNKNOWN_MAX of them ──► admitted: one at a time writes the replica
                 └─ one more: the oldest of the address with the most goes

Admitted is a source whose certificate is the right one (`replica_tls`). A stranger that trickles bytes or only connects
keeps no source out: an honest one needs three round trips. A source waits while another connection is served. A
connection that has been silent for SILENT_S is ended: it is most likely the same source before an outage. Strangers are
logged at most once in TELL_EVERY_S.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from engine import guards, log
from engine.archive.copies import replica_link as link
from engine.archive.copies import shipped_logs
from engine.archive.copies.replica import Held, Replica, Shipped
from engine.archive.copies.replica_link import Frame, Line
from engine.archive.copies.replica_tls import Credentials
from engine.errors import EngineError, ReplicationFailed, for_log
from engine.storage.files import Files

logger = log.get("archive.replica_listener")

BACKLOG = 64
UNKNOWN_MAX = 64
SILENT_S = 15.0
"""A source sends a frame at least every ten seconds (`filmroom replicate --interval`)."""
TURN_S = 20.0
"""How long a source waits for the one before it."""
TELL_EVERY_S = 10.0
ENDED_S = 5.0
"""How long `run` waits at its end for writes under way."""


_TAKEN = Held(shipped_logs.AUDIT_TAKEN, shipped_logs.SYNCS_TAKEN, False)


@dataclass(eq=False, slots=True)
class _Guest:
    """One connection."""

    line: Line
    address: str
    since_s: float = field(default_factory=time.monotonic)
    is_admitted: bool = False


class Listener:
    """Serves one source at a time and writes its segments into one replica."""

    def __init__(self, host: str, port: int, data: Path, credentials: Credentials, files: Files | None = None) -> None:
        """Raises ReplicationFailed when the port cannot be opened."""
        self._data = data
        self._credentials = credentials
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
        self._guests: dict[_Guest, threading.Thread | None] = {}
        self._lock = threading.Lock()
        """Protects `_guests`."""
        self._turn = threading.Lock()
        """The connection that may write."""
        self._served: _Guest | None = None
        self._strangers = 0
        self._told_s = -TELL_EVERY_S
        self._stop = threading.Event()
        self._on_event: Callable[[str], None] = lambda text: None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sock.getsockname()[1])

    def run(self, stop: threading.Event, on_event: Callable[[str], None] = lambda text: None) -> None:
        """Until `stop`, and `close` from another thread or a signal handler."""
        self._stop, self._on_event = stop, on_event
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
                self._accept(sock, str(address[0]))
        finally:
            self._sock.close()
            self._end()

    def close(self) -> None:
        """Wakes `run` up. Takes no lock: a signal handler calls it."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected, or gone

    def _accept(self, sock: socket.socket, address: str) -> None:
        try:
            self._welcome(_Guest(Line(sock, self._credentials), address))
        except (EngineError, OSError) as error:  # it is gone already
            sock.close()
            logger.info("connection lost before it began", peer=address, error=for_log(error))

    def _end(self) -> None:
        with self._lock:
            guests = dict(self._guests)
        for guest in guests:
            guest.line.cut()
        due_s = time.monotonic() + ENDED_S
        for thread in guests.values():
            if thread is not None:
                thread.join(max(0.0, due_s - time.monotonic()))

    # -- who may write ---------------------------------------------------------------------------

    def _welcome(self, guest: _Guest) -> None:
        with self._lock:
            unknown = [other for other in self._guests if not other.is_admitted]
            if len(unknown) >= UNKNOWN_MAX:
                crowd = Counter(other.address for other in unknown).most_common(1)[0][0]
                oldest = min((other for other in unknown if other.address == crowd), key=lambda other: other.since_s)
                del self._guests[oldest]
                oldest.line.cut()
            self._guests[guest] = None
            try:
                self._guests[guest] = guards.start("replica-guest", lambda: self._attend(guest))
            except RuntimeError:  # no thread can be had
                del self._guests[guest]
                guest.line.close()

    def _attend(self, guest: _Guest) -> None:
        """Serves one connection from its first byte to its end, in a thread of its own."""
        try:
            archive_id, lineage = self._admit(guest.line)
            with self._lock:
                guest.is_admitted = True
            guest.line.begin()
            self._on_event(f"connected: {guest.address}")
            self._take_turn(guest)
            try:
                self._serve(guest.line, archive_id, lineage)
            finally:
                self._served = None
                self._turn.release()
        except (EngineError, OSError) as error:
            self._tell(guest, error)
        finally:
            guest.line.close()
            with self._lock:
                self._guests.pop(guest, None)

    def _tell(self, guest: _Guest, error: Exception) -> None:
        if guest.is_admitted:
            self._on_event(f"disconnected: {error}")
            logger.warning("replication ended", peer=guest.address, reason=for_log(error))
            return
        with self._lock:
            self._strangers += 1
            if time.monotonic() - self._told_s < TELL_EVERY_S:
                return
            self._told_s = time.monotonic()
            strangers, self._strangers = self._strangers, 0
        self._on_event(f"turned away: {guest.address}: {error}" + (f" ({strangers})" if strangers > 1 else ""))
        logger.warning("turned away", peer=guest.address, reason=for_log(error), connections=strangers)

    def _take_turn(self, guest: _Guest) -> None:
        due_s = time.monotonic() + TURN_S
        while not self._turn.acquire(timeout=0.2):
            served = self._served
            if served is not None and time.monotonic() - served.line.heard_s > SILENT_S:
                served.line.cut()
            if time.monotonic() > due_s or self._stop.is_set():
                self._refuse(guest.line, ReplicationFailed("another replication to here is running"))
        self._served = guest

    # -- one source ------------------------------------------------------------------------------

    def _serve(self, line: Line, archive_id: bytes, lineage: str) -> None:
        try:
            replica = Replica(self._data, archive_id, lineage, self._files)
        except EngineError as error:
            self._refuse(line, error)
        try:
            self._send_held(line, replica)
            while True:
                kind, body = line.receive()
                try:
                    line.check()
                    self._take(line, replica, kind, body)
                except (EngineError, OSError) as error:
                    self._refuse(line, error)
        finally:
            replica.close()

    def _admit(self, line: Line) -> tuple[bytes, str]:
        line.shake_hands()
        try:
            line.judge()
        except ReplicationFailed as error:
            logger.warning("security alert: a certificate that may not write the replica", error=for_log(error))
            self._refuse(line, ReplicationFailed("this certificate may not write the replica (--peer-certificate)"))
        line.send(Frame.HELLO, link.HELLO.pack(link.FORMAT))
        archive_id, lineage = link.SOURCE.unpack(link.sized(line.expect(Frame.SOURCE), link.SOURCE.size))
        return archive_id, lineage.hex() if lineage.strip(b"\0") else ""

    def _send_held(self, line: Line, replica: Replica) -> None:
        segments = {**replica.held(), shipped_logs.LOGS_TAKEN: _TAKEN}
        rows = [link.HELD.pack(segment_id, *item) for segment_id, item in segments.items()]
        for at in range(0, len(rows), link.ENTRIES_MAX):
            line.send(Frame.HELD, *rows[at : at + link.ENTRIES_MAX])
        line.send(Frame.HELD_END)

    def _send_held_audit(self, line: Line, replica: Replica) -> None:
        rows = [link.held_audit_row(file, held) for file, held in replica.audit.held().items()]
        for at in range(0, len(rows), link.ENTRIES_MAX):
            line.send(Frame.HELD_AUDIT, *rows[at : at + link.ENTRIES_MAX])
        line.send(Frame.HELD_END)

    def _take(self, line: Line, replica: Replica, kind: int, body: bytes) -> None:
        match kind:
            case Frame.DATA:
                segment_id, salt, offset = link.unpack(link.PLACE, body, link.PLACE.size)
                replica.write(segment_id, salt, offset, body[link.PLACE.size :])
            case Frame.COMMIT | Frame.SYNC:
                rows = link.entries(link.SHIPPED, body)
                shipped = [Shipped(row[0], row[1], row[2], bool(row[3])) for row in rows]
                replica.commit(shipped) if kind == Frame.COMMIT else replica.sync(shipped)
                line.send(Frame.DONE)
            case Frame.REMOVE:
                replica.remove([segment_id for (segment_id,) in link.entries(link.ID, body)])
                line.send(Frame.DONE)
            case Frame.TELL:
                replica.tell(link.status(body))
            case Frame.AUDIT:
                self._send_held_audit(line, replica)
            case Frame.AUDIT_DATA:
                replica.audit.write(link.audit_piece(body))
            case Frame.AUDIT_COMMIT:
                replica.audit.commit()
                line.send(Frame.DONE)
            case _:
                raise ReplicationFailed(f"a frame of kind {kind} is not for a replica")

    def _refuse(self, line: Line, error: EngineError | OSError) -> NoReturn:
        is_final = isinstance(error, ReplicationFailed) and error.is_final
        is_fenced = isinstance(error, ReplicationFailed) and error.is_fenced
        line.send(Frame.REFUSED, bytes([link.FENCED if is_fenced else is_final]), str(error).encode()[:1024])
        raise error
