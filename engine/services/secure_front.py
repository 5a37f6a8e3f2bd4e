"""The front of DICOM over TLS: shakes hands, then gives the connection to the DICOM front.

handshake   at most tls.handshakes_max at once; a further one ends the oldest of the address that has most
failed      closed, counted (tls_handshakes_failed) and logged
done        an association like any other, with the names in the peer's certificate
reload      a new context for new connections; if the files are unusable, an error is logged and the old one remains
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import log, tls
from engine.errors import ConfigError, for_log
from engine.runtime.handshakes import Handshakes

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from engine.config import Config
    from engine.runtime.engine import Engine
    from engine.services.front import DimseFront

logger = log.get("services.tls")


class SecureFront:
    """All connections of one process that came over TLS (`runtime.front.Front`)."""

    name = "dicom-tls"

    def __init__(self, engine: Engine, front: DimseFront) -> None:
        """Raises ConfigError when the files of [tls] cannot be used."""
        self._engine = engine
        self._front = front
        self._settings = engine.config.tls
        self._context = tls.server_context(self._settings)
        self._count = 0
        self._handshakes = Handshakes()

    @property
    def connections_count(self) -> int:
        """The number of open connections, including handshakes in progress."""
        return self._count

    @property
    def is_busy(self) -> bool:
        """Always False: the DICOM front knows the operations of all associations."""
        return False

    def connected(self, sock: socket.socket, host: str, on_end: Callable[[], None]) -> None:
        """Takes a connection over."""
        if self._handshakes.make_room(self._settings.handshakes_max):
            self._engine.metrics.counters["tls_handshakes_evicted"] += 1
        self._count += 1

        def end() -> None:
            self._count -= 1
            on_end()

        self._handshakes.add(self._front.open(sock, host, end, self._context), host)

    def configure(self, config: Config) -> None:
        """Reads the files again."""
        try:
            self._context = tls.server_context(config.tls)
            self._settings = config.tls
        except ConfigError as error:
            logger.error("the TLS settings cannot be used; the old ones remain", error=for_log(error))

    def start_draining(self) -> None:
        """Ends handshakes; the DICOM front drains associations."""
        self.abort("the server is stopping")

    def abort(self, why: str) -> None:
        """Ends handshakes; the DICOM front aborts associations."""
        self._handshakes.end_all(why)

    def stats(self) -> dict[str, object]:
        """Its statistics, as plain data."""
        return {"tls_handshakes": len(self._handshakes)}

    def close(self) -> None:
        """Has nothing of its own to free."""
