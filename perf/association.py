"""A blocking association over a loopback socket, for the loads.

It is fast because it does little: one `sendall` a request, one `recv` for an answer in one piece. Unneeded data sets
are dropped inside the kernel (MSG_TRUNC discards TCP payload without copying it).
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass

from perf import wire
from perf.harness import PerfError

TIMEOUT_S = 120.0
HANDSHAKE_S_MAX = 30.0
"""Of a connection, and of its TLS."""
PDU_LENGTH_MAX = 131072
NEGOTIATION_BYTES_MAX = 1 << 20
TLS_ALERT = 0x15
_DISCARD = socket.MSG_TRUNC | socket.MSG_WAITALL


@dataclass(frozen=True, slots=True)
class Target:
    """The server under load."""

    port: int
    called_aet: str
    host: str = "127.0.0.1"
    calling_aet: str = "PERF"
    nagle: bool = False
    """Send as most modalities do: Nagle's algorithm on, each PDU written by itself."""
    quick_acks: bool = False
    """Acknowledge answers at once: for a server with Nagle's algorithm, whose figures would otherwise include the wait
    for our delayed acknowledgement."""
    tls: ssl.SSLContext | None = None
    """Our side of TLS; None: without."""


@dataclass(frozen=True, slots=True)
class Message:
    """A received command; its data set, if it has one, is still on the socket."""

    context_id: int
    command: dict[int, bytes]

    @property
    def field(self) -> int:
        return wire.number(self.command, 0x0100)

    @property
    def status(self) -> int:
        return wire.number(self.command, 0x0900)

    @property
    def has_data_set(self) -> bool:
        return wire.number(self.command, 0x0800, wire.NO_DATA_SET) != wire.NO_DATA_SET


