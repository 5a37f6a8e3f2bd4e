"""Sends every event to the collector as syslog: over TLS (RFC 5425, PS3.15 A.6), or UDP (RFC 5426, A.7).

    <85>1 2026-11-30T02:15:44.123456Z HOST filmroom 000 DICOM+RFC3881 - <?xml …        facility 10, severity 5
    LENGTH SPACE …                                                                     before each message over TLS
    … FILMROOM+CHECKPOINT - SIGNATURE {"checkpoint":…                                   what `verify --anchor` looks for

The log itself is the queue: DATA/audit/sent.json says how far each chain was sent, and survives restarts. RFC 5425 has
no acknowledgement, so the last [audit] resend_count events of each chain are sent once more on each new connection.
Nothing waits for the collector. When it is late for [audit] late_alert_s, that is an alert.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import ssl
import termios
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from engine import audit, log
from engine.audit.chain import chain_files, chain_names, folder_of, read_head
from engine.audit.checkpoint import CHECKPOINTS, checkpoint_lines, parse
from engine.audit.event import Alert, Event, Kind, Outcome, when
from engine.audit.message import Source, message
from engine.audit.reading import forward
from engine.errors import StorageError, for_log
from engine.storage.files import Files, replace_file

if TYPE_CHECKING:
    from engine.audit_settings import Audit

logger = log.get("audit.sender")

SENT: Final = "sent.json"
PRIORITY: Final = 10 * 8 + 5
MESSAGE_ID: Final = "DICOM+RFC3881"
CHECKPOINT_ID: Final = "FILMROOM+CHECKPOINT"
TLS_PORT, UDP_PORT = 6514, 514
DATAGRAM_BYTES_MAX: Final = 60_000
CONNECT_S: Final = 10.0
SEND_S: Final = 30.0
RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 60.0
BATCH: Final = 256


class Sender:
    """The connection to the collector, for one thread."""

    def __init__(self, data: Path, settings: Audit, aet: str) -> None:
        self._data = data
        self._files = Files()
        self.settings = settings
        self._host = socket.gethostname()
        self._source = Source.of(settings, aet, self._host)
        self._sent: dict[str, int] = self._load()
        """Chain, or CHECKPOINTS → number of the last one that was sent."""
        self._saved = dict(self._sent)
        self._positions = dict(self._sent)
        """The same, but after a new connection as far back as is sent again."""
        self._ends: dict[str, tuple[tuple[str, int], int]] = {}
        """Chain → its last file and that file's length, and the position, when nothing was left to send."""
        self._socket: socket.socket | None = None
        self._retry_at = 0.0
        self._retry_s = RETRY_S
        self._late_ns = 0
        """The time of the oldest event that is not sent; 0: all are."""
        self._is_alarmed = False
        self._count = 0
        self.error = ""

    def snapshot(self) -> dict[str, object]:
        """Its state, as plain data."""
        return {
            "connected": self._socket is not None,
            "sent": self._count,
            "late_s": round(self.late_s, 1),
            "is_late": self.late_s >= self.settings.late_alert_s,
            "error": self.error,
        }

    @property
    def late_s(self) -> float:
        """For how long the oldest event that was not sent has waited."""
        return max(0.0, (time.time_ns() - self._late_ns) / 1e9) if self._late_ns else 0.0

    def step(self) -> bool:
        """Sends some events. Returns whether there are more to be sent at once."""
        has_more = False
        if self._socket is not None or time.monotonic() >= self._retry_at:
            try:
                has_more = self._send_next() == BATCH
                self._late_ns = 0
            except (OSError, ValueError) as error:
                self._failed(error)
        self._look()
        return has_more

    def close(self) -> None:
        """Ends the connection, and saves how far it has come."""
        if self._socket is not None:
            with suppress(OSError):
                if isinstance(self._socket, ssl.SSLSocket):
                    self._socket.settimeout(1.0)
                    self._socket = self._socket.unwrap()
            self._socket.close()
            self._socket = None
        self._save()

    # -- what is next -----------------------------------------------------------------------------------

    def _next(self) -> Iterator[tuple[str, int, int, bytes]]:
        """Chain, number, time and message of the next events; the checkpoints last."""
        left = BATCH
        for name in chain_names(self._data):
            position = self._positions.get(name, 0)
            paths = chain_files(self._data, name)
            end = (paths[-1].name, paths[-1].stat().st_size) if paths else ("", 0)
            if self._ends.get(name) == (end, position):
                continue
            head = read_head(self._data, name)
            if head is not None and head.number <= position:
                self._ends[name] = (end, position)
                continue
            for each, record in forward(self._data, name, position):
                fields = orjson.loads(record)
                yield name, each.number, _nanoseconds(fields["t"]), self._message(name, fields)
                left -= 1
                if not left:
                    return
        position = self._positions.get(CHECKPOINTS, 0)
        for _, _, line in checkpoint_lines(self._data):
            checkpoint = parse(line)
            if checkpoint is not None and checkpoint.number > position:
                head_line = f"<{PRIORITY}>1 {checkpoint.time} {self._host} filmroom - {CHECKPOINT_ID} - "
                yield CHECKPOINTS, checkpoint.number, time.time_ns(), head_line.encode() + line
                left -= 1
                if not left:
                    return

    def _message(self, name: str, fields: dict[str, Any]) -> bytes:
        head = f"<{PRIORITY}>1 {fields['t']} {self._host} filmroom {name} {MESSAGE_ID} - "
        return head.encode("ascii", "replace") + message(fields, self._source)

    # -- the connection ---------------------------------------------------------------------------------

    def _send_next(self) -> int:
        """Sends the next events, and waits until the collector's machine has them; their number. Raises OSError."""
        batch = list(self._next())
        if not batch:
            return 0
        self._late_ns = self._late_ns or batch[0][2]
        if self._socket is None:
            self._socket = self._connect()
            self.error = ""
            self._retry_s = RETRY_S
            logger.info("connected to the collector", host=self.settings.collector)
            for name in self._positions:
                self._positions[name] = max(0, self._sent.get(name, 0) - self.settings.resend_count)
            self._ends.clear()
            batch = list(self._next())
        if self.settings.transport == "udp":
            for *_, text in batch:
                self._socket.send(text[:DATAGRAM_BYTES_MAX])
        else:
            _check_open(self._socket)
            self._socket.sendall(b"".join(b"%d %s" % (len(text), text) for *_, text in batch))
            _wait_until_acknowledged(self._socket)
        for name, number, _, _ in batch:
            self._positions[name] = number
            self._sent[name] = max(number, self._sent.get(name, 0))
        self._count += len(batch)
        self._save()
        return len(batch)

    def _connect(self) -> socket.socket:
        settings = self.settings
        if settings.transport == "udp":
            address = (settings.collector, settings.collector_port or UDP_PORT)
            family, kind, protocol, _, place = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, kind, protocol)
            sock.connect(place)
            return sock
        context = ssl.create_default_context(cafile=settings.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
        address = (settings.collector, settings.collector_port or TLS_PORT)
        plain = socket.create_connection(address, CONNECT_S)
        try:
            sock = context.wrap_socket(plain, server_hostname=settings.collector)
        except OSError:
            plain.close()
            raise
        sock.settimeout(SEND_S)
        return sock

    def _failed(self, error: Exception) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if not self.error:
            logger.warning("the collector of audit messages cannot be reached", reason=for_log(error))
        self.error = str(error) or type(error).__name__
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
        if not self._late_ns:
            self._late_ns = time.time_ns()

    def _look(self) -> None:
        """An alert, once, when the collector is late."""
        if self.late_s < self.settings.late_alert_s:
            self._is_alarmed = self._is_alarmed and self._late_ns != 0
            return
        if not self._is_alarmed:
            self._is_alarmed = True
            detail = f"the collector has got nothing since {when(self._late_ns)}: {self.error}"
            logger.error("the collector of audit messages is late", since=when(self._late_ns), reason=self.error)
            audit.write(Event(kind=Kind.ALERT, alert=Alert.SECURITY, outcome=Outcome.SERIOUS, detail=detail))

    # -- how far ----------------------------------------------------------------------------------------

    def _load(self) -> dict[str, int]:
        try:
            content = orjson.loads((folder_of(self._data) / SENT).read_bytes())
            return {str(name): int(number) for name, number in content.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def _save(self) -> None:
        if self._sent == self._saved:
            return
        path = folder_of(self._data) / SENT
        try:
            replace_file(self._files, str(path), orjson.dumps(self._sent), is_durable=False)
            os.chmod(path, 0o600)
        except (StorageError, OSError) as error:
            logger.warning("how far audit messages were sent cannot be saved", reason=for_log(error))
            return
        self._saved = dict(self._sent)


def _check_open(sock: socket.socket) -> None:
    """Raises OSError if the collector has ended the connection: a certificate is refused after the handshake."""
    sock.setblocking(False)
    try:
        if not sock.recv(1):
            raise ConnectionResetError("the collector has closed the connection")
    except (BlockingIOError, ssl.SSLWantReadError):
        return
    finally:
        sock.settimeout(SEND_S)


def _wait_until_acknowledged(sock: socket.socket) -> None:
    """Waits until the other machine has acknowledged all bytes. Raises OSError."""
    give_up_at = time.monotonic() + SEND_S
    left = array("i", [1])
    pause = threading.Event()
    ending = select.poll()
    ending.register(sock, 0)  # errors alone: a connection that was reset keeps its unacknowledged bytes for ever
    while fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, left) or left[0]:
        if ending.poll(0):
            raise ConnectionResetError("the collector has closed the connection")
        if time.monotonic() > give_up_at:
            raise TimeoutError("the collector does not read")
        pause.wait(0.002)


def _nanoseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1e9)
