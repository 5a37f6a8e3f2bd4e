"""The pool of workers: starts them, hands connections to them, watches them, replaces them when they die.

a connection        goes to the running worker that has the fewest of its front; it stays open here until that
                    worker has taken it
worker is silent    connections that it has not claimed, and new ones, go to others; after a time it is killed
worker is full      the next worker gets the connection; if all are full, or there is none, it waits here
worker dies         connections that it has claimed are lost, others go to another worker; its appended records are
                    replayed and sealed; another worker is started, with ever longer pauses when that fails
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import guards, log
from engine.config import Config
from engine.errors import StorageError
from engine.metrics import Metrics
from engine.runtime.worker_memory import WorkerMemory
from engine.server import child
from engine.server.channel import Channel, ChannelClosed
from engine.server.child import Child, Process, Restarts, Spawn

if TYPE_CHECKING:
    import socket

logger = log.get("server.supervisor")

RESTART_PAUSE_S = 0.2
"""The pause before a dead worker is replaced. It doubles each time that the worker dies soon or cannot be started, up
to RESTART_PAUSE_MAX_S."""

RESTART_PAUSE_MAX_S = 5.0

SILENT_S = 1.0
"""A worker whose heartbeat is older gets no new connections."""

CONFIGURED_S = 2.0
"""How long a reload waits for the workers to confirm the new configuration."""

STATS_TIMEOUT_S = 2.0


class Connection(NamedTuple):
    """A connection that has sent its first request."""

    front: str
    sock: socket.socket
    host: str


class WorkerProcess(Child):
    """The supervisor's side of one worker process."""

    def __init__(self, number: int, process: Process, channel: Channel) -> None:
        super().__init__(process, channel)
        self.number = number
        self.connections: dict[str, int] = {}
        """The number of its connections by front, including handovers."""
        self.ready = False
        self.is_silent = False
        self.handovers: dict[int, Connection] = {}
        """Connections that were handed to it and that it has not taken yet, by serial number."""

    @property
    def connections_count(self) -> int:
        """The number of its connections, including handovers."""
        return sum(self.connections.values())


