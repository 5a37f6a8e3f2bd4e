"""One worker process: an event loop, a segment log of its own, and the associations that the supervisor hands it.

Started as `python -m engine.server.worker FD`; FD is its end of the channel. It shares no memory with anybody: LMDB and
the log are what workers have in common. When the supervisor goes, it goes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from traceback import format_exc
from typing import Any

import uvloop

from engine import guards, log
from engine.archive.archive import Archive, StorageOptions
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.unparseable import Limits, Unparseable
from engine.archive.transcoding.transcode import Transcoder
from engine.config import Config
from engine.dimse.assembly import ChunkPool
from engine.errors import EngineError
from engine.metrics import Metrics
from engine.net.connection import Connection, ConnectionLimits
from engine.net.trace import TraceFolder
from engine.server.channel import Channel, ChannelClosed
from engine.server.child import flush_later
from engine.services.acceptor import Acceptor
from engine.services.commitment.reporter import Reporter
from engine.services.roster import Roster
from engine.services.shared import Services
from engine.ul.association import Role

logger = log.get("server.worker")

SWEEP_INTERVAL_S = 2.0
"""How often the files of segments that a compaction has removed are let go: until then their space is not free."""

EXIT_STORAGE_FAILED = 3
"""The log or the index failed: what was acknowledged is safe, the supervisor recovers and starts another worker."""

BEAT_S = 0.1
"""How often the roster learns that the loop runs; the supervisor takes a second of silence for a sign."""


class Worker:
    """See the module's head."""

    def __init__(self, channel: Channel, number: int, config: Config, roster: Roster, version: int) -> None:
        """`version`: of the configuration."""
        self._channel = channel
        self._version = version
        self._number = number
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._exit_code = 0
        self._connections: dict[Connection, Acceptor] = {}
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._metrics = Metrics()
        self._pool = ChunkPool()
        self._trace = TraceFolder(config.log.wire_trace, number) if config.log.wire_trace else None
        self._archive = Archive.open(config.data, role="guest")
        self._store = store = self._archive.writer(
            f"worker-{number}-{os.getpid()}",
            StorageOptions(
                segment_bytes=config.storage.segment_bytes,
                disk_reserve_bytes=config.limits.disk_reserve_bytes,
                prewrite_bytes=config.storage.prewrite_bytes,
                versions_max=config.storage.versions_max,
            ),
        )
        self._ingestor = Ingestor(self._loop, store, self._storage_failed, self._quarantine(config))
        self._roster = roster
        self._services = Services(
            self._loop,
            self._archive,
            self._ingestor,
            config,
            self._metrics,
            self._pool,
            Transcoder(directory=config.data, reserve_bytes=config.limits.disk_reserve_bytes),
            self._trace,
            roster,
        )

    def _quarantine(self, config: Config) -> Unparseable | None:
        kept = config.quarantine
        if not kept.unparseable:
            return None
        return Unparseable(self._archive.index, Limits(kept.bytes_max, kept.count_max), self._metrics.counters)

    async def run(self) -> int:
        """Serves until the supervisor says drain, or goes away."""
        flush_later(self._loop, self._channel)
        self._loop.add_reader(self._channel.fileno(), self._on_channel)
        await self._loop.run_in_executor(None, self._archive.prepare_writer)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        self._beat()
        Reporter(self._services.commitments, self._trace).start()
        self._tell("configured", version=self._version)
        self._tell("ready")
        self._sweep()
        await self._ended.wait()
        self._loop.remove_reader(self._channel.fileno())
        if self._exit_code == 0:
            self._services.commitments.close()
            self._ingestor.close()
            self._services.transcoder.close()
            self._archive.close()
        return self._exit_code

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        guards.call("sweep", self._archive.retrieval.sweep)

    def _beat(self) -> None:
        self._loop.call_later(BEAT_S, self._beat)
        self._roster.beat()
        guards.call("admission", self._services.admission.look)
        log.flush()

    def _storage_failed(self, error: EngineError) -> None:
        """Final: nothing is acknowledged any more, and this process must not write again."""
        logger.error("storage failed", error=str(error))
        self._exit_code = EXIT_STORAGE_FAILED
        self._tell("failed", error=str(error))
        for connection in list(self._connections):
            connection.abort("storage failed", 2, 0)
        self._loop.call_later(0.2, self._ended.set)

    # -- the supervisor's messages --------------------------------------------------------------

    def _on_channel(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                self._handle(*received)
        except ChannelClosed:
            logger.error("the supervisor is gone")
            self._exit_code = self._exit_code or 1
            self._ended.set()
        except Exception:
            # Half a message done, and nobody who repeats it: a successor begins with what holds now.
            logger.error("a message of the supervisor was not understood, the worker ends", error=format_exc())
            self._exit_code = self._exit_code or 1
            self._ended.set()

    def _handle(self, message: dict[str, Any], fd: int | None) -> None:
        match message["kind"]:
            case "accept":
                self._accept(message["host"], message["serial"], fd)
            case "config":
                self._config = Config.from_json(message["config"].encode())
                self._services.config = self._config
                self._store.log.keep_free(self._config.limits.disk_reserve_bytes)
                self._version = message["version"]
                self._tell("configured", version=self._version)
            case "stats":
                self._tell("stats", request=message["request"], stats=self._stats())
            case "drain":
                self._draining = True
                self._run_task("drain", self._drain(message["limit_s"]), lambda _: self._ended.set())

    def _accept(self, host: str, serial: int, fd: int | None) -> None:
        if not self._roster.claim(serial):
            if fd is not None:
                os.close(fd)
            return
        if fd is None:
            # The kernel drops a descriptor for which we have no number left.
            logger.about(host).error("out of file descriptors, a connection was not taken", peer=host)
            self._metrics.counters["out_of_descriptors"] += 1
            self._tell("full", serial=serial)
            return
        self._tell("taken", serial=serial)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self._make_room()
        self._run_task("connect", self._connect(sock, host, self._draining))

    def _make_room(self) -> None:
        """Ends the oldest of those that have no association, when there are too many of them."""
        limit = self._config.limits.connections_waiting_max
        if len(self._connections) - self._services.associations_count < limit:
            return
        for connection, acceptor in list(self._connections.items()):
            if acceptor.session is None:
                self._metrics.counters["connections_evicted"] += 1
                connection.abort("made room for others", 2, 0)
                return

    async def _connect(self, sock: socket.socket, host: str, busy: bool) -> None:
        def end(connection: Connection) -> None:
            self._connections.pop(connection, None)
            self._tell("closed")

        def user(connection: Connection) -> Acceptor:
            acceptor = Acceptor(self._services, connection, refuse=busy, on_end=end)
            self._connections[connection] = acceptor
            return acceptor

        limits = self._config.limits
        try:
            await self._loop.connect_accepted_socket(
                lambda: Connection(
                    user,
                    Role.ACCEPTOR,
                    self._pool,
                    ConnectionLimits(
                        p_data_length_max=limits.pdu_length_accept_max,
                        control_length_max=limits.associate_pdu_length_max,
                        part_bytes=limits.stream_threshold_bytes,
                        artim_timeout_s=limits.artim_timeout_s,
                        message_timeout_s=limits.dimse_timeout_s,
                        rate_bytes_per_s_min=limits.transfer_rate_bytes_per_s_min,
                        delivery_rate_bytes_per_s_min=limits.delivery_rate_bytes_per_s_min,
                        pdv_count_max=limits.pdvs_per_pdu_max,
                        idle_timeout_s=limits.idle_timeout_s,
                    ),
                    self._trace.association(host) if self._trace else None,
                ),
                sock,
            )
        except Exception as error:
            # Mostly an OSError: the peer was gone before the loop could take the socket.
            tell = logger.info if isinstance(error, OSError) else logger.error
            tell("connection lost before it began", peer=host, error=str(error))
            sock.close()
            self._tell("closed")

    def _run_task(self, name: str, work: Coroutine[None, None, None], on_crash: guards.OnCrash | None = None) -> None:
        """Runs it, kept until it ends; what it raises is logged."""
        task = guards.watch(self._loop.create_task(work), name, on_crash)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, kind: str, **fields: object) -> None:
        try:
            self._channel.send(kind, fd=None, **fields)
        except ChannelClosed:
            pass  # _on_channel sees it too and ends the worker

    def _stats(self) -> dict[str, object]:
        return {
            **self._metrics.snapshot(),
            "associations": self._services.associations_count,
            "waiting": self._services.traffic.waiting_count,
            "admission": self._services.admission.snapshot(),
            "retrieval_budget": self._services.retrieval_budget.snapshot(),
            "queue_depth": self._ingestor.depth,
            "chunks": self._pool.outstanding,
            "group_size": self._ingestor.commit.group_sizes.snapshot(),
            "sync_latency_s": self._ingestor.commit.sync_latency_s.snapshot(),
        }

    async def _drain(self, limit_s: float) -> None:
        deadline = self._loop.time() + limit_s
        for connection, acceptor in list(self._connections.items()):
            if acceptor.session is None:
                connection.abort("the server is stopping", 2, 0)
        while self._connections and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.abort("the server is stopping", 2, 0)
        self._ended.set()


def main(fd: int) -> int:
    """The worker's whole life; the exit code."""
    # The terminal's Ctrl-C goes to the whole process group: the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel.inherited(fd)
    channel.set_blocking(True)
    try:
        started, configured = channel.receive(), channel.receive()
    except ChannelClosed:
        return 1
    assert started is not None and configured is not None
    channel.set_blocking(False)
    number, message = started[0]["number"], configured[0]
    assert started[1] is not None
    config = Config.from_json(message["config"].encode())
    log.configure(config.log, worker=number)
    roster = Roster.inherited(started[1], number)

    async def run() -> int:
        return await Worker(channel, number, config, roster, message["version"]).run()

    try:
        return uvloop.run(run())
    except EngineError as error:
        logger.error("worker cannot start", error=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
