"""A listener with its journal in this process, and a registry that only notes what it is given."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from engine.dicom.document import Document
from engine.errors import EngineError, UpdateRefused
from engine.hl7 import FrameReader, Message, parse
from engine.hl7.settings import Hl7, Hl7Source
from engine.journal import Journal
from engine.messaging.applier import Applier
from engine.messaging.listener import Listener
from engine.messaging.reception import Reception
from engine.messaging.sources import Sources
from engine.metrics import Histogram
from engine.orders.values import Applied, Change, ChangeKind, ReportUpdate, Source, Update
from engine.storage.commit import GroupCommit
from engine.storage.files import Files

PATIENCE_S = 60.0


class Registry:
    """Notes what is applied; refuses or fails as a test wants it."""

    def __init__(self) -> None:
        self.applied: list[tuple[Update, Source]] = []
        self.refuse: Callable[[Update], UpdateRefused | None] = lambda value: None
        self.failures: list[EngineError] = []
        self.documents: list[Document] = []

    def apply_all(self, values: Sequence[tuple[Update, Source]]) -> list[Applied | UpdateRefused]:
        if self.failures:
            raise self.failures.pop(0)
        results: list[Applied | UpdateRefused] = []
        for value, source in values:
            refusal = self.refuse(value)
            if refusal is None:
                self.applied.append((value, source))
            results.append(refusal or Applied((Change(ChangeKind.PATIENT, "1", "changed"),)))
        return results

    def store(self, report: ReportUpdate, document: Document, message: bytes, number: int) -> tuple[str, str]:
        if self.failures:
            raise self.failures.pop(0)
        self.documents.append(document)
        return "1.2.3", f"1.2.3.{number}"

    @property
    def references(self) -> list[str]:
        return list(dict.fromkeys(source.reference for _, source in self.applied))


class Host:
    """What `hosted` yields."""

    def __init__(self, journal: Journal, registry: Registry, listener: Listener, applier: Applier, port: int) -> None:
        self.journal = journal
        self.registry = registry
        self.listener = listener
        self.applier = applier
        self.port = port
        self.counters = listener.counters
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return Peer(reader, writer)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)


class Peer:
    """A sender that writes bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._found: list[Message] = []

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def end(self) -> None:
        self._writer.write_eof()

    async def answer(self) -> Message | None:
        """The next answer; None when the connection is closed instead."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._found:
                try:
                    data = await self._reader.read(65536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._found += [parse(frame.payload) for frame in self._frames.feed(data)]
        return self._found.pop(0)

    async def code(self) -> str:
        found = await self.answer()
        return found.text("MSA", 1) if found is not None else "closed"

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def hosted(
    folder: Path, *sources: Hl7Source, registry: Registry | None = None, settings: Hl7 | None = None
) -> AsyncIterator[Host]:
    loop = asyncio.get_running_loop()
    registry, settings = registry or Registry(), settings or Hl7()
    journal = Journal(str(folder / "journal"), Files(), bytes(16), segment_bytes=32 << 20, prewrite_bytes=0)
    counters: Counter[str] = Counter()
    failures: list[BaseException] = []
    commit: GroupCommit[int, None] = GroupCommit(
        loop,
        journal.log.sync,
        lambda items: [None] * len(items),
        failures.append,
        background=journal.background_sync(),
    )
    commit.start()
    thread = ThreadPoolExecutor(max_workers=1)
    known = Sources(settings, sources)
    applier = Applier(
        journal, registry, registry, lambda: known, counters, lambda work: loop.run_in_executor(thread, work)
    )
    reception = Reception(
        journal,
        commit,
        counters,
        on_mapped=applier.note,
        on_synced=applier.synced,
        await_outcome=applier.await_outcome,
        waiting_max=lambda: settings.waiting_max,
    )
    listener = Listener(settings, known, reception, counters, Histogram(0.01, 0.1))
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await listener.listen(sock)
    applying = loop.create_task(applier.run())
    try:
        host = Host(journal, registry, listener, applier, port)
        yield host
    finally:
        for writer in host.writers:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        listener.abort()
        applying.cancel()
        await asyncio.gather(applying, return_exceptions=True)
        async with asyncio.timeout(PATIENCE_S):
            while listener.connections_count:
                await asyncio.sleep(0.005)
        thread.shutdown(wait=True)
        commit.close()
        journal.close()
        assert not failures, failures
