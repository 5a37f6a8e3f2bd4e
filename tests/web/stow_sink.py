"""A DICOMweb server of somebody else that takes instances by STOW-RS and keeps them, in this process."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom

from engine.web.accept import parse_media_type
from engine.web.multipart import PartBegin, Piece, Reader, boundary_in


class StowSink:
    """What it has got, and how it answers."""

    def __init__(self) -> None:
        self.received: dict[str, tuple[str, bytes]] = {}
        """SOP Instance UID → transfer syntax, file."""
        self.refused: set[str] = set()
        """UIDs that it does not take."""
        self.status: int | None = None
        """Of every answer, where it is broken."""
        self.goes_on = threading.Event()
        """Until it is set, nothing is answered."""
        self.goes_on.set()
        self.authorizations: list[str] = []
        self.url = ""

    def take(self, content_type: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the response module for a request."""
        media_type = parse_media_type(content_type)
        assert media_type is not None
        reader = Reader(boundary_in(media_type))
        parts: list[bytearray] = []
        for event in reader.feed(body):
            if isinstance(event, PartBegin):
                parts.append(bytearray())
            elif isinstance(event, Piece):
                parts[-1] += event.view
        reader.finish()
        taken, failed = [], []
        for part in parts:
            data_set = pydicom.dcmread(BytesIO(part))
            uid = str(data_set.SOPInstanceUID)
            item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
            if uid in self.refused:
                failed.append({**item, "00081197": {"vr": "US", "Value": [0xC000]}})
                continue
            self.received[uid] = (str(data_set.file_meta.TransferSyntaxUID), bytes(part))
            taken.append(item)
        module: dict[str, Any] = {}
        if taken:
            module["00081199"] = {"vr": "SQ", "Value": taken}
        if failed:
            module["00081198"] = {"vr": "SQ", "Value": failed}
        return (200 if not failed else 202 if taken else 409), module


@contextmanager
def stow_sink(certificate: Path | None = None, key: Path | None = None) -> Iterator[StowSink]:
    """One that serves within the context; over TLS with a certificate."""
    sink = StowSink()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sink.authorizations.append(self.headers.get("Authorization", ""))
            body = self._body()
            sink.goes_on.wait(60)
            status, module = sink.take(self.headers["Content-Type"], body) if sink.status is None else (sink.status, {})
            self._answer(status, json.dumps(module).encode())

        def do_GET(self) -> None:
            sink.authorizations.append(self.headers.get("Authorization", ""))
            self._answer(sink.status or 200, b"[]")

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def _body(self) -> bytes:
            parts = []
            while length := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    sink.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
