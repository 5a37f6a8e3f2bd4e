"""The DICOM front: serves associations on accepted sockets.

connected   a Connection (`net.connection`) and an Acceptor (`acceptor`) for each socket
full        closes the oldest connection without an association to make room for a new one
draining    closes connections without an association at once; associations with an operation continue, idle ones are
            released (`[limits] drain_idle_s`), new ones are rejected
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine import guards, log
from engine.access import Kind, Principal
from engine.audit import Alert
from engine.dimse.assembly import ChunkPool
from engine.net.connection import Connection, ConnectionLimits
from engine.net.trace import TraceFolder
from engine.services.acceptor import Acceptor
from engine.services.commitment.reporter import Reporter
from engine.services.shared import Services
from engine.services.ups_events import EventReporter
from engine.tls import SHUTDOWN_TIMEOUT_S
from engine.ul.association import Role

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from engine.config import Config, Limits
    from engine.runtime.engine import Engine
    from engine.services.destination import OpenWebPeer

logger = log.get("services.front")

IDLE_CHECK_S = 0.1
RELEASE_S_MAX = 3.0
"""For the peer's answer to our A-RELEASE-RQ; then the association is aborted."""


class DimseFront:
    """All associations of one process (`runtime.front.Front`)."""

    name = "dicom"

    def __init__(self, engine: Engine, process: int = 0, open_web_peer: OpenWebPeer | None = None) -> None:
        """`process`: its number, for the names of wire traces. Without `open_web_peer` a C-MOVE to a peer that has only
        a url is refused."""
        trace_folder = engine.config.log.wire_trace
        self._engine = engine
        self._trace = TraceFolder(trace_folder, process) if trace_folder else None
        self._pool = ChunkPool()
        self._services = Services(engine, self._pool, self._trace, open_web_peer)
        self._connections: dict[Connection, Acceptor] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        Reporter(self._services.commitments, self._trace).start()
        self._events = EventReporter(self._services, self._trace)
        self._events.start()

    @property
    def connections_count(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    @property
    def is_busy(self) -> bool:
        """Whether an operation is in progress."""
        return any(acceptor.busy for acceptor in self._connections.values())

    def connected(self, sock: socket.socket, host: str, on_end: Callable[[], None]) -> None:
        """Takes a connection over."""
        self.open(sock, host, on_end, None)

    def open(
        self, sock: socket.socket, host: str, on_end: Callable[[], None], context: ssl.SSLContext | None
    ) -> asyncio.Task[None]:
        """Takes a connection over, after a TLS handshake if there is a `context`. The task ends when it is open."""
        self._make_room()
        task = guards.watch(self._engine.loop.create_task(self._connect(sock, host, on_end, context)), "connect")
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # before its first step, so `_connect` has done nothing
                sock.close()
                on_end()

        task.add_done_callback(done)
        return task

    def configure(self, config: Config) -> None:
        """Does nothing: new associations read the configuration from the engine."""

    def start_draining(self) -> None:
        """From now on rejects associations as transient; open ones continue until they are idle."""
        if self._is_draining:
            return
        self._is_draining = True
        for connection, acceptor in list(self._connections.items()):
            if acceptor.session is None:
                connection.abort("the server is stopping", 2, 0)
        task = guards.watch(self._engine.loop.create_task(self._release_idle()), "release")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release_idle(self) -> None:
        """Releases each association as soon as it is idle, until there is none.

        A request that comes at the same time is not answered any more: its sender sends it again elsewhere or later.
        """
        released_s: dict[Connection, float] = {}
        loop = self._engine.loop
        while self._connections:
            for connection, acceptor in list(self._connections.items()):
                if connection in released_s:
                    if loop.time() - released_s[connection] > RELEASE_S_MAX:
                        connection.abort("it did not answer our release: the server is stopping", 2, 0)
                elif not acceptor.busy and connection.silent_s >= self._engine.config.limits.drain_idle_s:
                    released_s[connection] = loop.time()
                    connection.request_release()
            await asyncio.sleep(IDLE_CHECK_S)

    def abort(self, why: str) -> None:
        """A-ABORT on every connection."""
        for connection in list(self._connections):
            connection.abort(why, 2, 0)

    def stats(self) -> dict[str, object]:
        """Its statistics, as plain data."""
        return {"associations": self._services.associations_count, "chunks": self._pool.outstanding}

    def close(self) -> None:
        """Ends the tasks and threads of storage commitment, and those of workitems."""
        for task in self._tasks:
            task.cancel()
        self._events.close()
        self._services.commitments.close()

    # -- inside ---------------------------------------------------------------------------------

    def _make_room(self) -> None:
        limit = self._engine.config.limits.connections_waiting_max
        if len(self._connections) - self._services.associations_count < limit:
            return
        for connection, acceptor in list(self._connections.items()):
            if acceptor.session is None:
                self._engine.metrics.counters["connections_evicted"] += 1
                connection.abort("made room for others", 2, 0)
                return

    async def _connect(
        self, sock: socket.socket, host: str, on_end: Callable[[], None], context: ssl.SSLContext | None
    ) -> None:
        is_draining = self._is_draining

        def end(connection: Connection) -> None:
            self._connections.pop(connection, None)
            on_end()

        def user(connection: Connection) -> Acceptor:
            acceptor = Acceptor(self._services, connection, refuse=is_draining, on_end=end)
            self._connections[connection] = acceptor
            return acceptor

        limits = connection_limits(self._engine.config.limits)
        trace = self._trace.association(host) if self._trace else None
        trusts = None if context is None else _any_names
        connection = Connection(user, Role.ACCEPTOR, self._pool, limits, trace, trusts=trusts)
        timeouts = {}
        if context is not None:
            timeouts["ssl_handshake_timeout"] = limits.artim_timeout_s
            timeouts["ssl_shutdown_timeout"] = SHUTDOWN_TIMEOUT_S
        try:
            await self._engine.loop.connect_accepted_socket(lambda: connection, sock, ssl=context, **timeouts)
        except asyncio.CancelledError:
            self._failed(connection, host, "made room for others, or the server is stopping")
            sock.close()
        except (OSError, ConnectionError) as error:
            # The peer closed the connection before the loop could use the socket, or the handshake failed.
            self._failed(connection, host, str(error), is_handshake=context is not None)
            sock.close()

    def _failed(self, connection: Connection, host: str, reason: str, *, is_handshake: bool = False) -> None:
        """Drops a connection that was never open."""
        if is_handshake:
            self._engine.metrics.counters["tls_handshakes_failed"] += 1
            logger.about(host).warning("TLS handshake failed", peer=host, error=reason)
            stranger = Principal(Kind.PEER, "", host)
            self._engine.audit_trail.alert(stranger, Alert.NODE, f"TLS handshake failed: {reason}")
        else:
            logger.info("connection lost before it began", peer=host, error=reason)
        connection.drop(reason)


def connection_limits(limits: Limits) -> ConnectionLimits:
    """The limits of one association, from the configuration."""
    return ConnectionLimits(
        p_data_length_max=limits.pdu_length_accept_max,
        control_length_max=limits.associate_pdu_length_max,
        part_bytes=limits.stream_threshold_bytes,
        artim_timeout_s=limits.artim_timeout_s,
        message_timeout_s=limits.dimse_timeout_s,
        rate_bytes_per_s_min=limits.transfer_rate_bytes_per_s_min,
        delivery_rate_bytes_per_s_min=limits.delivery_rate_bytes_per_s_min,
        pdv_count_max=limits.pdvs_per_pdu_max,
        idle_timeout_s=limits.idle_timeout_s,
    )


def _any_names(names: frozenset[str]) -> bool:
    """The acceptor judges a requestor's certificate together with its title."""
    return True
