"""A collector of audit messages: syslog over TLS with client certificates, or UDP; and certificates for it."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

from tests.certificates import signed

WAIT_S = 60.0


class Certificates:
    """An authority, and the certificate that both sides use."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.authority, self.certificate, self.key = signed(folder, "127.0.0.1")


class TlsCollector:
    """Takes messages on a port of its own until it is closed; each connection in a thread."""

    def __init__(self, certificates: Certificates, port: int = 0, *, ends_after: int = 0) -> None:
        """`ends_after`: it closes each connection after so many messages, without having read the rest."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate, certificates.key)
        context.load_verify_locations(certificates.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", port))
        self._ends_after = ends_after
        self.port: int = self._listener.getsockname()[1]
        self.messages: list[bytes] = []
        self.connections = 0
        self._open: list[ssl.SSLSocket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends it, and all of its connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as sock:
                self.connections += 1
                self._open.append(sock)
                buffer, count = b"", 0
                while block := sock.recv(65536):
                    buffer += block
                    while (space := buffer.find(b" ")) > 0 and len(buffer) > space + int(buffer[:space]):
                        end = space + 1 + int(buffer[:space])
                        self.messages.append(buffer[space + 1 : end])
                        buffer = buffer[end:]
                        count += 1
                        if count == self._ends_after:
                            return
        except OSError:
            return
