"""Judges the first bytes of a connection to a port of TLS: a ClientHello in a record (RFC 8446 5.1).

16                 content type handshake
03 01..04          version of the record
length, 2 bytes    up to HELLO_BYTES_MAX: until so many have arrived, the supervisor keeps the connection
"""

from __future__ import annotations

from engine.runtime.front import Verdict

RECORD = b"\x16\x03"
"""Content type handshake, and the version's first byte."""

HELLO_BYTES_MAX = 16 << 10
"""Bytes of a record (RFC 8446 5.1)."""

_HEADER_BYTES = 5


def judge(head: bytes) -> Verdict | None:
    """Complete when the whole record has arrived; None: this is not TLS."""
    if not RECORD.startswith(head[:2]):
        return None
    if len(head) < _HEADER_BYTES:
        return Verdict(needed_bytes=_HEADER_BYTES)
    length = int.from_bytes(head[3:_HEADER_BYTES], "big")
    if not 0 < length <= HELLO_BYTES_MAX:
        return Verdict("a TLS hello of a wrong length")
    return Verdict(is_complete=True, needed_bytes=_HEADER_BYTES + length)
