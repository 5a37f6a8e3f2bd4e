"""One worker process: an event loop, an engine, and fronts for the connections that the supervisor hands it.

Knows no protocol: whoever composes the program gives it what makes the fronts (`serve`). It shares no memory with other
workers but the one in which they are counted: LMDB and the log are what workers have in common. When the supervisor
goes, it goes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from traceback import format_exc
from typing import TYPE_CHECKING, Any

import uvloop

from engine import guards, log
from engine.archive.archive import Archive
from engine.config import Config
from engine.errors import EngineError
from engine.runtime.engine import Engine
from engine.runtime.worker_memory import WorkerMemory
from engine.server.channel import Channel, ChannelClosed
from engine.server.child import flush_later

if TYPE_CHECKING:
    from engine.runtime.front import Front

logger = log.get("server.worker")

SWEEP_INTERVAL_S = 2.0
"""How often the files of segments that a compaction has removed are let go: until then their space is not free."""

EXIT_STORAGE_FAILED = 3
"""The log or the index failed: what was acknowledged is safe, the supervisor recovers and starts another worker."""

BEAT_S = 0.1
"""How often the heartbeat is written; the supervisor takes a second of silence for a sign."""

CLUSTER_TIMEOUT_S = 3.0
"""How long the supervisor may take to tell the statistics of all processes: longer than it waits for each."""

DRAIN_LOOK_S = 0.02

MakeFronts = Callable[[Engine, "Process"], "list[Front]"]
"""Makes the fronts of one worker."""


class Process:
    """What a front may ask of the process that hosts it."""

    def __init__(self, number: int, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self._channel = channel
        self._loop = loop
        self._request = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def server_stats(self) -> dict[str, Any]:
        """The statistics of the whole server, all its processes; empty when the supervisor does not answer in time."""
        self._request = request = self._request + 1
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[request] = answer
        try:
            self._channel.send("server_stats", request=request)
            return await asyncio.wait_for(answer, CLUSTER_TIMEOUT_S)
        except (ChannelClosed, TimeoutError):
            return {}
        finally:
            self._answers.pop(request, None)

    def answered(self, request: int, stats: dict[str, Any]) -> None:
        """The supervisor has answered."""
        answer = self._answers.get(request)
        if answer is not None and not answer.done():
            answer.set_result(stats)


class Worker:
    """The process; `run` returns its exit code."""

    def __init__(
        self,
        channel: Channel,
        number: int,
        config: Config,
        memory: WorkerMemory,
        make_fronts: MakeFronts,
        version: int,
    ) -> None:
        """`version`: of the configuration."""
        self._channel = channel
        self._version = version
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._exit_code = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._heartbeat = memory.heartbeat
        self._archive = Archive.open(config.data, role="guest")
        self._engine = Engine.open(
            self._archive,
            config,
            writer=f"worker-{number}-{os.getpid()}",
            on_failure=self._storage_failed,
            associations=memory.associations,
        )
        self._process = Process(number, channel, self._loop)
        self._fronts: dict[str, Front] = {}
        self._make_fronts = make_fronts

    async def run(self) -> int:
        """Serves until the supervisor says drain, or goes away."""
        flush_later(self._loop, self._channel)
        self._loop.add_reader(self._channel.fileno(), self._on_channel)
        await self._engine.pools.slow.run(self._archive.prepare_writer)
        self._fronts = {front.name: front for front in self._make_fronts(self._engine, self._process)}
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        self._beat()
        self._tell("configured", version=self._version)
        self._tell("ready")
        self._sweep()
        await self._ended.wait()
        self._loop.remove_reader(self._channel.fileno())
        if self._exit_code == 0:
            for front in self._fronts.values():
                front.close()
            self._engine.close()
            self._archive.close()
        return self._exit_code

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        guards.call("sweep", self._archive.retrieval.sweep)

    def _beat(self) -> None:
        self._loop.call_later(BEAT_S, self._beat)
        self._heartbeat.beat()
        guards.call("admission", self._engine.admission.look)
        log.flush()

    def _storage_failed(self, error: EngineError) -> None:
        """Final: nothing is acknowledged any more, and this process must not write again."""
        logger.error("storage failed", error=str(error))
        self._exit_code = EXIT_STORAGE_FAILED
        self._tell("failed", error=str(error))
        for front in self._fronts.values():
            front.abort("storage failed")
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
                self._accept(message["front"], message["host"], message["serial"], fd)
            case "config":
                config = Config.from_json(message["config"].encode())
                self._engine.configure(config)
                for front in self._fronts.values():
                    front.configure(config)
                self._version = message["version"]
                self._tell("configured", version=self._version)
            case "stats":
                self._tell("stats", request=message["request"], stats=self._stats())
            case "server_stats":
                self._process.answered(message["request"], message["stats"])
            case "drain":
                self._run_task("drain", self._drain(message["limit_s"]), lambda _: self._ended.set())

    def _accept(self, front: str, host: str, serial: int, fd: int | None) -> None:
        if not self._heartbeat.claim(serial):
            if fd is not None:
                os.close(fd)
            return
        if fd is None:
            # The kernel drops a descriptor for which we have no number left.
            logger.about(host).error("out of file descriptors, a connection was not taken", peer=host)
            self._engine.metrics.counters["out_of_descriptors"] += 1
            self._tell("full", serial=serial)
            return
        self._tell("taken", serial=serial)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self._fronts[front].connected(sock, host, lambda: self._tell("closed", front=front))

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
        stats = self._engine.stats()
        for front in self._fronts.values():
            stats |= front.stats()
        return stats

    async def _drain(self, limit_s: float) -> None:
        deadline = self._loop.time() + limit_s
        for front in self._fronts.values():
            front.start_draining()
        while self._connections_count and self._loop.time() < deadline:
            await asyncio.sleep(DRAIN_LOOK_S)
        for front in self._fronts.values():
            front.abort("the server is stopping")
        self._ended.set()

    @property
    def _connections_count(self) -> int:
        return sum(front.connections_count for front in self._fronts.values())


def serve(fd: int, make_fronts: MakeFronts) -> int:
    """The worker's whole life; the exit code. `fd`: its end of the channel to the supervisor."""
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
    memory = WorkerMemory(started[1], number)

    async def run() -> int:
        return await Worker(channel, number, config, memory, make_fronts, message["version"]).run()

    try:
        return uvloop.run(run())
    except EngineError as error:
        logger.error("worker cannot start", error=str(error))
        return 1
