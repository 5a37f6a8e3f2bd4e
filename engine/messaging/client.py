"""Sends messages over MLLP and waits for their acknowledgements.

The receiver may be hostile: what a message takes has one limit of time, from its first byte to its acknowledgement, and
so has a close. Of what comes instead of an acknowledgement only the first bytes are kept.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from engine.errors import FrameError, HL7SendFailed, MessageUnreadable
from engine.hl7 import FrameReader, Message, framed, parse

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
PAUSE_S = 1.0
ACKNOWLEDGEMENT_BYTES_MAX = 1 << 20
SHOWN_BYTES = 64
SENT_MAX = 100
"""Messages of which a late acknowledgement is passed over: what the enhanced mode says second."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What the receiver has answered."""

    code: str
    """MSA-1: AA, AE, AR, CA, CE, CR."""
    control_id: str
    text: str
    message: Message

    @property
    def is_success(self) -> bool:
        """Whether the receiver has the message."""
        return self.code in ("AA", "CA")


@dataclass(slots=True)
class _Received:
    """What has come since a message was sent."""

    count: int = 0
    head: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        self.count += len(data)
        self.head += data[: SHOWN_BYTES - len(self.head)]

    def __str__(self) -> str:
        return f"; {self.count} bytes came" if self.count else ", no byte came"

    @property
    def shown(self) -> str:
        """The first bytes, which may be of a patient."""
        return self.head.hex(" ")


class Client:
    """One connection, one message at a time; also a context. After an error, close it."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 30.0, context: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._context = context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._frames = FrameReader(ACKNOWLEDGEMENT_BYTES_MAX)
        self._sent: deque[str] = deque(maxlen=SENT_MAX)
        """Control ids of earlier messages."""

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Raises HL7SendFailed."""
        opening = asyncio.open_connection(self._host, self._port, ssl=self._context)
        try:
            self._streams = await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            errno = getattr(error, "errno", None)
            reason = os.strerror(errno).lower() if errno and errno > 0 else str(error) or "no answer"
            raise HL7SendFailed(f"{self._host}:{self._port} cannot be reached: {reason}") from error

    async def send(self, message: bytes) -> Acknowledgement:
        """Sends one message. Raises HL7SendFailed if no acknowledgement of it comes in time."""
        assert self._streams is not None
        reader, writer = self._streams
        control_id, received = _control_id(message), _Received()
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(framed(message))
                await writer.drain()
                return await self._acknowledgement(reader, received, control_id)
        except TimeoutError as error:
            why = f"no acknowledgement within {self._timeout_s:g} s{received}"
            raise HL7SendFailed(why).quoting(received.shown) from error
        except FrameError as error:
            raise HL7SendFailed(f"the answer is no block of MLLP: {error}") from error
        except OSError as error:
            raise HL7SendFailed(f"the connection broke: {error}") from error
        finally:
            self._sent.append(control_id)

    async def _acknowledgement(
        self, reader: asyncio.StreamReader, received: _Received, control_id: str
    ) -> Acknowledgement:
        while True:
            try:
                # Not wait_for: before Python 3.12 it may swallow the timeout of `send` while data keeps coming.
                async with asyncio.timeout(PAUSE_S):
                    data = await reader.read(65536)
                frames = self._frames.feed(data) if data else self._frames.end()
            except TimeoutError:
                data, frames = b"?", self._frames.pause()
            else:
                received.add(data)
            for frame in frames:
                if frame.is_cut:
                    continue
                if frame.is_commit:
                    if frame.payload == b"\x15":
                        raise HL7SendFailed("the receiver did not take the block (15)")
                    continue
                found = _read(frame.payload)
                if found is not None and self._is_of(found, control_id):
                    return found
            if not data:
                why = f"the receiver closed the connection without an acknowledgement{received}"
                raise HL7SendFailed(why).quoting(received.shown)

    def _is_of(self, found: Acknowledgement, control_id: str) -> bool:
        """Whether it is about this message; False: about an earlier one. Raises HL7SendFailed if it is about neither.

        One without a control id is taken: some receivers leave it out.
        """
        if not control_id or found.control_id in ("", control_id):
            return True
        if found.control_id in self._sent:
            return False
        raise HL7SendFailed("the receiver acknowledged another message")

    async def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await writer.wait_closed()
            except TimeoutError:
                writer.transport.abort()  # it does not read what it was sent, or does not end TLS
            except OSError:
                pass  # the other side has broken it


def _control_id(message: bytes) -> str:
    """MSH-10; "" if it cannot be read, as whoever sends garbage on purpose wants it."""
    try:
        return parse(message).control_id
    except MessageUnreadable:
        return ""


def _read(data: bytes) -> Acknowledgement | None:
    """None for a message that is no acknowledgement. Raises HL7SendFailed."""
    try:
        message = parse(data)
    except MessageUnreadable as error:
        raise HL7SendFailed("the answer is no HL7 message").quoting(data[:SHOWN_BYTES].hex(" ")) from error
    segment = message.first("MSA")
    if segment is None:
        return None
    error_segment = message.first("ERR")
    text = segment.text(3) or (error_segment.text(8) if error_segment is not None else "")
    return Acknowledgement(segment.text(1), segment.raw(2), text, message)
