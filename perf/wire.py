"""Encodes and decodes PDUs and DIMSE commands. No sockets, nothing of the engine, no dictionary.

Frequent messages are built once. `StoreMessage` is a whole C-STORE-RQ, command and data set, framed in P-DATA-TF PDUs
of the peer's maximum length; the next instance is the same buffer with a few values overwritten.

    A-ASSOCIATE PS3.8 9.3.2 and 9.3.3, P-DATA-TF 9.3.5, commands PS3.7 9.3 and E.1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perf.corpus import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, INSTANCE_UID_BYTES, Template
from perf.harness import PerfError
from perf.population import StudyFacts

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
PDU_HEADER_BYTES, PDV_HEADER_BYTES = 6, 6

RELEASE_RQ_PDU = b"\x05\0\0\0\0\x04\0\0\0\0"
RELEASE_RP_PDU = b"\x06\0\0\0\0\x04\0\0\0\0"

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_GET_RQ, C_GET_RSP = 0x0010, 0x8010
C_FIND_RQ, C_FIND_RSP = 0x0020, 0x8020
C_MOVE_RQ, C_MOVE_RSP = 0x0021, 0x8021
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
NO_DATA_SET = 0x0101

VERIFICATION = b"1.2.840.10008.1.1"
STUDY_ROOT_FIND = b"1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = b"1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = b"1.2.840.10008.5.1.4.1.2.2.3"
PATIENT_ROOT_FIND = b"1.2.840.10008.5.1.4.1.2.1.1"

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_CLASS_UID = b"1.2.826.0.1.3680043.10.1599.9.2"

# (0000,0900) in Implicit VR Little Endian: tag, length 2.
_STATUS_TAG = b"\0\0\0\x09\x02\0\0\0"


# association -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """One proposed presentation context."""

    context_id: int
    abstract_syntax: bytes
    transfer_syntaxes: tuple[bytes, ...] = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)
    scp_role: bool = False
    """Also propose the SCP role, as a C-GET requestor must."""
    options: bytes = b""
    """SOP class extended negotiation: the service class application information."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The acceptor's parameters."""

    transfer_syntaxes: Mapping[int, bytes]
    """Accepted presentation context ID → transfer syntax."""
    pdu_length_max: int
    """The longest PDU that the peer accepts; 0: no limit."""
    window: int
    """The most outstanding operations; 0: no limit."""
    version_name: str = ""
    """Implementation Version Name (PS3.7 D.3.3.2)."""


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def _user_information(pdu_length_max: int, window: int, contexts: Sequence[Context]) -> bytes:
    value = _item(0x51, struct.pack(">I", pdu_length_max)) + _item(0x52, _IMPLEMENTATION_CLASS_UID)
    if window != 1:
        value += _item(0x53, struct.pack(">HH", window, 1))
    for context in contexts:
        named = struct.pack(">H", len(context.abstract_syntax)) + context.abstract_syntax
        if context.scp_role:
            value += _item(0x54, named + b"\x01\x01")
        if context.options:
            value += _item(0x56, named + context.options)
    return _item(0x50, value + _item(0x55, b"FILMROOM_PERF"))


def associate_rq(
    called_aet: str, calling_aet: str, contexts: Sequence[Context], pdu_length_max: int, *, window: int = 1
) -> bytes:
    items = _item(0x10, _APPLICATION_CONTEXT)
    for context in contexts:
        body = struct.pack(">BBBB", context.context_id, 0, 0, 0) + _item(0x30, context.abstract_syntax)
        body += b"".join(_item(0x40, syntax) for syntax in context.transfer_syntaxes)
        items += _item(0x20, body)
    items += _user_information(pdu_length_max, window, contexts)
    fixed = struct.pack(">HH16s16s32x", 1, 0, called_aet.encode().ljust(16), calling_aet.encode().ljust(16))
    return pdu(ASSOCIATE_RQ, fixed + items)


def _items(body: bytes, offset: int) -> list[tuple[int, bytes]]:
    found = []
    while offset + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, offset)
        found.append((kind, body[offset + 4 : offset + 4 + length]))
        offset += 4 + length
    return found


