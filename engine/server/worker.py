"""One worker process: an event loop, an engine, and fronts for the connections that the supervisor hands it.

It knows no protocol: the caller of `serve` provides a function that makes the fronts. Workers share LMDB, the log, and
the memory in which associations are counted. When the supervisor ends, the worker ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import uvloop

from engine import audit, guards, log
from engine.archive.archive import Archive
from engine.config import Config
from engine.errors import EngineError, for_log
from engine.runtime.engine import Engine
from engine.runtime.worker_memory import WorkerMemory
from engine.server import bootstrap
from engine.server.channel import Channel, ChannelClosed

if TYPE_CHECKING:
    from engine.runtime.front import Front

logger = log.get("server.worker")

SWEEP_INTERVAL_S = 2.0
"""The interval at which files of removed segments are closed: until then their space is not free."""

EXIT_STORAGE_FAILED = 3
"""The log or the index failed. Acknowledged instances are safe; the supervisor recovers and starts another worker."""

BEAT_S = 0.1
"""The interval of the heartbeat; after a second without one the supervisor calls the worker silent."""

CLUSTER_TIMEOUT_S = 5.0
"""How long the supervisor may take to collect facts of all processes, or to have all of them apply a configuration:
longer than it waits for each."""

HANDLED_S = 0.005
"""How long the supervisor hears later which connections were taken and closed: several short ones cost one message."""

DRAIN_CHECK_S = 0.02
ABORT_S = (2.0, 1.0)
"""For aborted connections to end: by the peer, who reads an A-ABORT; at the second attempt without it."""

MakeFronts = Callable[[Engine, "Process"], "list[Front]"]
"""Makes the fronts of one worker."""


class Process:
    """The worker process as its fronts see it."""

    def __init__(self, number: int, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self._channel = channel
        self._loop = loop
        self._request = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def ask(self, topic: str, **fields: object) -> dict[str, Any]:
        """Asks the supervisor, as "stats" for the statistics of all processes; empty without an answer in time."""
        self._request = request = self._request + 1
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[request] = answer
        try:
            self._channel.send("ask", request=request, fd=None, topic=topic, **fields)
            return await asyncio.wait_for(answer, CLUSTER_TIMEOUT_S)
        except (ChannelClosed, TimeoutError):
            return {}
        finally:
            self._answers.pop(request, None)

    def on_answer(self, request: int, facts: dict[str, Any]) -> None:
        """Handles the supervisor's answer."""
        answer = self._answers.get(request)
        if answer is not None and not answer.done():
            answer.set_result(facts)


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
        origins: Mapping[str, str],
    ) -> None:
        """`version`: number of the configuration; `origins`: where its values come from."""
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
        self._engine.origins = origins
        self._process = Process(number, channel, self._loop)
        self._fronts: dict[str, Front] = {}
        self._make_fronts = make_fronts
        self._taken = 0
        """The last connection that was taken, by serial number."""
        self._closed: dict[str, int] = {}
        """Front → closed connections that the supervisor has not heard of."""
        self._reporting: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Serves until the supervisor sends drain, or ends."""
        bootstrap.listen(self._channel, self._handle, self._end_early)
        await self._engine.pools.slow.run(self._archive.prepare_writer)
        self._fronts = {front.name: front for front in self._make_fronts(self._engine, self._process)}
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        self._beat()
        self._send("configured", version=self._version)
        self._send("ready")
        self._sweep()
        await self._ended.wait()
        self._loop.remove_reader(self._channel.fileno())
        await self._engine.audit_trail.finish()
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
        """Ends the process: it must not acknowledge or write anything any more."""
        logger.error("storage failed", error=for_log(error))
        self._exit_code = EXIT_STORAGE_FAILED
        self._send("failed", error=for_log(error))
        for front in self._fronts.values():
            front.abort("storage failed")
        self._loop.call_later(0.2, self._ended.set)

    # -- the supervisor's messages --------------------------------------------------------------

    def _end_early(self) -> None:
        self._exit_code = self._exit_code or 1
        self._ended.set()

    def _handle(self, message: dict[str, Any], fd: int | None) -> None:
        match message["kind"]:
            case "accept":
                self._accept(message["front"], message["host"], message["serial"], fd)
            case "config":
                config = Config.from_json(message["config"].encode())
                self._engine.configure(config)
                self._engine.origins = message["origins"]
                for front in self._fronts.values():
                    front.configure(config)
                self._version = message["version"]
                self._send("configured", version=self._version)
            case "ask":
                self._report()
                self._send("answer", request=message["request"], answer=self._facts(message["topic"]))
            case "answer":
                self._process.on_answer(message["request"], message["answer"])
            case "drain":
                self._run_task("drain", self._drain(message["limit_s"]), lambda _: self._ended.set())

    def _accept(self, front: str, host: str, serial: int, fd: int | None) -> None:
        if not self._heartbeat.claim(serial):
            if fd is not None:
                os.close(fd)
            return
        if fd is None:
            # The kernel drops the descriptor of a message if this process has none free.
            logger.about(host).error("out of file descriptors, a connection was not taken", peer=host)
            self._engine.metrics.counters["out_of_descriptors"] += 1
            self._report()
            self._send("full", serial=serial)
            return
        self._taken = serial
        self._report_soon()
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self._fronts[front].connected(sock, host, lambda: self._on_closed(front))

    def _on_closed(self, front: str) -> None:
        self._closed[front] = self._closed.get(front, 0) + 1
        self._report_soon()

    def _report_soon(self) -> None:
        if self._reporting is None:
            self._reporting = self._loop.call_later(HANDLED_S, self._report)

    def _report(self) -> None:
        """Tells the supervisor which connections were taken and closed since the last time."""
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None
            closed, self._closed = self._closed, {}
            self._send("handled", taken=self._taken, closed=closed)

    def _run_task(self, name: str, work: Coroutine[None, None, None], on_crash: guards.OnCrash | None = None) -> None:
        """Runs it as a task; logs its exception."""
        task = guards.watch(self._loop.create_task(work), name, on_crash)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, kind: str, **fields: object) -> None:
        try:
            self._channel.send(kind, fd=None, **fields)
        except ChannelClosed:
            pass  # the listener of the channel gets the same error and ends the worker

    def _facts(self, topic: str) -> dict[str, object]:
        if topic == "peers":
            return {"peers": self._engine.sightings.snapshot()}
        stats = self._engine.stats()
        for front in self._fronts.values():
            stats |= front.stats()
        return stats

    async def _drain(self, limit_s: float) -> None:
        deadline = self._loop.time() + limit_s
        for front in self._fronts.values():
            front.start_draining()
        while self._connections_count and self._loop.time() < deadline:
            await asyncio.sleep(DRAIN_CHECK_S)
        for limit_s in ABORT_S:
            for front in self._fronts.values():
                front.abort("the server is stopping")
            # What an association has received is recorded when it has ended, which needs the pools.
            deadline = self._loop.time() + limit_s
            while self._connections_count and self._loop.time() < deadline:
                await asyncio.sleep(DRAIN_CHECK_S)
        self._ended.set()

    @property
    def _connections_count(self) -> int:
        return sum(front.connections_count for front in self._fronts.values())


def serve(fd: int, make_fronts: MakeFronts) -> int:
    """Runs the worker process; returns its exit code. `fd`: its end of the channel to the supervisor."""
    channel = bootstrap.open_channel(fd)
    try:
        start, memory_fd = bootstrap.receive(channel)
    except ChannelClosed:
        return 1
    assert memory_fd is not None
    number = start["number"]
    memory = WorkerMemory(memory_fd, number)

    async def work(config: Config, message: dict[str, Any]) -> int:
        return await Worker(channel, number, config, memory, make_fronts, message["version"], message["origins"]).run()

    def start_loop(config: Config, message: dict[str, Any]) -> int:
        audit.prepare()
        return uvloop.run(work(config, message))

    return bootstrap.run(channel, "worker", start_loop, worker=number)
