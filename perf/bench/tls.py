"""A relay to a DIMSE server with TLS: the loads speak plain DICOM to it, and it speaks TLS to the server.

The loads drop data sets in the kernel, which TLS cannot. So the relay's processor time is the generator's, and its copy
costs a little latency; both are small beside a server's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

from perf.harness import PerfError

PIECE_BYTES = 1 << 18
HANDSHAKE_S_MAX = 10.0


def context_of(trusted: str, certificate: str, key: str) -> ssl.SSLContext:
    """A client's context; `trusted` and the others are files, or empty. Raises PerfError."""
    try:
        context = ssl.create_default_context(cafile=trusted or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise PerfError(f"the certificates cannot be read: {error}") from None
    return context


class TlsRelay:
    """Listens on a port of this machine from construction on; `close` ends it."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        """Tries one handshake. Raises PerfError if it fails."""
        self.host, self.server_port, self._context = host, port, context
        try:
            with (
                socket.create_connection((host, port), timeout=HANDSHAKE_S_MAX) as sock,
                context.wrap_socket(sock, server_hostname=host),
            ):
                pass
        except OSError as error:
            raise PerfError(f"{host}:{port}: no TLS connection: {error}") from None
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        try:
            self._loop.run_forever()
        finally:
            server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relays one connection until either side ends it; the load sees a lost connection as one."""
        try:
            far_reader, far_writer = await asyncio.open_connection(
                self.host, self.server_port, ssl=self._context, limit=4 * PIECE_BYTES
            )
        except OSError:
            writer.close()
            return
        pumps = [
            asyncio.create_task(_pump(reader, far_writer)),
            asyncio.create_task(_pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for each in (writer, far_writer):
                each.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    except OSError:
        return
