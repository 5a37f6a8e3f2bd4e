"""A receiver of the HL7 messages by which the archive tells others that studies are there (rules of [[rule]])."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from engine.errors import FrameError, MessageUnreadable
from engine.hl7 import FrameReader, Message, framed, parse
from engine.hl7.writer import Raw, header, message, segment
from perf.hospital import invented

READ_BYTES: Final = 65536


class Notices:
    """Listens, acknowledges everything, and counts the notices of each study."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._seen: set[str] = set()
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self.studies: dict[str, int] = {}
        """Study Instance UID (ZDS-1) → its notices, each control id once."""
        self.repeated_count = 0
        """Messages that came again."""

    async def open(self) -> None:
        """Raises OSError."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port)

    async def close(self) -> None:
        """Listens no longer, and closes the connections."""
        if self._server is None:
            return
        self._server.close()
        tasks = [task for task in self._connections.values() if task is not None]
        for writer in self._connections:
            writer.close()
        await asyncio.gather(*tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        self._connections[writer] = asyncio.current_task()
        try:
            while data := await reader.read(READ_BYTES):
                for frame in frames.feed(data):
                    writer.write(framed(self._take(parse(frame.payload))))
                await writer.drain()
        except (OSError, FrameError, MessageUnreadable):
            pass  # the sender tries again on another connection
        finally:
            del self._connections[writer]
            writer.close()

    def _take(self, received: Message) -> bytes:
        """Notes a message; returns its acknowledgement."""
        control_id = received.text("MSH", 10)
        if control_id in self._seen:
            self.repeated_count += 1
        else:
            self._seen.add(control_id)
            segment_ = received.first("ZDS")
            study = segment_.text(1).partition("^")[0] if segment_ is not None else ""
            self.studies[study] = self.studies.get(study, 0) + 1
        head = header(
            kind=("ACK",),
            control_id=f"A{len(self._seen)}",
            sender=(invented.APPLICATION, invented.FACILITY),
            receiver=(received.text("MSH", 3), received.text("MSH", 4)),
            time=time.time(),
        )
        return message([head, segment("MSA", "AA", Raw(control_id))])