class Connection:
    """PDUs on a connected socket, either role."""

    _wait_all = int(socket.MSG_WAITALL)
    _discard = int(_DISCARD)

    def __init__(self, sock: socket.socket, *, nagle: bool = False, quick_acks: bool = False) -> None:
        self.sock = sock
        self.nagle = nagle
        self.quick_acks = quick_acks
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0 if nagle else 1)
        sock.settimeout(None)
        # The kernel's own timeouts keep the descriptor blocking: a Python timeout would add a poll() to each call.
        limit = struct.pack("ll", int(TIMEOUT_S), 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._scratch = memoryview(bytearray(1 << 20))
        if isinstance(sock, ssl.SSLSocket):  # it knows no flags, and has to decrypt what is then dropped
            self._wait_all = self._discard = 0
        self._pdu_left = 0
        """Bytes of the current P-DATA-TF PDU that have not been read."""
        self._other_body = b""

    def close(self) -> None:
        self.sock.close()

    def send_pdus(self, *pdus: bytes | memoryview) -> None:
        """Sends whole PDUs in one write, or, with Nagle's algorithm, in one each as modalities do."""
        if self.nagle:
            for pdu in pdus:
                self.sock.sendall(pdu)
        else:
            self.sock.sendall(b"".join(pdus) if len(pdus) > 1 else pdus[0])
        if self.quick_acks:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # until we send again

    def receive_exactly(self, length: int) -> bytes:
        data = self._receive(length)
        while len(data) < length:
            data += self._receive(length - len(data))
        return data

    def _receive(self, length: int) -> bytes:
        if not length:
            return b""
        try:
            data = self.sock.recv(length, self._wait_all)
        except BlockingIOError:
            raise PerfError(f"the peer said nothing for {TIMEOUT_S:.0f} s") from None
        if not data:
            raise PerfError("the peer closed the connection")
        return data

    def discard_exactly(self, length: int) -> None:
        while length:
            try:
                count = self.sock.recv_into(self._scratch, min(length, len(self._scratch)), self._discard)
            except BlockingIOError:
                raise PerfError(f"the peer said nothing for {TIMEOUT_S:.0f} s") from None
            if not count:
                raise PerfError("the peer closed the connection within a data set")
            length -= count

    def read_pdu(self) -> tuple[int, bytes]:
        """(type, body) of the next PDU, whole. Raises PerfError, also of bytes that are no PDU."""
        head = self.receive_exactly(6)
        if not 1 <= head[0] <= wire.ABORT or int.from_bytes(head[2:6], "big") > NEGOTIATION_BYTES_MAX:
            what = "it speaks TLS" if head[0] == TLS_ALERT else "it does not speak DICOM"
            raise PerfError(f"{what} (the answer begins with {head.hex()})")
        return head[0], self.receive_exactly(int.from_bytes(head[2:6], "big"))

    def next_pdv(self) -> tuple[int, int, int]:
        """(fragment length, presentation context ID, control) of the next PDV; (0, PDU type, -1) of another PDU."""
        if not self._pdu_left:
            head = self.receive_exactly(6)
            self._pdu_left = int.from_bytes(head[2:6], "big")
            if head[0] != wire.P_DATA_TF:
                self._other_body = self.receive_exactly(self._pdu_left)
                self._pdu_left = 0
                return 0, head[0], -1
        head = self.receive_exactly(6)
        length = int.from_bytes(head[:4], "big")
        self._pdu_left -= length + 4
        return length - 2, head[4], head[5]

    def read_message(self) -> Message | None:
        """The next command; None after the peer's release request, which is answered here."""
        payload = b""
        while True:
            length, context_id, control = self.next_pdv()
            if control < 0:
                if context_id == wire.RELEASE_RQ:
                    self.sock.sendall(wire.RELEASE_RP_PDU)
                    return None
                raise PerfError(f"PDU type {context_id} ({self._other_body.hex()}) where a command was due")
            if not control & 1:
                raise PerfError("a data fragment where a command was due")
            payload += self.receive_exactly(length)
            if control & 2:
                return Message(context_id, wire.parse_command(payload))

    def discard_data_set(self) -> int:
        """Drops the fragments up to the last one without copying them. Returns the number of their bytes."""
        total, left = 0, self._pdu_left
        while True:
            if left:
                head = self.receive_exactly(6)
            else:
                head = self.receive_exactly(12)
                if head[0] != wire.P_DATA_TF:
                    raise PerfError(f"PDU type {head[0]} within a data set")
                left = int.from_bytes(head[2:6], "big")
                head = head[6:]
            length = int.from_bytes(head[:4], "big")
            left -= length + 4
            self.discard_exactly(length - 2)
            total += length - 2
            if head[5] & 2:
                self._pdu_left = left
                return total

    def read_data_set(self) -> bytes:
        """The bytes of a whole data set: for the small ones of C-FIND."""
        payload = b""
        while True:
            length, context_id, control = self.next_pdv()
            if control < 0:
                raise PerfError(f"PDU type {context_id} within a data set")
            payload += self.receive_exactly(length)
            if control & 2:
                return payload

    def read_status(self) -> int:
        """The status of a response without a data set: one system call if it comes in one piece, as it should."""
        try:
            reply = self.sock.recv(4096)
        except BlockingIOError:
            raise PerfError(f"no answer for {TIMEOUT_S:.0f} s") from None
        if not reply:
            raise PerfError("the peer closed the connection instead of answering")
        while len(reply) < 6 or len(reply) < 6 + int.from_bytes(reply[2:6], "big"):
            reply += self._receive_some()
        if reply[0] != wire.P_DATA_TF:
            raise PerfError(f"PDU type {reply[0]} instead of an answer: {reply[6:10].hex()}")
        if len(reply) > 6 + int.from_bytes(reply[2:6], "big"):
            raise PerfError("more than one answer at once on a window of one")
        return wire.status_of(reply)

    def read_responses(self, pending: Container[int]) -> tuple[int, int, int]:
        """(pending responses, arrival of the first one in perf_counter_ns, final status); decodes nothing."""
        data, count, first_ns = b"", 0, 0
        while True:
            data += self._receive_some(1 << 18)
            statuses, used = wire.statuses(data)
            if statuses and not first_ns:
                first_ns = time.perf_counter_ns()
            data = data[used:]
            count += len(statuses)
            if statuses and statuses[-1] not in pending:
                return count - 1, first_ns, statuses[-1]

    def _receive_some(self, length: int = 4096) -> bytes:
        data = self.sock.recv(length)
        if not data:
            raise PerfError("the peer closed the connection within an answer")
        return data


def _refusal(target: Target, kind: int, body: bytes) -> str:
    """Why there is no association."""
    if kind == wire.ASSOCIATE_RJ:
        return wire.rejection_text(body, target.called_aet, target.calling_aet)
    if kind == wire.ABORT:
        return "it aborted the association request"
    return f"PDU type {kind} in place of an answer to the association request"


def tls_context(trusted: str, certificate: str, key: str) -> ssl.SSLContext:
    """A client's context; `trusted` and the others are files, or empty. Raises PerfError."""
    try:
        context = ssl.create_default_context(cafile=trusted or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise PerfError(f"the certificates cannot be read: {error}") from None
    return context


def _connected(target: Target) -> socket.socket:
    """Connects. Raises PerfError with the address."""
    where = f"{target.called_aet} at {target.host}:{target.port}"
    try:
        sock = socket.create_connection((target.host, target.port), timeout=HANDSHAKE_S_MAX)
    except OSError as error:
        raise PerfError(f"{where} cannot be reached: {error.strerror or error}") from None
    if target.tls is None:
        return sock
    try:
        return target.tls.wrap_socket(sock, server_hostname=target.host)
    except OSError as error:
        sock.close()
        raise PerfError(f"{where}: no TLS connection: {error}") from None


class Association(Connection):
    """An association that we requested."""

    def __init__(
        self,
        target: Target,
        contexts: Sequence[wire.Context],
        *,
        pdu_length_max: int = PDU_LENGTH_MAX,
        window: int = 1,
    ) -> None:
        super().__init__(_connected(target), nagle=target.nagle, quick_acks=target.quick_acks)
        self.sock.sendall(
            wire.associate_rq(target.called_aet, target.calling_aet, contexts, PDU_LENGTH_MAX, window=window)
        )
        try:
            kind, body = self.read_pdu()
            if kind != wire.ASSOCIATE_AC:
                raise PerfError(_refusal(target, kind, body))
        except PerfError as error:
            self.close()
            raise PerfError(f"{target.called_aet} at {target.host}:{target.port}: {error}") from None
        self.accepted = wire.parse_associate_ac(body)
        granted = self.accepted.window or window
        self.window = min(window, granted)
        peer_max = self.accepted.pdu_length_max or pdu_length_max
        self.pdu_length_max = min(pdu_length_max, peer_max)
        """The length of the PDUs that we send: our choice within the peer's limit."""
        missing = [c.context_id for c in contexts if c.context_id not in self.accepted.transfer_syntaxes]
        if len(missing) == len(contexts):
            self.close()
            raise PerfError(f"{target.called_aet} accepted no presentation context")

    def send_message(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        pdus = wire.frames(context_id, command, command=True, pdu_length_max=self.pdu_length_max)
        if data_set:
            pdus += wire.frames(context_id, data_set, command=False, pdu_length_max=self.pdu_length_max)
        self.send_pdus(*pdus)

    def echo(self, context_id: int) -> int:
        self.send_message(context_id, wire.echo_rq(1))
        return self.read_status()

    def release(self) -> None:
        """Releases, waits for the answer and closes; a lost connection is no error here."""
        try:
            self.sock.sendall(wire.RELEASE_RQ_PDU)
            self.read_pdu()
        except (OSError, PerfError):
            pass
        finally:
            self.close()
