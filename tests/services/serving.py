"""A worker's services on a real socket in the test's process: archive, ingestor and pool are there to be looked at."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import uvloop

from engine.archive.archive import Archive, QuarantineLimits, StorageOptions
from engine.archive.transcoding.transcode import Transcoder
from engine.config import Config, Limits
from engine.dimse.assembly import ChunkPool
from engine.errors import EngineError
from engine.metrics import Metrics
from engine.net.connection import Connection, ConnectionLimits
from engine.runtime.engine import Engine
from engine.services.acceptor import Acceptor
from engine.services.shared import Services
from engine.storage.files import Files
from engine.ul.association import Role
from tests.peer import Peer

CHUNK_BYTES = 64 << 10
LIMITS = Limits(disk_reserve_bytes=0, dimse_timeout_s=60.0, stream_threshold_bytes=256 << 10)


class Serving:
    """What a script may look at."""

    def __init__(self, services: Services, port: int) -> None:
        self.services = services
        self.port = port
        self.acceptors: list[Acceptor] = []
        """Of every connection so far."""
        self.failures: list[EngineError] = []
        """What the ingestor said of the storage."""
        self.unhandled: list[str] = []
        """What nobody caught, as the event loop tells it."""

    @property
    def archive(self) -> Archive:
        return self.services.archive

    def call(self, **options: float) -> Peer:
        """A new connection."""
        return Peer(self.port, **options)  # type: ignore[arg-type]


def serve(
    data: Path,
    script: Callable[[Serving], None],
    *,
    files: Files | None = None,
    config: Config | None = None,
    crashes: bool = False,
) -> Serving:
    """Runs `script` in a thread while the services serve; checks that nothing is left behind.

    `crashes`: the script brings about a mistake of ours, which the event loop is told of.
    """

    async def run() -> Serving:
        loop = asyncio.get_running_loop()
        archive = Archive.open(data, role="keeper", create=True, files=files)
        settings = config or Config(data=data, limits=LIMITS)
        failures: list[EngineError] = []
        metrics = Metrics()
        kept = settings.quarantine
        ingestor = archive.live_port(
            loop,
            "test",
            StorageOptions(),
            failures.append,
            quarantine=QuarantineLimits(kept.bytes_max, kept.count_max) if kept.unparseable else None,
            counters=metrics.counters,
        )
        pool = ChunkPool(CHUNK_BYTES, 4)
        engine = Engine(loop, archive, ingestor, settings, metrics, Transcoder())
        services = Services(engine, pool)
        ended = 0

        def end(connection: Connection) -> None:
            nonlocal ended
            ended += 1

        def user(connection: Connection) -> Acceptor:
            acceptor = Acceptor(services, connection, refuse=False, on_end=end)
            serving.acceptors.append(acceptor)
            return acceptor

        limits = ConnectionLimits(
            part_bytes=settings.limits.stream_threshold_bytes,
            message_timeout_s=settings.limits.dimse_timeout_s,
            delivery_rate_bytes_per_s_min=settings.limits.delivery_rate_bytes_per_s_min,
        )
        server = await loop.create_server(lambda: Connection(user, Role.ACCEPTOR, pool, limits), "127.0.0.1", 0)
        serving = Serving(services, server.sockets[0].getsockname()[1])
        serving.failures = failures
        loop.set_exception_handler(lambda _, context: serving.unhandled.append(repr(context)))
        await loop.run_in_executor(None, script, serving)
        async with asyncio.timeout(60):
            while ended < len(serving.acceptors) or ingestor.depth or pool.outstanding:
                await asyncio.sleep(0.005)
        await engine.audit_trail.finish()
        server.close()
        await server.wait_closed()
        services.commitments.close()
        if not failures:
            ingestor.close()
            archive.close()
        engine.transcoder.close()
        engine.pools.close()
        gc.collect()
        await asyncio.sleep(0)
        assert bool(serving.unhandled) == crashes, serving.unhandled
        return serving

    return uvloop.run(run())


@contextmanager
def serve_in_thread(data: Path, config: Config, prepare: Callable[[Serving], None]) -> Iterator[Serving]:
    """Serves in a thread of its own, for the tests of a module, after `prepare`."""
    started: queue.Queue[Serving | None] = queue.Queue()
    is_over = threading.Event()

    def script(serving: Serving) -> None:
        prepare(serving)
        started.put(serving)
        is_over.wait()
        serving.services.engine.close_orders()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(serve, data, script, config=config)
        ended.add_done_callback(lambda _: started.put(None))
        serving = started.get()
        try:
            if serving is not None:
                yield serving
        finally:
            is_over.set()
            ended.result()
