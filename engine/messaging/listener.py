"""Connections over MLLP (asyncio): blocks in, answers out, in the order in which the blocks came.

bytes ──► FrameReader ──► Reception ──► answer ──► socket
ANSWERS_MAX answers outstanding, or a peer that does not read them ──► what it sends waits
a message that is too long ──► AR, closed      no MLLP, a timeout, no answer possible ──► closed
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from engine import guards, log, tls
from engine.errors import FrameError, FrameTooLong
from engine.hl7 import Condition, Fault, FrameReader, acknowledge, framed, parse
from engine.messaging.reception import refusal
from engine.messaging.secure_server import SecureServer
from engine.messaging.sources import Sender

if TYPE_CHECKING:
    import socket
    import ssl

    from engine.hl7 import Frame
    from engine.hl7.settings import Hl7
    from engine.messaging.reception import Reception
    from engine.messaging.sources import KnownSource, Sources
    from engine.metrics import Histogram

logger = log.get("hl7")

ANSWERS_MAX = 64
"""Messages of one connection that may wait for their answers; senders usually wait after each."""
PAUSE_S = 1.0
"""A sender that stops for so long has ended its message, if it can be a whole one."""
FAREWELL_S = 2.0
RATE_BYTES_PER_S_MIN = 256
"""Bytes a second of a message that takes longer than `message_timeout_s`; a slower sender would never end."""


class _Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._reader = FrameReader(listener.settings.message_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._sender = Sender("")
        self._sources: tuple[KnownSource, ...] = ()
        self._answers: deque[list[bytes | None]] = deque()
        """A place for each block, in order; empty until its answer is known."""
        self._is_taking = False
        self._is_reading = True
        self._is_writable = True
        self.heard_at = time.monotonic()
        self._begun_at: float | None = None
        """When the present message was first seen; None: there is none."""
        self._begun_bytes = 0
        """Bytes that had come by then."""
        self._bytes = 0
        self.is_closing = False
        self._has_ended = False
        """Whether the sender has closed its side."""

    @property
    def held_bytes(self) -> int:
        return self._reader.held_bytes

    @property
    def _has_room(self) -> bool:
        """Whether one more message may be taken."""
        return self._is_writable and len(self._answers) < ANSWERS_MAX

    @property
    def is_busy(self) -> bool:
        return bool(self._answers)

    @property
    def host(self) -> str:
        return self._sender.host

    # -- asyncio --------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        secure = transport.get_extra_info("ssl_object")
        names = tls.names_of(secure) if secure is not None else frozenset()
        self._sender = Sender(str(peer[0]) if peer else "", names)
        why = self._listener.enter(self)
        self._sources = self._listener.sources.of_connection(self._sender)
        if not why and not self._sources:
            why = "no [[hl7_source]] is at this address"
        if why:
            self._listener.counters["connections_refused"] += 1
            logger.about(self.host).warning("a connection is refused", host=self.host, reason=why)
            self.close()

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        if self.is_closing:
            return
        self._bytes += len(data)
        self._take(data)
        if self.held_bytes and self._listener.held_bytes > self._listener.settings.memory_bytes_max:
            self._give_up("unfinished messages take too much memory")

    def eof_received(self) -> bool:
        self._has_ended = True
        self._take()
        return self.is_busy  # keeps the connection until the answers are sent

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_closing:
            self._take_last()
        self.is_closing = True
        self._transport = None
        self._listener.leave(self)

    def pause_writing(self) -> None:
        self._is_writable = False
        self._adjust()

    def resume_writing(self) -> None:
        self._is_writable = True
        self._take()

    # -- messages -------------------------------------------------------------------------------

    def _take(self, data: bytes = b"") -> None:
        """Receives the blocks of what has come, one after another while there is room for it."""
        if self._is_taking:
            return
        self._is_taking = True
        try:
            frames = self._reader.feed(data, 1 if self._has_room else 0)
            while frames and not self.is_closing:
                self._receive(frames)
                frames = self._reader.feed(b"", 1) if self._has_room else []
            if self._has_ended and self._has_room and not self.is_closing:
                self._receive(self._reader.end())
        except FrameTooLong as error:
            self._refuse_length(str(error))
        except FrameError as error:
            self._give_up(str(error))
        finally:
            self._is_taking = False
        self._adjust()

    def _take_last(self) -> None:
        """Receives what a connection leaves that has ended. What waits beyond that was not answered: it comes again."""
        with suppress(FrameError):
            frames = self._reader.feed(b"", ANSWERS_MAX)
            self._receive(frames if len(frames) == ANSWERS_MAX else [*frames, *self._reader.end()])

    def _receive(self, frames: list[Frame]) -> None:
        if frames:
            self._begun_at = None
        for frame in frames:
            place: list[bytes | None] = []
            began = time.perf_counter()
            self._answers.append(place)
            answer = partial(self._on, place, began)
            try:
                self._listener.reception.receive(frame, self._sender, self._sources, answer)
            except Exception as error:
                defect = {"error": type(error).__name__, "at": guards.position_of(error)}
                logger.about(self.host).error("a block cannot be received", host=self.host, **defect)
                self._give_up("a defect of the server")

    def _on(self, place: list[bytes | None], began: float, text: bytes | None) -> None:
        if place:
            # A later message about the same block: what it did, in enhanced mode.
            if text and self._transport is not None and not self.is_closing:
                self._transport.write(framed(text))
            return
        place.append(text)
        if text:
            self._listener.latency_s.observe(time.perf_counter() - began)
        pieces: list[bytes] = []
        while self._answers and self._answers[0]:
            answer = self._answers.popleft()[0]
            if answer is None:
                self._write(pieces)
                self._give_up("a message cannot be kept")
                return
            if answer:
                pieces.append(framed(answer))
        self._write(pieces)
        if not self.is_closing:
            self._take()
        if (self._listener.is_draining or self._has_ended) and not self.is_busy:
            self.close()

    def _write(self, pieces: list[bytes]) -> None:
        if pieces and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))

    def _adjust(self) -> None:
        """Reads on, or not."""
        wants = self._has_room
        if wants is not self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = wants
            if wants:
                self.heard_at = time.monotonic()
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def look(self, now: float) -> None:
        """Handles pauses and timeouts; called about once a second."""
        settings, silent_s = self._listener.settings, now - self.heard_at
        if self.is_closing:
            if silent_s > FAREWELL_S and self._transport is not None:
                self._transport.abort()
            return
        if not self._is_reading:
            self._begun_at = None
            # It is we who wait. Only a peer that does not read its answers is given up.
            if not self._is_writable and silent_s > settings.message_timeout_s:
                self._give_up("it does not read its answers")
            return
        if self._reader.is_idle:
            self._begun_at = None
            if settings.idle_timeout_s and silent_s > settings.idle_timeout_s and not self.is_busy:
                self.close()
            return
        if silent_s >= PAUSE_S:
            self._receive(self._reader.pause())
            self._adjust()
        if not self._reader.is_idle and (silent_s > settings.message_timeout_s or self._is_slow(now)):
            self._give_up("a message has not ended in time")

    def _is_slow(self, now: float) -> bool:
        """Whether the present message has come too slowly until now."""
        if self._begun_at is None:
            self._begun_at, self._begun_bytes = now, self._bytes
            return False
        seconds = now - self._begun_at
        is_long = seconds > self._listener.settings.message_timeout_s
        return is_long and self._bytes - self._begun_bytes < RATE_BYTES_PER_S_MIN * seconds

    def _refuse_length(self, why: str) -> None:
        """AR for a message that is too long, if its header can be read: the sender would send it again for ever."""
        head = self._reader.head.split(b"\r", 1)[0]
        self._listener.counters["too_long"] += 1
        try:
            message = parse(head + b"\r")
            fault = Fault(Condition.UNSUPPORTED_MESSAGE_TYPE, why)
            text = acknowledge(message, fault, control_id="0", time=time.time())
        except Exception:
            text = refusal(why, "0", time.time())
        self._write([framed(text)])
        self._give_up(why)

    def _give_up(self, why: str) -> None:
        self._listener.counters["connections_given_up"] += 1
        logger.about(self.host).warning("a connection is closed", host=self.host, reason=why)
        self.close()

    def close(self) -> None:
        """Closes it once its answers are written."""
        self.is_closing = True
        self.heard_at = time.monotonic()
        self._reader = FrameReader()
        if self._transport is not None:
            self._transport.close()


class Listener:
    """All connections of one process."""

    def __init__(
        self,
        settings: Hl7,
        sources: Sources,
        reception: Reception,
        counters: Counter[str],
        latency_s: Histogram,
    ) -> None:
        self.settings = settings
        self.sources = sources
        self.reception = reception
        self.counters = counters
        self.latency_s = latency_s
        self.is_draining = False
        self._connections: set[_Connection] = set()
        self._servers: list[asyncio.AbstractServer | SecureServer] = []
        self._looking: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of unfinished messages."""
        return sum(connection.held_bytes for connection in self._connections)

    @property
    def connections_count(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    async def listen(self, sock: socket.socket, context: Callable[[], ssl.SSLContext] | None = None) -> None:
        """Accepts connections of a listening socket. Raises ConfigError, OSError."""
        if context is not None:
            self._servers.append(SecureServer(sock, context(), lambda: _Connection(self), self._refuse_early))
        else:
            server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=sock)
            self._servers.append(server)
        if self._looking is None:
            self._look()

    def enter(self, connection: _Connection) -> str:
        """Counts a connection; why there is no room for it, or ""."""
        self._connections.add(connection)
        self.counters["connections"] += 1
        if self.is_draining:
            return "the server is stopping"
        return self._excess(connection.host, 0, 0)

    def _excess(self, host: str, others: int, own_others: int) -> str:
        """Why there are too many connections, or "". `others` and, of them, those of the address are not entered."""
        if len(self._connections) + others > self.settings.connections_max:
            return "there are too many connections"
        own = sum(each.host == host for each in self._connections)
        if own + own_others > self.settings.connections_per_address_max:
            return "there are too many connections of this address"
        return ""

    def _refuse_early(self, host: str, handshakes: int, own_handshakes: int) -> str:
        """Why a connection is refused before its handshake, or ""."""
        why = self._excess(host, handshakes + 1, own_handshakes + 1)
        if why:
            self.counters["connections_refused"] += 1
            logger.about(host).warning("a connection is refused", host=host, reason=why)
        return why

    def leave(self, connection: _Connection) -> None:
        """Forgets a connection that has ended."""
        self._connections.discard(connection)

    def configure(self, settings: Hl7, sources: Sources) -> None:
        """Applies other settings: open connections keep their source until they end."""
        self.settings, self.sources = settings, sources

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(PAUSE_S, self._look)
        now = time.monotonic()
        for connection in list(self._connections):
            connection.look(now)

    def start_draining(self) -> None:
        """Accepts nothing new; closes connections as soon as they have their answers."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            if not connection.is_busy:
                connection.close()

    def abort(self) -> None:
        """Ends all connections at once."""
        self.start_draining()
        for connection in list(self._connections):
            connection.close()
        if self._looking is not None:
            self._looking.cancel()
