"""Judges a connection to the HTTP port by its first bytes.

HTTP port     a method's first letters           complete
HTTPS port    a TLS hello                        complete when it is whole; plain HTTP is answered with 400
both          a DICOM association, other bytes   closed; if the client may understand HTTP, after 400
"""

from __future__ import annotations

from engine.runtime import client_hello
from engine.runtime.front import Verdict

NEEDED_BYTES = 16
"""Bytes of a request that must have arrived: the shortest one has 18. Until then the supervisor keeps it."""

_ASSOCIATE_RQ = b"\x01\x00"
_TOKEN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-")


def judge(head: bytes, *, is_tls: bool) -> Verdict:
    """Judges a connection by its first bytes, at least one."""
    if (hello := client_hello.judge(head)) is not None:
        return hello if is_tls or not hello.is_complete else Verdict("TLS hello")
    if head.startswith(_ASSOCIATE_RQ):
        return Verdict("a DICOM association request")
    method = head.lstrip(b"\r\n").partition(b" ")[0]
    if not all(letter in _TOKEN for letter in method) or (len(head.lstrip(b"\r\n")) == 0 and len(head) > 4):
        return Verdict("unknown bytes", farewell=_bad_request("this port speaks HTTP"))
    if is_tls:
        return Verdict("plain HTTP", farewell=_bad_request("this port speaks HTTPS"))
    return Verdict(is_complete=True, needed_bytes=NEEDED_BYTES)


def _bad_request(detail: str) -> bytes:
    body = detail.encode() + b"\n"
    return (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