def parse_associate_ac(body: bytes) -> Accepted:
    transfer_syntaxes, pdu_length_max, window, version_name = {}, 0, 1, ""
    for kind, value in _items(body, 68):
        if kind == 0x21 and value[2] == 0:
            transfer_syntaxes[value[0]] = next((uid for sub, uid in _items(value, 4) if sub == 0x40), b"").rstrip(b"\0")
        elif kind == 0x50:
            for sub, content in _items(value, 0):
                if sub == 0x51:
                    pdu_length_max = int.from_bytes(content, "big")
                elif sub == 0x53:
                    window = int.from_bytes(content[:2], "big")
                elif sub == 0x55:
                    version_name = content.decode("ascii", "replace").strip(" \0")
    return Accepted(transfer_syntaxes, pdu_length_max, window, version_name)


# PS3.8 Table 9-21: the reasons of source 1 (service user) that a person can do something about.
_REJECTIONS = {
    (1, 3): "it does not know our AE title {calling}: register it there, or use another with --calling",
    (1, 7): "it is not called {called}: use its AE title",
    (3, 1): "it is busy (temporary congestion)",
    (3, 2): "its limit of associations is reached",
}


def rejection_text(body: bytes, called: str, calling: str) -> str:
    """The reason of an A-ASSOCIATE-RJ, from the body of its PDU (PS3.8 9.3.4)."""
    result, source, reason = body[1:4] if len(body) >= 4 else (0, 0, 0)
    known = _REJECTIONS.get((source, reason), "no reason given" if reason == 1 else "another reason")
    how = "for now" if result == 2 else "permanently"
    return f"refused {how}: {known.format(called=called, calling=calling)} (source {source}, reason {reason})"


def answer_associate_rq(body: bytes, pdu_length_max: int) -> tuple[bytes, int]:
    """Accepts everything, Explicit VR Little Endian if proposed: (A-ASSOCIATE-AC PDU, the requestor's maximum).

    Grants any window, since answers in the order of arrival need no limit.
    """
    items, peer_length_max, window = _item(0x10, _APPLICATION_CONTEXT), 0, 1
    for kind, value in _items(body, 68):
        if kind == 0x20:
            proposed = [uid for sub, uid in _items(value, 4) if sub == 0x40]
            syntax = EXPLICIT_LITTLE_ENDIAN if EXPLICIT_LITTLE_ENDIAN in proposed else proposed[0]
            items += _item(0x21, bytes((value[0], 0, 0, 0)) + _item(0x40, syntax))
        elif kind == 0x50:
            for sub, content in _items(value, 0):
                if sub == 0x51:
                    peer_length_max = int.from_bytes(content, "big")
                elif sub == 0x53:
                    window = int.from_bytes(content[:2], "big")
    items += _user_information(pdu_length_max, window, ())
    return pdu(ASSOCIATE_AC, struct.pack(">HH", 1, 0) + body[4:68] + items), peer_length_max


# commands ----------------------------------------------------------------------------------------


def command_set(elements: Sequence[tuple[int, bytes]]) -> bytes:
    """Group 0000 in Implicit VR Little Endian from (element number, value), with its group length."""
    body = b""
    for number, value in elements:
        if len(value) % 2:
            value += b"\0" if number in (0x0002, 0x0003, 0x1000, 0x1001) else b" "
        body += struct.pack("<HHI", 0, number, len(value)) + value
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def echo_rq(message_id: int) -> bytes:
    return command_set(
        [(0x0002, VERIFICATION), (0x0100, _us(C_ECHO_RQ)), (0x0110, _us(message_id)), (0x0800, _us(NO_DATA_SET))]
    )


def find_rq(sop_class_uid: bytes, message_id: int) -> bytes:
    return _query(sop_class_uid, C_FIND_RQ, message_id)


def get_rq(message_id: int) -> bytes:
    return _query(STUDY_ROOT_GET, C_GET_RQ, message_id)


def _query(sop_class_uid: bytes, command: int, message_id: int) -> bytes:
    return command_set(
        [(0x0002, sop_class_uid), (0x0100, _us(command)), (0x0110, _us(message_id)), (0x0700, _us(0)), (0x0800, _us(1))]
    )


def move_rq(message_id: int, destination: str) -> bytes:
    return command_set(
        [
            (0x0002, STUDY_ROOT_MOVE),
            (0x0100, _us(C_MOVE_RQ)),
            (0x0110, _us(message_id)),
            (0x0600, destination.encode()),
            (0x0700, _us(0)),
            (0x0800, _us(1)),
        ]
    )


