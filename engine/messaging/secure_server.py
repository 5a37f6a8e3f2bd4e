"""Accepts connections over TLS, and counts each before its handshake, as asyncio's server does not: peers that connect
and say nothing would each hold an open file for HANDSHAKE_TIMEOUT_S, without a limit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine import guards, log

if TYPE_CHECKING:
    import socket
    import ssl

logger = log.get("hl7")

HANDSHAKE_TIMEOUT_S = 20.0
ACCEPT_PAUSE_S = 1.0
"""After an error of accept, as when a process may open no more files."""


class SecureServer:
    """One listening socket; accepts from the start on."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        refusal_of: Callable[[str, int, int], str],
    ) -> None:
        """`refusal_of` says why there is no room for a connection, or "": its address, the handshakes in progress, and
        those of the address.
        """
        sock.setblocking(False)
        self._sock = sock
        self._context = context
        self._protocol = protocol
        self._refusal_of = refusal_of
        self._handshakes: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = guards.watch(asyncio.get_running_loop().create_task(self._accept()), "accept")

    def close(self) -> None:
        """Accepts nothing more; ends the handshakes in progress."""
        for task in (self._accepting, *self._tasks):
            task.cancel()
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, address = await loop.sock_accept(self._sock)
            except OSError as error:
                logger.error("no connection can be accepted", reason=error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            host = str(address[0])
            if self._refusal_of(host, self._handshakes.total(), self._handshakes[host]):
                peer.close()
                continue
            self._handshakes[host] += 1
            task = loop.create_task(self._shake_hands(peer, host))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _shake_hands(self, peer: socket.socket, host: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, peer, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        except OSError as error:
            peer.close()
            logger.about(host).info("a handshake of TLS failed", host=host, reason=type(error).__name__)
        except asyncio.CancelledError:
            peer.close()
            raise
        finally:
            self._handshakes[host] -= 1
            if not self._handshakes[host]:
                del self._handshakes[host]
