"""A scripted DICOM peer on a plain blocking socket: send, expect, wait, cut.

Builds and reads its bytes with `struct` alone: it checks the engine independently, and can send messages that no
library would. `Peer` calls a server; a server calls `Listener`. Every wait has a limit, and a failure shows what came
instead of the expected message.

    P-DATA-TF   04 | 00 | length (4) | PDV …            PDV   length (4) | context id | control: 1 command, 2 last | …
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

C_STORE_RQ, C_GET_RQ, C_FIND_RQ, C_MOVE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

# Elements of group 0000 by the names used here.
GROUP_LENGTH, SOP_CLASS, COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
MOVE_DESTINATION, PRIORITY, DATA_SET_TYPE, STATUS, SOP_INSTANCE = 0x0600, 0x0700, 0x0800, 0x0900, 0x1000
ERROR_COMMENT = 0x0902
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023
ORIGINATOR_TITLE, ORIGINATOR_ID = 0x1030, 0x1031

Context = tuple[int, str, Sequence[str]]
"""Presentation context id, abstract syntax, transfer syntaxes."""


# Bytes -------------------------------------------------------------------------------------------


def pdu(pdu_type: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A PDU; `length` overrides the length in its header."""
    return struct.pack(">BBI", pdu_type, 0, len(body) if length is None else length) + body


