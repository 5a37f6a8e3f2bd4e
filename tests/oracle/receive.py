"""The receiving side of an association, slow and obvious: the judge of _ext.receive.

Takes the whole stream at once and walks it as PS3.8 9.3.1 and 9.3.5 describe it. A data set is handed over in parts
when a byte comes for which a part has no room; a part is so many whole chunks that they hold at least `part_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Event = tuple[object, ...]

PDU, COMMAND, DATA_SET, PART, ERROR, EARLY = "pdu", "command", "data set", "part", "error", "early"


@dataclass(frozen=True)
class Limits:
    """Bytes."""

    chunk: int = 4096
    part: int = 1 << 40
    p_data: int = 1 << 24
    control: int = 1 << 20
    command: int = 1 << 16
    pdvs: int = 1 << 15
    """PDV items of a P-DATA-TF."""


@dataclass
class _Context:
    command: bytearray | None = None
    data: bytearray | None = None
    """What has come of a data set; None when none is due."""
    handed_over: int = 0
    """Bytes of it that went out in parts."""


@dataclass
class Received:
    """What a stream brings."""

    events: list[Event] = field(default_factory=list)
    mid_message: bool = False
    """Whether it ends inside something, or is broken."""


class _Ends(Exception):
    """The stream has no more bytes."""


class _Broken(Exception):
    """The rest of the stream means nothing."""


def receive(stream: bytes, limits: Limits, *, data_allowed: bool = True) -> Received:
    """Data sets are (kind, context, bytes, offset); errors are (kind, A-ABORT reason)."""
    return _Walk(stream, limits, data_allowed).run()


class _Walk:
    def __init__(self, stream: bytes, limits: Limits, data_allowed: bool) -> None:
        self.stream = stream
        self.limits = limits
        self.data_allowed = data_allowed
        self.at = 0
        self.contexts: dict[int, _Context] = {}
        self.received = Received()

    def run(self) -> Received:
        complete_at = 0
        try:
            while True:
                complete_at = self.at
                self.pdu()
        except _Ends:
            self.received.mid_message = complete_at < len(self.stream) or any(
                context.command is not None or context.data is not None for context in self.contexts.values()
            )
        except _Broken:
            self.received.mid_message = True
        return self.received

    def tell(self, *event: object) -> None:
        self.received.events.append(event)

    def broken(self, reason: int) -> None:
        self.tell(ERROR, reason)
        raise _Broken

    def take(self, count: int) -> bytes:
        if len(self.stream) - self.at < count:
            raise _Ends
        self.at += count
        return self.stream[self.at - count : self.at]

    def pdu(self) -> None:
        header = self.take(6)
        pdu_type, length = header[0], int.from_bytes(header[2:], "big")
        if pdu_type == 4:
            if not self.data_allowed:
                self.tell(EARLY)
                raise _Broken
            if length > self.limits.p_data:
                self.broken(6)
            left, pdvs = length, 0
            while left:
                pdvs += 1
                left -= self.pdv(left, pdvs)
        elif not 1 <= pdu_type <= 7:
            self.broken(1)
        elif length > self.limits.control:
            self.broken(6)
        else:
            self.tell(PDU, pdu_type, self.take(length))

    def pdv(self, left: int, number: int) -> int:
        """One PDV item in the last `left` bytes of a PDU; its length with its header."""
        if left < 6:
            self.broken(6)
        header = self.take(6)
        length, context_id, control = int.from_bytes(header[:4], "big"), header[4], header[5]
        if length < 2 or length + 4 > left or context_id % 2 == 0 or number > self.limits.pdvs:
            self.broken(6)
        context = self.contexts.setdefault(context_id, _Context())
        is_command, is_last = bool(control & 1), bool(control & 2)
        if is_command == (context.data is not None):
            self.broken(5)
        if is_command and context.command is None:
            context.command = bytearray()
        for _ in range(length - 2):
            byte = self.take(1)
            if is_command:
                self.command_byte(context, byte)
            else:
                self.data_byte(context_id, context, byte)
        if is_last and is_command:
            command, context.command = bytes(context.command or b""), None
            context.data = bytearray() if announces_data_set(command) else None
            context.handed_over = 0
            self.tell(COMMAND, context_id, command, context.data is not None)
        elif is_last:
            self.tell(DATA_SET, context_id, bytes(context.data or b""), context.handed_over)
            context.data = None
        return length + 4

    def command_byte(self, context: _Context, byte: bytes) -> None:
        assert context.command is not None
        if len(context.command) == self.limits.command:
            self.broken(6)
        context.command += byte

    def data_byte(self, context_id: int, context: _Context, byte: bytes) -> None:
        assert context.data is not None
        chunks = -(-self.limits.part // self.limits.chunk)
        if len(context.data) == chunks * self.limits.chunk:
            self.tell(PART, context_id, bytes(context.data), context.handed_over)
            context.handed_over += len(context.data)
            context.data.clear()
        context.data += byte


def announces_data_set(command: bytes) -> bool:
    """Command Data Set Type (0000,0800) is there and not 0101H (PS3.7 E.1)."""
    at = 0
    while len(command) - at >= 8:
        tag, length = command[at : at + 4], int.from_bytes(command[at + 4 : at + 8], "little")
        value = command[at + 8 : at + 8 + length]
        if tag == b"\0\0\0\x08":
            return length >= 2 and len(value) >= 2 and value[:2] != b"\x01\x01"
        at += 8 + length
    return False