class Pool:
    """All workers; used on the supervisor's loop."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        module: str,
        *,
        recover: Callable[[], Awaitable[None]],
        on_change: Callable[[], None],
        fail: Callable[[str], None],
        spawn: Spawn = child.spawn,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        """`module`: what a worker process runs. `recover` recovers the log of a dead process; `on_change` is called
        when the first worker may have become ready or the last one have ended; `fail` ends the server."""
        self._config = config
        self._config_json = config.to_json().decode()
        self._origins = dict(origins or {})
        """Where each key of the configuration gets its value from, for workers that show it."""
        self._version = 1
        self._metrics = metrics
        self._recover = recover
        self._on_change = on_change
        self._fail = fail
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._module = module
        self._memory = WorkerMemory.create(config.workers)
        self.answer: Callable[[str, dict[str, Any]], Awaitable[dict[str, object]]] = self._no_answer
        """Answers a worker that asks the server about a topic, with the fields of its question."""
        self._workers: list[WorkerProcess] = []
        self._restarts = [Restarts(RESTART_PAUSE_S, RESTART_PAUSE_MAX_S) for _ in range(config.workers)]
        self._missing: dict[int, str] = {}
        """Workers that could not be started again: number → reason."""
        self._parked: list[Connection] = []
        """Connections that wait because no worker could take them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._serial = 0
        self._serving = False
        self._draining = False

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all workers. Raises StorageError when the system does not allow it."""
        for number in range(self._config.workers):
            try:
                self._start(number)
            except OSError as error:
                raise StorageError(f"worker {number} cannot be started: {error.strerror or error}") from error

    @property
    def ready_count(self) -> int:
        """The number of workers that are ready."""
        return sum(worker.ready for worker in self._workers)

    @property
    def connections_count(self) -> int:
        """The number of connections of all workers, including handovers."""
        return sum(worker.connections_count for worker in self._workers)

    @property
    def processes(self) -> list[Process]:
        """The running worker processes."""
        return [worker.process for worker in self._workers]

    def serve(self) -> None:
        """Call this when all workers are ready: from now on a worker that dies is replaced."""
        self._serving = True

    def reload(self, config: Config, origins: Mapping[str, str] | None = None) -> None:
        """Replaces the configuration. Each worker gets it before any connection that is handed over later."""
        self._config = config
        self._config_json = config.to_json().decode()
        self._origins = dict(origins or {})
        self._version += 1
        for worker in self._workers:
            worker.configure(self._config_json, self._version, self._origins)

    async def wait_until_configured(self) -> list[int]:
        """Waits up to CONFIGURED_S for every worker to apply the configuration; returns those that have not."""
        give_up_at = self._loop.time() + CONFIGURED_S
        while (numbers := self._unconfigured()) and self._loop.time() < give_up_at:
            await asyncio.sleep(0.005)
        return numbers

    def _unconfigured(self) -> list[int]:
        return [worker.number for worker in self._workers if worker.version < self._version]

    def drain(self, limit_s: float) -> None:
        """Ends the workers: they accept nothing new, and open connections may continue for `limit_s`."""
        self._draining = True
        parked, self._parked = self._parked, []
        for connection in parked:
            connection.sock.close()
        for worker in list(self._workers):
            worker.send("drain", limit_s=limit_s)

    async def ask(self, topic: str) -> list[dict[str, object]]:
        """The facts of each running worker on a topic."""
        workers = list(self._workers)
        answers = await asyncio.gather(*(worker.ask(topic, STATS_TIMEOUT_S) for worker in workers))
        rows: list[dict[str, object]] = [
            {"number": worker.number, "pid": worker.process.pid, "connections": worker.connections_count,
             "is_configured": worker.version == self._version, **answer}
            for worker, answer in zip(workers, answers, strict=True)
        ]  # fmt: skip
        return rows

    @property
    def missing(self) -> list[dict[str, object]]:
        """Workers that could not be started again yet, with the reason."""
        return [{"number": number, "error": error} for number, error in sorted(self._missing.items())]

    # -- start and end of one -------------------------------------------------------------------

    def _start(self, number: int) -> None:
        process, channel = self._spawn(self._module)
        worker = WorkerProcess(number, process, channel)
        self._workers.append(worker)
        worker.attach(lambda message: self._handle(worker, message), lambda: self._on_lost(worker))
        worker.send("start", fd=self._memory.fd, number=number)
        worker.configure(self._config_json, self._version, self._origins)

    def _handle(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "ready":
                worker.ready = True
                self._missing.pop(worker.number, None)
                if self._serving and not self._draining:
                    self._on_change()
                    self._unpark()
            case "handled":
                while worker.handovers and (serial := next(iter(worker.handovers))) <= message["taken"]:
                    self._end_handover(worker, serial)
                for front, count in message["closed"].items():
                    worker.connections[front] -= count
            case "full":
                if (connection := self._end_handover(worker, message["serial"])) is not None:
                    worker.connections[connection.front] -= 1
            case "ask":
                self._run(self._answer(worker, message), "answer")
            case "failed":
                logger.error("worker stopped writing", worker=worker.number, error=message["error"])

    async def _answer(self, worker: WorkerProcess, question: dict[str, Any]) -> None:
        worker.send("answer", request=question["request"], answer=await self.answer(question["topic"], question))

    async def _no_answer(self, topic: str, question: dict[str, Any]) -> dict[str, object]:
        return {}

    def _end_handover(self, worker: WorkerProcess, serial: int) -> Connection | None:
        connection = worker.handovers.pop(serial, None)
        if connection is not None:
            connection.sock.close()
        return connection

    def _on_lost(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        if not self.ready_count:
            self._on_change()
        claimed = self._memory.heartbeat.claimed(worker.number)
        handovers, worker.handovers = worker.handovers, {}
        for serial, connection in handovers.items():
            if serial > claimed:
                self._hand_over(connection)
            else:
                connection.sock.close()

        def give_up(error: BaseException) -> None:
            self._fail(f"worker {worker.number} cannot be replaced: {error}")

        self._run(self._replace(worker), "replace worker", give_up)

    def _run(self, work: Coroutine[None, None, None], name: str, on_crash: guards.OnCrash | None = None) -> None:
        task = guards.watch(self._loop.create_task(work), name, on_crash)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, worker: WorkerProcess) -> None:
        """Waits for a lost worker's end, recovers its part of the log, and replaces it."""
        number = worker.number
        code = await worker.wait_for_end()
        self._memory.clear(number)
        if self._draining:
            return
        logger.error("worker died, its associations are lost", worker=number, exit_code=code)
        self._missing[number] = f"the last one ended with exit code {code}"
        if not self._serving:
            self._fail(f"worker {number} does not start")
            return
        pause_s = self._restarts[number].pause_s(time.monotonic() - worker.started_at)
        is_recovered = False
        while not self._draining:
            try:
                if not is_recovered:
                    await self._recover()
                    is_recovered = True
                await asyncio.sleep(pause_s)
                if not self._draining:
                    self._start(number)
                return
            except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no thread can be started
                self._missing[number] = str(error) or type(error).__name__
                self._metrics.counters["workers_not_started"] += 1
                pause_s = self._restarts[number].pause_s()
                logger.error("worker cannot be started", worker=number, error=self._missing[number], pause_s=pause_s)

    # -- connections ----------------------------------------------------------------------------

    def hand_over(self, front: str, sock: socket.socket, host: str) -> None:
        """Gives a connection to a worker's front; it stays open here until the worker confirms that it has taken it."""
        self._hand_over(Connection(front, sock, host))

    def _hand_over(self, connection: Connection) -> None:
        if not self._offer(connection):
            if self._draining or len(self._parked) >= self._config.limits.connections_waiting_max:
                connection.sock.close()
            else:
                self._parked.append(connection)

    def _offer(self, connection: Connection) -> bool:
        front, sock, host = connection

        def load(worker: WorkerProcess) -> tuple[bool, int, int]:
            # Spread each front's connections evenly: a browser's idle connections say nothing about associations.
            return worker.is_silent, worker.connections.get(front, 0), worker.connections_count

        for worker in sorted((worker for worker in self._workers if worker.ready), key=load):
            self._serial += 1
            try:
                if not worker.channel.offer("accept", fd=sock.fileno(), front=front, host=host, serial=self._serial):
                    continue
            except ChannelClosed:
                continue
            worker.connections[front] = worker.connections.get(front, 0) + 1
            worker.handovers[self._serial] = connection
            return True
        return False

    def _unpark(self) -> None:
        while self._parked and self._offer(self._parked[0]):
            self._parked.pop(0)

    # -- watching -------------------------------------------------------------------------------

    def check(self) -> None:
        """Handles silent workers, waiting connections, unconfirmed configurations. Call it several times a second."""
        for worker in list(self._workers):
            if worker.is_behind(self._version):
                logger.warning("worker has not confirmed the configuration, sending it again", worker=worker.number)
                worker.configure(self._config_json, self._version, self._origins)
            if worker.ready:
                self._check_silence(worker)
        self._unpark()

    def _check_silence(self, worker: WorkerProcess) -> None:
        silent_s = self._memory.heartbeat.silent_s(worker.number)
        if silent_s < SILENT_S:
            if worker.is_silent:
                logger.info("worker runs again", worker=worker.number)
                worker.is_silent = False
            return
        if not worker.is_silent:
            worker.is_silent = True
            self._metrics.counters["workers_silent"] += 1
            logger.warning("worker does not answer, new connections go to others", worker=worker.number)
        limit_s = self._config.limits.worker_silence_s_max
        if limit_s and silent_s > limit_s:
            logger.error("worker did not answer for too long and is replaced", worker=worker.number, silent_s=silent_s)
            self._metrics.counters["workers_replaced"] += 1
            worker.process.kill()
        elif worker.handovers and any(other.ready and not other.is_silent for other in self._workers):
            self._take_back(worker)

    def _take_back(self, worker: WorkerProcess) -> None:
        """Gives the connections that a silent worker has not claimed to others; the claimed ones stay its own."""
        claimed = self._memory.heartbeat.revoke(worker.number, max(worker.handovers))
        if claimed is None:
            return  # the worker runs again, and is just claiming one
        for serial in [serial for serial in worker.handovers if serial > claimed]:
            connection = worker.handovers.pop(serial)
            worker.connections[connection.front] -= 1
            self._hand_over(connection)
