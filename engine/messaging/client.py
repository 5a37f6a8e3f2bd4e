"""Sends messages over MLLP and waits for their acknowledgements."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from engine.errors import HL7SendFailed, MessageUnreadable
from engine.hl7 import FrameReader, Message, framed, parse

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_S = 10.0
ACKNOWLEDGEMENT_BYTES_MAX = 1 << 20


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


class Client:
    """One connection, one message at a time; also a context."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 30.0, context: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._context = context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._frames = FrameReader(ACKNOWLEDGEMENT_BYTES_MAX)

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
        received = bytearray()
        try:
            writer.write(framed(message))
            await writer.drain()
            return await asyncio.wait_for(self._acknowledgement(reader, received), self._timeout_s)
        except TimeoutError as error:
            raise HL7SendFailed(f"no acknowledgement within {self._timeout_s:g} s{_shown(received)}") from error
        except OSError as error:
            raise HL7SendFailed(f"the connection broke: {error}") from error

    async def _acknowledgement(self, reader: asyncio.StreamReader, received: bytearray) -> Acknowledgement:
        while True:
            try:
                data = await asyncio.wait_for(reader.read(65536), 1.0)
                frames = self._frames.feed(data) if data else self._frames.end()
            except TimeoutError:
                data, frames = b"?", self._frames.pause()
            else:
                received += data
            for frame in frames:
                if frame.is_cut:
                    continue
                if frame.is_commit:
                    if frame.payload == b"\x15":
                        raise HL7SendFailed("the receiver did not take the block (15)")
                    continue
                found = _read(frame.payload)
                if found is not None:
                    return found
            if not data:
                shown = _shown(received)
                raise HL7SendFailed(f"the receiver closed the connection without an acknowledgement{shown}")

    async def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass  # the other side has broken it


def _shown(received: bytearray) -> str:
    """The bytes that came instead of an acknowledgement, for whoever looks for the reason."""
    return f"; {len(received)} bytes came: {received[:64].hex(' ')}" if received else ", no byte came"


def _read(data: bytes) -> Acknowledgement | None:
    """None for a message that is no acknowledgement. Raises HL7SendFailed."""
    try:
        message = parse(data)
    except MessageUnreadable as error:
        raise HL7SendFailed(f"the answer is no HL7 message: {data[:64].hex(' ')}") from error
    segment = message.first("MSA")
    if segment is None:
        return None
    error_segment = message.first("ERR")
    text = segment.text(3) or (error_segment.text(8) if error_segment is not None else "")
    return Acknowledgement(segment.text(1), segment.raw(2), text, message)