def store_rq(sop_class_uid: bytes, sop_instance_uid: bytes, message_id: int) -> bytes:
    return command_set(
        [
            (0x0002, sop_class_uid),
            (0x0100, _us(C_STORE_RQ)),
            (0x0110, _us(message_id)),
            (0x0700, _us(0)),
            (0x0800, _us(1)),
            (0x1000, sop_instance_uid),
        ]
    )


def response(command: Mapping[int, bytes], status: int = 0) -> bytes:
    """The answer to a C-STORE-RQ or C-ECHO-RQ."""
    elements = [
        (0x0002, command[0x0002]),
        (0x0100, _us(int.from_bytes(command[0x0100], "little") | 0x8000)),
        (0x0120, command[0x0110]),
        (0x0800, _us(NO_DATA_SET)),
        (0x0900, _us(status)),
    ]
    if 0x1000 in command:
        elements.append((0x1000, command[0x1000]))
    return command_set(elements)


def parse_command(data: bytes) -> dict[int, bytes]:
    """Element number of group 0000 → value."""
    found, offset = {}, 0
    while offset + 8 <= len(data):
        _, number, length = struct.unpack_from("<HHI", data, offset)
        found[number] = data[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return found


def number(command: Mapping[int, bytes], element: int, absent: int = -1) -> int:
    return int.from_bytes(command[element], "little") if element in command else absent


def status_of(reply: bytes) -> int:
    """The Status of a response that is one whole PDU."""
    at = reply.rfind(_STATUS_TAG)  # from the end: a Message ID may look like this tag, the UID after it cannot
    if at < 0:
        raise PerfError(f"an answer without a status: {reply[:64].hex()}")
    return reply[at + 8] | reply[at + 9] << 8


# identifiers -------------------------------------------------------------------------------------


def statuses(data: bytes) -> tuple[list[int], int]:
    """The statuses of the responses whose whole PDUs are in `data`, and the bytes of those.

    For streams of small responses: handles only commands in one fragment, which is the usual form.
    """
    found, at, end = [], 0, len(data)
    while end - at >= 12:
        after = at + 6 + int.from_bytes(data[at + 2 : at + 6], "big")
        if after > end:
            break
        if data[at] != P_DATA_TF:
            raise PerfError(f"PDU type {data[at]} among responses")
        while at + 6 < after:
            pdv_end = at + 10 + int.from_bytes(data[at + 6 : at + 10], "big")
            if data[at + 11] & 1:
                where = data.index(_STATUS_TAG, at, pdv_end) + len(_STATUS_TAG)
                found.append(int.from_bytes(data[where : where + 2], "little"))
            at = pdv_end - 6
        at = after
    return found, at


def identifier(keys: Mapping[int, bytes], transfer_syntax: bytes, vr_of: Mapping[int, bytes]) -> bytes:
    """A C-FIND, C-MOVE or C-GET identifier in one of the two little endian syntaxes."""
    out = b""
    for tag in sorted(keys):
        vr, value = vr_of[tag], keys[tag]
        if len(value) % 2:
            value += b"\0" if vr == b"UI" else b" "
        out += struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        explicit = transfer_syntax == EXPLICIT_LITTLE_ENDIAN
        out += struct.pack("<2sH", vr, len(value)) if explicit else struct.pack("<I", len(value))
        out += value
    return out


# framing -----------------------------------------------------------------------------------------


def frame(context_id: int, payload: bytes, *, command: bool, pdu_length_max: int) -> bytes:
    """`payload` as P-DATA-TF PDUs of one PDV each."""
    return b"".join(frames(context_id, payload, command=command, pdu_length_max=pdu_length_max))


def frames(context_id: int, payload: bytes, *, command: bool, pdu_length_max: int) -> list[bytes]:
    """The same, PDU by PDU."""
    room = fragment_bytes(pdu_length_max)
    out: list[bytes] = []
    offset = 0
    while True:
        piece = payload[offset : offset + room]
        offset += len(piece)
        last = offset >= len(payload)
        control = (1 if command else 0) | (2 if last else 0)
        out.append(struct.pack(">BBIIBB", P_DATA_TF, 0, len(piece) + 6, len(piece) + 2, context_id, control) + piece)
        if last:
            return out


def fragment_bytes(pdu_length_max: int) -> int:
    """The longest even fragment in a PDU of this length; an unlimited peer gets 128 KiB PDUs."""
    return ((pdu_length_max or 131072) - PDV_HEADER_BYTES) & ~1


class StoreMessage:
    """A framed C-STORE-RQ whose instance, series and study are overwritten in place."""

    def __init__(self, template: Template, context_id: int, pdu_length_max: int) -> None:
        command = store_rq(template.sop_class_uid, b"0" * INSTANCE_UID_BYTES, 0)
        framed_command = frame(context_id, command, command=True, pdu_length_max=pdu_length_max)
        framed_data = frame(context_id, template.data_set, command=False, pdu_length_max=pdu_length_max)
        self.buffer = bytearray(framed_command + framed_data)
        self.data_set_bytes = len(template.data_set)
        self.context_id = context_id
        self._framed_command_bytes = len(framed_command)
        self._fragment_bytes = fragment_bytes(pdu_length_max)
        self._message_id = framed_command.index(b"\0\0\x10\x01\x02\0\0\0") + 8
        self._command_uid = framed_command.index(b"0" * INSTANCE_UID_BYTES)
        room, base = fragment_bytes(pdu_length_max), len(framed_command)
        self._at: dict[str, tuple[int, int]] = {}
        for key, (offset, length) in template.offsets.items():
            if offset // room != (offset + length - 1) // room:
                raise PerfError(f"maximum PDU length {pdu_length_max} cuts {key} in two; choose another")
            headers = (offset // room + 1) * (PDU_HEADER_BYTES + PDV_HEADER_BYTES)
            self._at[key] = (base + headers + offset, length)
        self._instance_uid_at = self._at["sop_instance_uid"][0]
        self._instance_number_at = self._at["instance_number"][0]

    def set_study(self, facts: StudyFacts) -> None:
        self._put("study_date", facts.study_date)
        self._put("study_time", facts.study_time)
        self._put("accession_number", facts.accession_number)
        self._put("referring_physician", facts.referring_physician)
        self._put("institution", facts.institution)
        self._put("department", facts.department)
        self._put("description", facts.description)
        self._put("patient_name", facts.patient_name)
        self._put("patient_id", facts.patient_id)
        self._put("birth_date", facts.birth_date)
        self._put("sex", facts.sex)
        self._put("study_id", facts.study_id)
        self._put("study_uid", facts.study_uid)

    def set_series(self, series_uid: bytes, series_number: int) -> None:
        self._series_uid = series_uid
        self._put("series_uid", series_uid)
        self._put("series_number", b"%d" % series_number)

    def set_instance(self, instance: int, message_id: int) -> None:
        buffer = self.buffer
        uid = b"%s.1%06d" % (self._series_uid, instance)
        buffer[self._command_uid : self._command_uid + INSTANCE_UID_BYTES] = uid
        buffer[self._instance_uid_at : self._instance_uid_at + INSTANCE_UID_BYTES] = uid
        buffer[self._instance_number_at : self._instance_number_at + 8] = b"%-8d" % instance
        buffer[self._message_id] = message_id & 0xFF
        buffer[self._message_id + 1] = message_id >> 8 & 0xFF

    def pdus(self) -> list[memoryview]:
        """The buffer's PDUs: views, which show later overwrites too."""
        whole, at, found = memoryview(self.buffer), 0, []
        while at < len(whole):
            end = at + PDU_HEADER_BYTES + int.from_bytes(whole[at + 2 : at + 6], "big")
            found.append(whole[at:end])
            at = end
        return found

    def data_set(self) -> bytes:
        """The current data set without its framing, for use without a network."""
        step, headers = self._fragment_bytes, PDU_HEADER_BYTES + PDV_HEADER_BYTES
        framed = memoryview(self.buffer)[self._framed_command_bytes :]
        return b"".join(
            framed[start + headers : start + headers + step] for start in range(0, len(framed), step + headers)
        )

    def _put(self, key: str, value: bytes) -> None:
        at, length = self._at[key]
        self.buffer[at : at + length] = value[:length].ljust(length)
