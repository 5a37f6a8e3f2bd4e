"""Judges a connection to a DICOM port by its first bytes.

    A-ASSOCIATE-RQ                       complete when it is whole, or ENOUGH_BYTES of it have arrived
    TLS, HTTP, SSH                       closed without an answer, which these peers would not understand
    on the TLS port: a TLS hello         complete when its record is whole; anything else is closed
    another PDU (PS3.8 9.3.1), or none   A-ABORT, source 2, reason 2 unexpected, 1 unrecognized PDU or 6 (length)
    A-ABORT                              closed

After an A-ABORT PS3.8 waits in Sta13 for the peer to close; the caller of `judge` closes at once.
"""

from __future__ import annotations

from engine.runtime import client_hello
from engine.runtime.front import Verdict
from engine.ul import pdu
from engine.ul.fields import INVALID_PARAMETER, UNEXPECTED_PDU, UNRECOGNIZED_PDU

ENOUGH_BYTES = 16 << 10
"""Bytes of a longer A-ASSOCIATE-RQ that must have arrived; most have 1 to 8 KiB."""

_HEADER_BYTES = 6

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (client_hello.RECORD, "TLS hello"),
    (b"SSH-", "SSH banner"),
    *((method + b" ", "HTTP request") for method in (b"GET", b"PUT", b"HEAD", b"POST", b"OPTIONS", b"CONNECT")),
    *((method + b" ", "HTTP request") for method in (b"DELETE", b"PATCH", b"TRACE", b"PRI")),
)


def judge(head: bytes, request_bytes_max: int) -> Verdict:
    """Judges a connection by its first bytes, at least one."""
    for prefix, protocol in _FOREIGN:
        if head.startswith(prefix):
            return Verdict(protocol)
        if prefix.startswith(head):
            return Verdict(needed_bytes=len(head) + 1)
    kind = head[0]
    if kind == pdu.PduType.ABORT:
        return Verdict("A-ABORT")
    if kind == 0 or kind > pdu.PduType.ABORT:
        return Verdict("unknown bytes", farewell=_abort(UNRECOGNIZED_PDU))
    if kind != pdu.PduType.ASSOCIATE_RQ:
        return Verdict("an unexpected PDU", farewell=_abort(UNEXPECTED_PDU))
    if len(head) < _HEADER_BYTES:
        return Verdict(needed_bytes=_HEADER_BYTES)
    length = int.from_bytes(head[2:_HEADER_BYTES], "big")
    if length > request_bytes_max:
        return Verdict("an A-ASSOCIATE-RQ that is too long", farewell=_abort(INVALID_PARAMETER))
    request_bytes = _HEADER_BYTES + length
    if request_bytes <= ENOUGH_BYTES:
        return Verdict(is_complete=True, needed_bytes=request_bytes)
    return Verdict(is_complete=True, needed_bytes=ENOUGH_BYTES, rationed_bytes=request_bytes)


def judge_secure(head: bytes) -> Verdict:
    """The same for a connection to the TLS port."""
    is_plain = head[:1] == bytes([pdu.PduType.ASSOCIATE_RQ])
    return client_hello.judge(head) or Verdict("DICOM without TLS" if is_plain else "no TLS hello")


def _abort(reason: int) -> bytes:
    """A-ABORT (PS3.8 Table 9-26)."""
    return pdu.encode(pdu.Abort(2, reason))
