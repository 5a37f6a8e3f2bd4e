"""The documents in a report (ORU): what the OBX segments of one OBR carry.

    OBX-2 ED     source ^ type ^ subtype ^ encoding ^ data      PDF or CDA; the bytes say which, not the type
    OBX-2 TX FT ST     all lines of all of them are one text

CDA comes as XML, or in a MIME package whose first part with XML it is. What is neither is left out, with a warning.

The package is taken apart here: the parser of the library compares each line with the boundaries of all parts around
it, and recurses as deep as a sender likes.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Iterable
from email.parser import BytesHeaderParser
from typing import Literal

from engine.dicom.document import Document
from engine.hl7 import moment
from engine.hl7.message import Segment, Value

_TEXTS = ("TX", "FT", "ST")
PLAIN_CHARACTERS_MAX = 4 << 20
"""Of a document that is neither Base64 nor hexadecimal: all of it may be escapes."""
HEAD_BYTES_MAX = 8 << 10
PARTS_MAX = 20
DEPTH_MAX = 3
"""Of a MIME package: the headers of a part, its parts, packages in packages."""

_BLANK_LINE = re.compile(rb"(\r?\n\r?\n)")


def documents_of(segments: Iterable[Segment]) -> tuple[list[Document], list[str]]:
    """The documents of one report, and warnings about what is none."""
    found: list[Document] = []
    warnings: list[str] = []
    lines: list[str] = []
    title, date, time = "", "", ""
    for segment in segments:
        if segment.name == "OBR":
            title = segment.text(4, 2) or segment.text(4)
            date, time = _moment(segment)
        if segment.name != "OBX":
            continue
        kind = segment.text(2).upper()
        if kind == "ED":
            data = _data(segment.value(5))
            name = _kind(data)
            if name is None:
                warnings.append("a document in OBX-5 is neither PDF nor CDA")
                continue
            found.append(Document(name, data, title or segment.text(3, 2), date, time))
        elif kind in _TEXTS:
            lines += [value.whole() for value in segment.repetitions(5)]
    if any(line.strip() for line in lines):
        found.append(Document("text", "\n".join(lines).encode(), title, date, time))
    return found, warnings


def _moment(segment: Segment) -> tuple[str, str]:
    """When the results were reported (OBR-22), else observed (OBR-7)."""
    for field in (22, 7):
        found = moment.parse(segment.text(field))
        if found is not None and found.full_date:
            return found.full_date, found.time
    return "", ""


def _data(value: Value) -> bytes:
    encoding, text = value.text(4).upper(), value.component(5)
    if not text and value.component(1) and not value.component(2):
        text, encoding = value.component(1), "BASE64"  # some senders leave the first four components out
    data = _decoded(text, encoding, value)
    return data if _kind(data) is not None else _package(data)


def _decoded(text: str, encoding: str, value: Value) -> bytes:
    try:
        if encoding == "BASE64":
            return base64.b64decode("".join(text.replace("\\.br\\", "").split()), validate=True)
        if encoding == "HEX":
            return bytes.fromhex(text)
    except (binascii.Error, ValueError):
        return b""
    return value.text(5).encode() if len(text) <= PLAIN_CHARACTERS_MAX else b""


def _package(data: bytes, depth: int = 0) -> bytes:
    """The first part of a MIME package that is XML or PDF."""
    head, blank, body = _BLANK_LINE.split(data, 1) if _BLANK_LINE.search(data, 0, HEAD_BYTES_MAX) else (b"", b"", b"")
    if not blank:
        return b""
    headers = BytesHeaderParser().parsebytes(head)
    boundary = headers.get_boundary()
    if headers.get_content_maintype() == "multipart" and boundary and depth < DEPTH_MAX:
        mark = re.compile(rb"(?:^|\r?\n)--" + re.escape(boundary.encode("ascii", "replace")) + rb"(?:--)?[ \t]*\r?\n?")
        parts = mark.split(body, PARTS_MAX)[1:]
        return next(filter(None, (_package(part, depth + 1) for part in parts)), b"")
    content = _transferred(body, str(headers.get("Content-Transfer-Encoding", "")).strip().lower())
    return content if _kind(content) is not None else b""


def _transferred(body: bytes, encoding: str) -> bytes:
    if encoding == "base64":
        try:
            return binascii.a2b_base64(body)
        except binascii.Error:
            return b""
    return quopri.decodestring(body) if encoding == "quoted-printable" else body


def _kind(data: bytes) -> Literal["pdf", "cda"] | None:
    start = data[:2048].lstrip(b"\xef\xbb\xbf \r\n\t")
    if start.startswith(b"%PDF-"):
        return "pdf"
    return "cda" if start.startswith(b"<") and b"ClinicalDocument" in data[:4096] else None
