"""What a connection to the HTTP port is, by its first bytes.

HTTP port     a method's first letters        complete
HTTPS port    a TLS hello                     complete; plain HTTP is told so, in plain HTTP
both          a DICOM association, anything   closed; where HTTP is understood, 400 first
"""

from __future__ import annotations

from engine.runtime.front import Verdict

NEEDED_BYTES = 16
"""What must have come of a request: the shortest one has 18. Whoever sends less is kept by the supervisor."""

_TLS_HELLO = b"\x16\x03"
_ASSOCIATE_RQ = b"\x01\x00"
_TOKEN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-")


def judge(head: bytes, *, is_tls: bool) -> Verdict:
    """What a connection is that begins with these bytes, at least one."""
    if _TLS_HELLO.startswith(head[:2]):
        if len(head) < 2:
            return Verdict(needed_bytes=2)
        return Verdict(is_complete=True, needed_bytes=2) if is_tls else Verdict("TLS hello")
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
