"""The workers: started, given connections, watched, replaced when they die.

a connection → the worker with the fewest of its front that is not silent; it stays open here until that worker has it
worker is silent → what it has not claimed goes to another, and so do new connections; after a time it is killed
worker is full → the next one; all are full, or there is none → the connection waits here
worker dies → what it has claimed is lost, what it has not goes to another; what it appended is replayed and sealed;
              another is started, and when that is not possible, tried again after a longer and longer pause
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import guards, log
from engine.config import Config
from engine.errors import StorageError
from engine.metrics import Metrics
from engine.runtime.worker_memory import WorkerMemory
from engine.server import child
from engine.server.channel import Channel, ChannelClosed
from engine.server.child import Child, Restarts

if TYPE_CHECKING:
    import socket

logger = log.get("server.supervisor")

RESTART_PAUSE_S = 0.2
"""Before a worker that died is replaced. One that dies again soon, or cannot be started, is tried again after twice as
long, up to RESTART_PAUSE_MAX_S."""

RESTART_PAUSE_MAX_S = 5.0

SILENT_S = 1.0
"""A worker that has not been heard of for so long gets no new connections."""

CONFIGURED_S = 2.0
"""How long a reload waits for the workers to say that they have the new configuration."""

STATS_TIMEOUT_S = 2.0


class Connection(NamedTuple):
    """One that has asked for something and is to be served."""

    front: str
    sock: socket.socket
    host: str


class WorkerProcess(Child):
    """One worker process as the supervisor sees it."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        super().__init__(process, channel)
        self.number = number
        self.connections: dict[str, int] = {}
        """How many it has, or is given, by front."""
        self.ready = False
        self.is_silent = False
        self.handed: dict[int, Connection] = {}
        """Connections that it has been given and has not taken yet, by serial number."""

    @property
    def connections_count(self) -> int:
        """All that it has, or is given."""
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
        spawn: Callable[[str], tuple[subprocess.Popen[bytes], Channel]] = child.spawn,
    ) -> None:
        """`module` of ours is a worker when it is run. `recover` takes over what a dead process left in the log;
        `on_change`: whether any worker is ready may have changed; `fail` ends the server."""
        self._config = config
        self._config_json = config.to_json().decode()
        self._version = 1
        self._metrics = metrics
        self._recover = recover
        self._on_change = on_change
        self._fail = fail
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._module = module
        self._memory = WorkerMemory.create(config.workers)
        self.server_stats: Callable[[], Awaitable[dict[str, object]]] = self._no_stats
        """What a worker gets that asks for the statistics of the whole server."""
        self._workers: list[WorkerProcess] = []
        self._restarts = [Restarts(RESTART_PAUSE_S, RESTART_PAUSE_MAX_S) for _ in range(config.workers)]
        self._missing: dict[int, str] = {}
        """Workers that could not be started again: number → why."""
        self._parked: list[Connection] = []
        """They have asked for something while no worker could take them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._serial = 0
        self._serving = False
        self._draining = False

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all of them. Raises StorageError when the system does not allow it."""
        for number in range(self._config.workers):
            try:
                self._start(number)
            except OSError as error:
                raise StorageError(f"worker {number} cannot be started: {error.strerror or error}") from error

    @property
    def ready_count(self) -> int:
        """How many have said that they are ready."""
        return sum(worker.ready for worker in self._workers)

    @property
    def connections_count(self) -> int:
        """Connections that workers have, or are given."""
        return sum(worker.connections_count for worker in self._workers)

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Those that run."""
        return [worker.process for worker in self._workers]

    def serve(self) -> None:
        """All are ready: from now on one that dies is replaced."""
        self._serving = True

    def reload(self, config: Config) -> None:
        """The configuration from now on. Each gets it before any connection that is handed over later."""
        self._config = config
        self._config_json = config.to_json().decode()
        self._version += 1
        for worker in self._workers:
            worker.configure(self._config_json, self._version)

    async def configured(self) -> list[int]:
        """Waits until every worker has the configuration, but not long; the numbers of those that have not."""
        give_up_at = self._loop.time() + CONFIGURED_S
        while (late := self._late()) and self._loop.time() < give_up_at:
            await asyncio.sleep(0.005)
        return late

    def _late(self) -> list[int]:
        return [worker.number for worker in self._workers if worker.version < self._version]

    def tell_drain(self, limit_s: float) -> None:
        """No new associations; those that are open may go on for so long. Nobody is replaced any more."""
        self._draining = True
        parked, self._parked = self._parked, []
        for connection in parked:
            connection.sock.close()
        for worker in list(self._workers):
            worker.tell("drain", limit_s=limit_s)

    async def stats(self) -> list[dict[str, object]]:
        """A row a worker; one that cannot be started has no process id and says why."""
        workers = list(self._workers)
        answers = await asyncio.gather(*(worker.ask(STATS_TIMEOUT_S) for worker in workers))
        rows: list[dict[str, object]] = [
            {"number": worker.number, "pid": worker.process.pid, "connections": worker.connections_count,
             "is_configured": worker.version == self._version, **answer}
            for worker, answer in zip(workers, answers, strict=True)
        ]  # fmt: skip
        return rows

    @property
    def missing(self) -> list[dict[str, object]]:
        """Workers that could not be started again so far, and why."""
        return [{"number": number, "error": error} for number, error in sorted(self._missing.items())]

    # -- start and end of one -------------------------------------------------------------------

    def _start(self, number: int) -> None:
        process, channel = self._spawn(self._module)
        worker = WorkerProcess(number, process, channel)
        self._workers.append(worker)
        worker.attach(lambda message: self._handle(worker, message), lambda: self._lost(worker))
        worker.tell("start", fd=self._memory.fd, number=number)
        worker.configure(self._config_json, self._version)

    def _handle(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "ready":
                worker.ready = True
                self._missing.pop(worker.number, None)
                if self._serving and not self._draining:
                    self._on_change()
                    self._unpark()
            case "taken":
                self._let_go(worker, message["serial"])
            case "full":
                if (connection := self._let_go(worker, message["serial"])) is not None:
                    worker.connections[connection.front] -= 1
            case "closed":
                worker.connections[message["front"]] -= 1
            case "server_stats":
                self._run(self._answer(worker, message["request"]), "server statistics")
            case "failed":
                logger.error("worker stopped writing", worker=worker.number, error=message["error"])

    async def _answer(self, worker: WorkerProcess, request: int) -> None:
        worker.tell("server_stats", request=request, stats=await self.server_stats())

    async def _no_stats(self) -> dict[str, object]:
        return {}

    def _let_go(self, worker: WorkerProcess, serial: int) -> Connection | None:
        connection = worker.handed.pop(serial, None)
        if connection is not None:
            connection.sock.close()
        return connection

    def _lost(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        if not self.ready_count:
            self._on_change()
        claimed = self._memory.heartbeat.claimed(worker.number)
        handed, worker.handed = worker.handed, {}
        for serial, connection in handed.items():
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
        """Waits for a lost worker's end, takes over what it left in the log, and replaces it."""
        number = worker.number
        code = await worker.ended()
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
        """Gives a connection to a worker's front; it stays open here until the worker says that it has taken it."""
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
            # Those of one front are spread evenly: a browser's idle connections say nothing about associations.
            return worker.is_silent, worker.connections.get(front, 0), worker.connections_count

        for worker in sorted((worker for worker in self._workers if worker.ready), key=load):
            self._serial += 1
            try:
                if not worker.channel.offer("accept", fd=sock.fileno(), front=front, host=host, serial=self._serial):
                    continue
            except ChannelClosed:
                continue
            worker.connections[front] = worker.connections.get(front, 0) + 1
            worker.handed[self._serial] = connection
            return True
        return False

    def _unpark(self) -> None:
        while self._parked and self._offer(self._parked[0]):
            self._parked.pop(0)

    # -- watching -------------------------------------------------------------------------------

    def look_after(self) -> None:
        """Several times a second: silent workers, waiting connections, configurations that did not arrive."""
        for worker in list(self._workers):
            if worker.is_behind(self._version):
                logger.warning("worker has not taken the configuration over, it is told again", worker=worker.number)
                worker.configure(self._config_json, self._version)
            if worker.ready:
                self._listen_for(worker)
        self._unpark()

    def _listen_for(self, worker: WorkerProcess) -> None:
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
        elif worker.handed and any(other.ready and not other.is_silent for other in self._workers):
            self._take_back(worker)

    def _take_back(self, worker: WorkerProcess) -> None:
        """Gives what a silent worker has not claimed to others; what it has claimed it will tell us of, or die with."""
        claimed = self._memory.heartbeat.revoke(worker.number, max(worker.handed))
        if claimed is None:
            return  # it runs again, and is just taking one
        for serial in [serial for serial in worker.handed if serial > claimed]:
            connection = worker.handed.pop(serial)
            worker.connections[connection.front] -= 1
            self._hand_over(connection)
