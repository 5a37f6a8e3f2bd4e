"""The workers: started, given connections, watched, replaced when they die.

a connection → the worker with the fewest that is not silent; it stays open here until that worker says it has it
worker is silent → what it has not claimed goes to another, and so do new connections; after a time it is killed
worker is full → the next one; all are full, or there is none → the connection waits here
worker dies → what it has claimed is lost, what it has not goes to another; what it appended is replayed and sealed;
              another is started, and when that is not possible, tried again after a longer and longer pause
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from engine import guards, log
from engine.config import Config
from engine.errors import StorageError
from engine.metrics import Metrics
from engine.server import child
from engine.server.channel import Channel, ChannelClosed
from engine.server.child import Child, Restarts
from engine.services.roster import Roster

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


class WorkerProcess(Child):
    """One worker process as the supervisor sees it."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        super().__init__(process, channel)
        self.number = number
        self.connections = 0
        self.ready = False
        self.is_silent = False
        self.handed: dict[int, tuple[socket.socket, str]] = {}
        """Connections that it has been given and has not taken yet, by serial number."""


class Pool:
    """See the module's head. Used on the supervisor's loop."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        *,
        recover: Callable[[], Awaitable[None]],
        on_change: Callable[[], None],
        fail: Callable[[str], None],
        spawn: Callable[[str], tuple[subprocess.Popen[bytes], Channel]] = child.spawn,
    ) -> None:
        """`recover` takes over what a dead process left in the log; `on_change`: whether any worker is ready may have
        changed; `fail` ends the server."""
        self._config = config
        self._config_json = config.to_json().decode()
        self._version = 1
        self._metrics = metrics
        self._recover = recover
        self._on_change = on_change
        self._fail = fail
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._roster, self._roster_fd = Roster.create(config.workers)
        self._workers: list[WorkerProcess] = []
        self._restarts = [Restarts(RESTART_PAUSE_S, RESTART_PAUSE_MAX_S) for _ in range(config.workers)]
        self._missing: dict[int, str] = {}
        """Workers that could not be started again: number → why."""
        self._parked: list[tuple[socket.socket, str]] = []
        """Asked for an association while no worker could take it."""
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
        return sum(worker.connections for worker in self._workers)

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
        for sock, _ in parked:
            sock.close()
        for worker in list(self._workers):
            worker.tell("drain", limit_s=limit_s)

    async def stats(self) -> list[dict[str, object]]:
        """A row a worker; one that cannot be started has no process id and says why."""
        workers = list(self._workers)
        answers = await asyncio.gather(*(worker.ask(STATS_TIMEOUT_S) for worker in workers))
        rows: list[dict[str, object]] = [
            {"number": worker.number, "pid": worker.process.pid, "connections": worker.connections,
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
        process, channel = self._spawn("engine.server.worker")
        worker = WorkerProcess(number, process, channel)
        self._workers.append(worker)
        worker.attach(lambda message: self._handle(worker, message), lambda: self._lost(worker))
        worker.tell("start", fd=self._roster_fd, number=number)
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
                worker.connections -= self._let_go(worker, message["serial"])
            case "closed":
                worker.connections -= 1
            case "failed":
                logger.error("worker stopped writing", worker=worker.number, error=message["error"])

    def _let_go(self, worker: WorkerProcess, serial: int) -> bool:
        handed = worker.handed.pop(serial, None)
        if handed is None:
            return False
        handed[0].close()
        return True

    def _lost(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        if not self.ready_count:
            self._on_change()
        claimed = self._roster.claimed(worker.number)
        handed, worker.handed = worker.handed, {}
        for serial, (sock, host) in handed.items():
            if serial > claimed:
                self.hand_over(sock, host)
            else:
                sock.close()

        def give_up(error: BaseException) -> None:
            self._fail(f"worker {worker.number} cannot be replaced: {error}")

        task = guards.watch(self._loop.create_task(self._bury(worker)), "replace worker", give_up)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury(self, worker: WorkerProcess) -> None:
        """Waits for a lost worker's end, takes over what it left in the log, and replaces it."""
        number = worker.number
        code = await worker.ended()
        self._roster.clear(number)
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

    def hand_over(self, sock: socket.socket, host: str) -> None:
        """Gives a connection to a worker; it stays open here until the worker says that it has taken it."""
        if not self._offer(sock, host):
            if self._draining or len(self._parked) >= self._config.limits.connections_waiting_max:
                sock.close()
            else:
                self._parked.append((sock, host))

    def _offer(self, sock: socket.socket, host: str) -> bool:
        ready = [worker for worker in self._workers if worker.ready]
        for worker in sorted(ready, key=lambda candidate: (candidate.is_silent, candidate.connections)):
            self._serial += 1
            try:
                if not worker.channel.offer("accept", fd=sock.fileno(), host=host, serial=self._serial):
                    continue
            except ChannelClosed:
                continue
            worker.connections += 1
            worker.handed[self._serial] = sock, host
            return True
        return False

    def _unpark(self) -> None:
        while self._parked and self._offer(*self._parked[0]):
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
        silent_s = self._roster.silent_s(worker.number)
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
        claimed = self._roster.revoke(worker.number, max(worker.handed))
        if claimed is None:
            return  # it runs again, and is just taking one
        for serial in [serial for serial in worker.handed if serial > claimed]:
            sock, host = worker.handed.pop(serial)
            worker.connections -= 1
            self.hand_over(sock, host)