def item(item_type: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BBH", item_type, 0, len(body)) + body


def associate_rq(
    contexts: Iterable[Context],
    *,
    called: str | bytes = "FILMROOM",
    calling: str | bytes = "SCRIPT",
    maximum_length: int = 16384,
    user_items: bytes = b"",
    application_context: str = APPLICATION_CONTEXT,
    protocol_version: int = 1,
    relational: bool = True,
) -> bytes:
    """An A-ASSOCIATE-RQ; `user_items` are further sub-items of the user information.

    `relational`: where C-FIND is proposed, queries that need no unique keys of the levels above are negotiated.
    """
    contexts = list(contexts)
    if relational and any(abstract_syntax == STUDY_ROOT_FIND for _, abstract_syntax, _ in contexts):
        user_items = extended_negotiation(STUDY_ROOT_FIND, b"\1") + user_items
    body = struct.pack(">HH", protocol_version, 0)
    for title in (called, calling):
        body += (title.encode() if isinstance(title, str) else title).ljust(16)
    body += bytes(32)
    body += item(0x10, application_context.encode())
    for context_id, abstract_syntax, transfer_syntaxes in contexts:
        inner = bytes([context_id, 0, 0, 0]) + item(0x30, abstract_syntax.encode())
        body += item(0x20, inner + b"".join(item(0x40, uid.encode()) for uid in transfer_syntaxes))
    user = item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.826.0.1.3680043.10.1599.98")
    return pdu(ASSOCIATE_RQ, body + item(0x50, user + user_items))


def asynchronous_window(invoked: int, performed: int) -> bytes:
    """The sub-item of PS3.7 D.3.3.3."""
    return item(0x53, struct.pack(">HH", invoked, performed))


def role(sop_class_uid: str, *, scu: bool, scp: bool) -> bytes:
    """The sub-item of PS3.7 D.3.3.4."""
    uid = sop_class_uid.encode()
    return item(0x54, struct.pack(">H", len(uid)) + uid + bytes([scu, scp]))


def extended_negotiation(sop_class_uid: str, application_information: bytes) -> bytes:
    """The sub-item of PS3.7 D.3.3.5."""
    uid = sop_class_uid.encode()
    return item(0x56, struct.pack(">H", len(uid)) + uid + application_information)


def pdv(context_id: int, fragment: bytes, *, command: bool, last: bool) -> bytes:
    """One presentation data value."""
    return struct.pack(">IBB", len(fragment) + 2, context_id, command | last << 1) + fragment


def p_data(*values: bytes) -> bytes:
    """A P-DATA-TF of these presentation data values."""
    return pdu(P_DATA, b"".join(values))


def fragments(context_id: int, data: bytes, *, command: bool, fragment: int = 16378) -> list[bytes]:
    """P-DATA-TF with one fragment each."""
    starts = range(0, max(len(data), 1), fragment)
    return [
        p_data(pdv(context_id, data[at : at + fragment], command=command, last=at + fragment >= len(data)))
        for at in starts
    ]


def message(context_id: int, command: bytes, data_set: bytes | None = None, *, fragment: int = 16378) -> bytes:
    """A whole message."""
    return b"".join(message_pdus(context_id, command, data_set, fragment=fragment))


def message_pdus(context_id: int, command: bytes, data_set: bytes | None, *, fragment: int = 16378) -> list[bytes]:
    """A whole message, PDU by PDU."""
    parts = fragments(context_id, command, command=True, fragment=fragment)
    if data_set is not None:
        parts += fragments(context_id, data_set, command=False, fragment=fragment)
    return parts


def command_set(elements: Mapping[int, int | str | bytes]) -> bytes:
    """A command set; numbers are US, text is padded with NUL. The group length is added."""
    body = b""
    for element, value in sorted(elements.items()):
        if isinstance(value, int):
            raw = struct.pack("<H", value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            raw += b"\0" * (len(raw) % 2)
        body += struct.pack("<HHI", 0, element, len(raw)) + raw
    return struct.pack("<HHII", 0, GROUP_LENGTH, 4, len(body)) + body


def c_echo_rq(message_id: int = 1) -> bytes:
    """C-ECHO-RQ."""
    return command_set(
        {SOP_CLASS: VERIFICATION, COMMAND_FIELD: C_ECHO_RQ, MESSAGE_ID: message_id, DATA_SET_TYPE: NO_DATA_SET}
    )


def c_store_rq(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """C-STORE-RQ."""
    return command_set(
        {
            SOP_CLASS: sop_class_uid,
            COMMAND_FIELD: C_STORE_RQ,
            MESSAGE_ID: message_id,
            PRIORITY: 0,
            DATA_SET_TYPE: 1,
            SOP_INSTANCE: sop_instance_uid,
        }
    )


def query_rq(command_field: int, message_id: int, sop_class_uid: str, destination: str | bytes = "") -> bytes:
    """C-FIND-RQ, C-GET-RQ or C-MOVE-RQ."""
    elements: dict[int, int | str | bytes] = {
        SOP_CLASS: sop_class_uid,
        COMMAND_FIELD: command_field,
        MESSAGE_ID: message_id,
        PRIORITY: 0,
        DATA_SET_TYPE: 1,
    }
    if command_field == C_MOVE_RQ:
        title = destination.encode() if isinstance(destination, str) else destination
        elements[MOVE_DESTINATION] = title + b" " * (len(title) % 2)
    return command_set(elements)


def c_cancel_rq(message_id: int) -> bytes:
    """C-CANCEL-RQ."""
    return command_set({COMMAND_FIELD: C_CANCEL_RQ, RESPONDED_TO: message_id, DATA_SET_TYPE: NO_DATA_SET})


def c_store_rsp(rq: Mapping[int, bytes], status: int = 0) -> bytes:
    """The answer to a received C-STORE-RQ."""
    return command_set(
        {
            SOP_CLASS: rq[SOP_CLASS],
            COMMAND_FIELD: C_STORE_RQ | RESPONSE,
            RESPONDED_TO: number(rq, MESSAGE_ID),
            DATA_SET_TYPE: NO_DATA_SET,
            STATUS: status,
            SOP_INSTANCE: rq[SOP_INSTANCE],
        }
    )


def decode_command(data: bytes) -> dict[int, bytes]:
    """Element number → value, unchanged."""
    values: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        group, element, length = struct.unpack_from("<HHI", data, at)
        assert group == 0, f"group {group:04X} in a command set"
        values[element] = data[at + 8 : at + 8 + length]
        at += 8 + length
    assert at == len(data), "the command set ends inside an element"
    assert struct.unpack("<I", values[GROUP_LENGTH])[0] == len(data) - 12, "wrong group length"
    return values


def number(command: Mapping[int, bytes], element: int) -> int:
    """A US value of a command."""
    value: int = struct.unpack("<H", command[element])[0]
    return value


def text(command: Mapping[int, bytes], element: int) -> str:
    """A UID or title of a command."""
    return command[element].rstrip(b"\0 ").decode()


def identifier(values: Mapping[int, str | bytes], *, explicit: bool = False) -> bytes:
    """An identifier, Implicit VR Little Endian, or Explicit with VR UI, CS or LO; values are padded with spaces."""
    out = b""
    for tag, value in sorted(values.items()):
        raw = value.encode() if isinstance(value, str) else value
        raw += (b"\0" if raw[:2] == b"1." else b" ") * (len(raw) % 2)
        out += struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        vr = b"UI" if tag in (0x0020000D, 0x0020000E, 0x00080018) else b"CS" if tag == 0x00080052 else b"LO"
        out += struct.pack("<2sH", vr, len(raw)) if explicit else struct.pack("<I", len(raw))
        out += raw
    return out


# The peer ----------------------------------------------------------------------------------------


class Closed(AssertionError):
    """The other side closed the connection while the script waited for a message."""


@dataclass
class Message:
    """A received message."""

    context_id: int
    command: dict[int, bytes]
    data_set: bytes | None = None

    def status(self) -> int:
        """The status of a response."""
        return number(self.command, STATUS)

    def responded_to(self) -> int:
        """The Message ID of the request that a response answers."""
        return number(self.command, RESPONDED_TO)


@dataclass
class Negotiated:
    """The parts of an A-ASSOCIATE-AC that scripts use."""

    contexts: dict[int, tuple[int, str]]
    """Presentation context id → result and transfer syntax."""
    maximum_length: int
    titles: bytes
    user_items: list[tuple[int, bytes]] = field(default_factory=list)

    def user_item(self, item_type: int) -> bytes | None:
        """A sub-item of the user information."""
        return next((body for found, body in self.user_items if found == item_type), None)


class Peer:
    """One connection; calls the server, or was accepted by a `Listener`."""

    def __init__(self, port: int, *, timeout_s: float = 60.0, sock: socket.socket | None = None) -> None:
        self.socket = sock or socket.create_connection(("127.0.0.1", port), timeout_s)
        self.socket.settimeout(timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.longest_p_data = 0
        """Bytes of the longest P-DATA-TF received, without its header."""
        self._buffer = bytearray()
        self._pending: list[tuple[int, int, bytes]] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    # send

    def send(self, data: bytes, *, pieces: int = 0) -> None:
        """Sends bytes, with `pieces` in separate writes of that length."""
        if not pieces:
            self.socket.sendall(data)
            return
        for at in range(0, len(data), pieces):
            self.socket.sendall(data[at : at + pieces])

    def send_until_closed(self, data: bytes) -> None:
        """Sends bytes to a peer that may close in the middle of them."""
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    # expect

    def receive(self) -> tuple[int, bytes] | None:
        """The next PDU; None if the other side has closed."""
        header = self._take(6)
        if header is None:
            return None
        pdu_type, _, length = struct.unpack(">BBI", header)
        if pdu_type == P_DATA:
            self.longest_p_data = max(self.longest_p_data, length)
        body = self._take(length)
        assert body is not None, f"closed inside a PDU of type {pdu_type:02X}"
        return pdu_type, body

    def next_type(self) -> int | None:
        """The type of the next PDU, which stays unread; None if the other side has closed."""
        header = self._take(6)
        if header is not None:
            self._buffer[:0] = header
        return None if header is None else header[0]

    def expect(self, pdu_type: int) -> bytes:
        """The body of the next PDU, which must have that type."""
        received = self.receive()
        if received is None:
            raise Closed(f"closed instead of a PDU of type {pdu_type:02X}")
        assert received[0] == pdu_type, f"PDU type {received[0]:02X} {received[1][:40].hex()} instead of {pdu_type:02X}"
        return received[1]

    def expect_abort(self) -> tuple[int, int]:
        """Source and reason of the next PDU, an A-ABORT."""
        body = self.expect(ABORT)
        return body[2], body[3]

    def expect_reject(self) -> tuple[int, int, int]:
        """Result, source and reason of the next PDU, an A-ASSOCIATE-RJ."""
        body = self.expect(ASSOCIATE_RJ)
        return body[1], body[2], body[3]

    def expect_closed(self) -> None:
        """Checks that the other side sends nothing more and closes (or resets)."""
        received = self.receive()
        assert received is None, f"PDU type {received[0]:02X} {received[1][:40].hex()} instead of an end"

    def last_word(self) -> int | None:
        """The type of the next PDU, after which this side closes; None if the other side closes without one."""
        received = self.receive()
        self.socket.close()
        return None if received is None else received[0]

    def wait_closed(self) -> list[int]:
        """Reads until the other side closes; the types of the received PDUs."""
        types = []
        while (received := self.receive()) is not None:
            types.append(received[0])
        return types

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the other side closes, or sends its last PDU, within that time."""
        self.socket.settimeout(seconds)
        try:
            return self.receive() is None or self.wait_closed() is not None
        except TimeoutError:
            return False

    def socket_has_more(self, seconds: float) -> bool:
        """Whether bytes come within that time; they stay unread."""
        return bool(self._pending or self._buffer or select.select([self.socket], [], [], seconds)[0])

    def expect_message(self) -> Message:
        """The next message, with its data set if it has one."""
        context_id, command = self._gather(is_command=True)
        received = Message(context_id, decode_command(command))
        if number(received.command, DATA_SET_TYPE) != NO_DATA_SET:
            data_context_id, received.data_set = self._gather(is_command=False)
            assert data_context_id == context_id
        return received

    def expect_command(self) -> dict[int, bytes]:
        """The next message's command; its data set stays unread."""
        return decode_command(self._gather(is_command=True)[1])

    def expect_data_set(self) -> bytes:
        """The data set after `expect_command`."""
        return self._gather(is_command=False)[1]

    def read_ahead(self, count: int) -> None:
        """Takes that number of bytes from the socket, for later."""
        while count:
            received = self.socket.recv(min(count, 1 << 16))
            if not received:
                raise Closed("closed by the other side")
            self._buffer += received
            count -= len(received)

    # associations

    def associate(self, *contexts: Context, **options: object) -> Negotiated:
        """Requests an association; the other side must accept it."""
        self.send(associate_rq(contexts, **options))  # type: ignore[arg-type]
        return decode_associate_ac(self.expect(ASSOCIATE_AC))

    def accept(
        self, *, maximum_length: int = 16384, transfer_syntaxes: Sequence[str] = (), user_items: bytes = b""
    ) -> dict[int, tuple[str, str]]:
        """Answers an A-ASSOCIATE-RQ; accepts each context with its first transfer syntax (of those given).

        Context id → abstract syntax and transfer syntax of those accepted.
        """
        body = self.expect(ASSOCIATE_RQ)
        answer, accepted = body[:68] + item(0x10, APPLICATION_CONTEXT.encode()), {}
        for kind, content in _items(body[68:]):
            if kind != 0x20:
                continue
            syntaxes = [value.decode() for found, value in _items(content[4:]) if found == 0x40]
            abstract = next(value.decode() for found, value in _items(content[4:]) if found == 0x30)
            taken = next((uid for uid in syntaxes if not transfer_syntaxes or uid in transfer_syntaxes), None)
            result = bytes([content[0], 0, 0 if taken else 4, 0])
            answer += item(0x21, result + item(0x40, (taken or syntaxes[0]).encode()))
            if taken:
                accepted[content[0]] = (abstract, taken)
        user = item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.826.0.1.3680043.10.1599.98")
        self.send(pdu(ASSOCIATE_AC, answer + item(0x50, user + user_items)))
        return accepted

    def echo(self, context_id: int = 1) -> None:
        """A C-ECHO that must succeed."""
        self.send(message(context_id, c_echo_rq(7)))
        answer = self.expect_message()
        assert number(answer.command, COMMAND_FIELD) == C_ECHO_RQ | RESPONSE
        assert answer.status() == 0

    def release(self) -> None:
        """Releases the association."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        self.expect(RELEASE_RP)
        self.socket.close()

    # cut

    def cut(self) -> None:
        """Resets the connection, like a pulled cable."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Closes in the ordinary way."""
        self.socket.close()

    # inside

    def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                received = self.socket.recv(1 << 16)
            except ConnectionError:
                received = b""
            if not received:
                return None
            self._buffer += received
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _gather(self, *, is_command: bool) -> tuple[int, bytes]:
        parts: list[bytes] = []
        while True:
            while not self._pending:
                self._pending = list(_values(self.expect(P_DATA)))
            context_id, control, fragment = self._pending.pop(0)
            assert bool(control & 1) == is_command, "a fragment of the wrong kind"
            parts.append(fragment)
            if control & 2:
                return context_id, b"".join(parts)


class Listener:
    """A listening socket for the associations that a server opens."""

    def __init__(self, *, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(timeout_s)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def receive_little(self) -> None:
        """From now on the kernel buffers little unread data for new connections."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)

    def close(self) -> None:
        """Accepts no more; a caller that waits in `accept` gets an OSError."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def accept(self) -> Peer:
        """The next connection."""
        sock, _ = self._socket.accept()
        return Peer(0, timeout_s=self._timeout_s, sock=sock)


def decode_associate_ac(body: bytes) -> Negotiated:
    """Parses an A-ASSOCIATE-AC."""
    contexts: dict[int, tuple[int, str]] = {}
    maximum_length, user_items = 0, []
    for kind, content in _items(body[68:]):
        if kind == 0x21:
            syntax = next((value.decode() for found, value in _items(content[4:]) if found == 0x40), "")
            contexts[content[0]] = (content[2], syntax)
        elif kind == 0x50:
            user_items = list(_items(content))
            maximum_length = next(struct.unpack(">I", value)[0] for found, value in user_items if found == 0x51)
    return Negotiated(contexts, maximum_length, body[4:68], user_items)


def _items(data: bytes) -> Iterable[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, _, length = struct.unpack_from(">BBH", data, at)
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length
    assert at == len(data), "the items do not fill their PDU"


def _values(body: bytes) -> Iterable[tuple[int, int, bytes]]:
    at = 0
    while at < len(body):
        length, context_id, control = struct.unpack_from(">IBB", body, at)
        assert length >= 2, "a PDV without a header"
        yield context_id, control, body[at + 6 : at + 4 + length]
        at += 4 + length
    assert at == len(body), "the PDVs do not fill their PDU"
