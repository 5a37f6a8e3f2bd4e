"""The supervisor: owns the listening socket, keeps the archive, starts workers and hands connections to them.

    accept → the lobby, until an association is asked for → the worker with the fewest open connections gets it
    worker is silent → what it has not taken goes to another, and so do new connections; after a time it is killed
    worker dies → what it appended is replayed and sealed, another is started
    caretaker dies → the same, a little later (see `caretaker_process`)
    SIGTERM → no new connections, workers drain, last checkpoint, exit 0        SIGHUP → peers and limits are read again
    SIGTERM again → what is still running is aborted

It serves no association itself. The listening socket outlives every worker, so nobody is refused while one is
replaced; and few long-lived associations are spread evenly, which SO_REUSEPORT does not do (8 fall 6 to 2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from engine import __version__, control, log
from engine.archive import extras
from engine.archive.archive import Archive
from engine.config import Config
from engine.errors import ArchiveInUse, ConfigError, EngineError
from engine.metrics import Metrics
from engine.net.trace import make_folder
from engine.server.caretaker_process import CaretakerProcess
from engine.server.channel import Channel, ChannelClosed
from engine.server.lobby import Lobby
from engine.services.roster import Roster

logger = log.get("server.supervisor")

RESTART_PAUSE_S = 0.2
"""Before a worker that died is replaced; one that dies at once again waits up to RESTART_PAUSE_MAX_S."""

RESTART_PAUSE_MAX_S = 5.0

LISTEN_BACKLOG = 1024

LOOK_S = 0.25
"""How often workers and waiting connections are looked at."""

SILENT_S = 1.0
"""A worker that has not been heard of for so long gets no new connections."""

ARCHIVE_PATIENCE_S = 3.0
"""How long a start waits for another process to let the archive go."""


class Worker:
    """One worker process as the supervisor sees it."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.connections = 0
        self.ready = False
        self.drained = False
        self.is_silent = False
        self.handed: dict[int, tuple[socket.socket, str]] = {}
        """Connections that it has been given and has not taken yet, by serial number."""
        self.started_at = time.monotonic()
        self.stats: dict[int, asyncio.Future[dict[str, Any]]] = {}


class Supervisor:
    """See the module's head; `run` returns the exit code."""

    def __init__(self, config: Config, reread: Callable[[], Config], announce: Callable[[str], None]) -> None:
        """`reread` gives the configuration anew; `announce` prints the one line that says it is ready."""
        self._config = config
        self._reread = reread
        self._announce = announce
        self._workers: list[Worker] = []
        self._archive: Archive | None = None
        self._listeners: list[socket.socket] = []
        self._stopping = asyncio.Event()
        self._failed: str | None = None
        self._request = 0
        self._loop = asyncio.get_running_loop()
        self._serving = False
        self._draining = False
        self._metrics = Metrics()
        self._roster, self._roster_fd = Roster.create(config.workers)
        _raise_descriptor_limit()
        self._lobby = Lobby(self._loop, lambda: self._config, self._metrics, self._hand_over)
        self._parked: list[tuple[socket.socket, str]] = []
        """Asked for an association while there was no worker."""
        self._serial = 0
        self._looked_at = self._loop.time()
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """Closed for a moment when there are no descriptors left, so that a connection can be accepted and closed."""
        self._caretaker = CaretakerProcess(config, _spawn, self._recover)

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT, or until the archive fails."""
        self._listeners = listen(self._config.host, self._config.dicom_port)
        if self._config.log.wire_trace is not None:
            make_folder(self._config.log.wire_trace)
        self._archive = await self._loop.run_in_executor(None, self._open_archive)
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(signum, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_logged)
        control_server = await self._open_control()
        for number in range(self._config.workers):
            self._start_worker(number)
        await self._until_ready()
        if not self._stopping.is_set():
            self._serving = True
            self._open_doors()
            self._look_after()
            if not self._archive.is_read_only:
                self._caretaker.start_later(self._config.caretaker_pause_s)
            self._announce_ready()
        await self._stopping.wait()
        await self._drain()
        control_server.close()
        self._unlink_control()
        await self._loop.run_in_executor(None, self._archive.close)
        logger.info("stopped", reason=self._failed or "asked to")
        return 1 if self._failed else 0

    def _open_archive(self) -> Archive:
        def progress(what: str, done: int, total: int) -> None:
            logger.info("bringing the archive up", what=what, done=done, total=total)

        give_up_at = time.monotonic() + ARCHIVE_PATIENCE_S
        while True:
            try:
                return Archive.open(
                    self._config.data,
                    role="keeper",
                    create=True,
                    sync_interval_s=self._config.write_behind_sync_s,
                    on_keeper_failure=self._keeper_failed,
                    progress=progress,
                    extra_attributes=extras.configured(self._config),
                )
            except ArchiveInUse:
                # A short command, find or stats, may just be looking into the stopped archive.
                if time.monotonic() > give_up_at:
                    raise
                threading.Event().wait(0.1)

    def _announce_ready(self) -> None:
        host, port = self._listeners[0].getsockname()[:2]
        self._announce(
            f"filmroom {__version__} ready: {self._config.aet} on {host}:{port}, {self._config.workers} workers, "
            f"{self._config.durability}, data in {self._config.data}"
        )
        logger.info("ready", aet=self._config.aet, host=host, port=port, workers=self._config.workers)
        _notify_systemd("READY=1")

    def _keeper_failed(self, error: EngineError) -> None:
        """Called from the keeper's thread."""
        self._loop.call_soon_threadsafe(self._fail, f"checkpoint: {error}")

    def _fail(self, why: str) -> None:
        logger.error("the archive failed, stopping", why=why)
        self._failed = self._failed or why
        self._stopping.set()

    # -- workers --------------------------------------------------------------------------------

    def _start_worker(self, number: int) -> None:
        process, channel = _spawn("engine.server.worker")
        worker = Worker(number, process, channel)
        self._workers.append(worker)
        channel.send("config", fd=self._roster_fd, number=number, config=self._config.to_json().decode())
        self._loop.add_reader(channel.fileno(), self._from_worker, worker)

    async def _until_ready(self) -> None:
        while sum(worker.ready for worker in self._workers) < self._config.workers and not self._stopping.is_set():
            await asyncio.sleep(0.005)

    def _from_worker(self, worker: Worker) -> None:
        try:
            while (message := worker.channel.receive()) is not None:
                self._handle(worker, message[0])
        except ChannelClosed:
            self._lost(worker)

    def _handle(self, worker: Worker, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "ready":
                worker.ready = True
                if self._serving and not self._draining:
                    self._open_doors()
                    self._unpark()
            case "taken":
                handed = worker.handed.pop(message["serial"], None)
                if handed is not None:
                    handed[0].close()
            case "full":
                handed = worker.handed.pop(message["serial"], None)
                if handed is not None:
                    worker.connections -= 1
                    handed[0].close()
            case "closed":
                worker.connections -= 1
            case "stats":
                future = worker.stats.pop(message["request"], None)
                if future is not None and not future.done():
                    future.set_result(message["stats"])
            case "failed":
                logger.error("worker stopped writing", worker=worker.number, error=message["error"])
            case "drained":
                worker.drained = True

    def _lost(self, worker: Worker) -> None:
        self._loop.remove_reader(worker.channel.fileno())
        worker.channel.close()
        self._workers.remove(worker)
        if not any(other.ready for other in self._workers):
            self._close_doors()
        for future in worker.stats.values():
            future.cancel()
        handed, worker.handed = worker.handed, {}
        for sock, host in handed.values():
            self._hand_over(sock, host)
        self._loop.create_task(self._bury(worker))

    async def _bury(self, worker: Worker) -> None:
        """Waits for a lost worker's end, takes over what it left in the log, and replaces it."""
        code = await self._loop.run_in_executor(None, worker.process.wait)
        self._roster.clear(worker.number)
        if self._draining:
            return
        logger.error("worker died, its associations are lost", worker=worker.number, exit_code=code)
        await self._recover()
        if self._failed is not None:
            return
        if not self._serving:
            self._fail(f"worker {worker.number} does not start")
            return
        lived_s = time.monotonic() - worker.started_at
        await asyncio.sleep(RESTART_PAUSE_S if lived_s > RESTART_PAUSE_MAX_S else RESTART_PAUSE_MAX_S / 5)
        if not self._draining:
            self._start_worker(worker.number)

    async def _recover(self) -> None:
        """Takes over what dead processes left in the log; when that fails, the server ends."""
        assert self._archive is not None
        try:
            await self._loop.run_in_executor(None, self._archive.recover_dead_writers)
        except EngineError as error:
            self._fail(f"what a dead process left cannot be recovered: {error}")

    # -- connections ----------------------------------------------------------------------------

    def _open_doors(self) -> None:
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _close_doors(self) -> None:
        """While there is no worker, connections wait in the backlog."""
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener.fileno())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                logger.about("accept").error("accept failed", error=error.strerror)
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._find_descriptor(listener):
                    return
                continue
            sock.setblocking(False)
            self._lobby.enter(sock, str(address[0]))

    def _find_descriptor(self, listener: socket.socket) -> bool:
        """Out of descriptors: makes one free, or turns one connection away, so that the loop does not spin on it."""
        self._metrics.counters["out_of_descriptors"] += 1
        if self._lobby.make_room():
            return True
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
        try:
            listener.accept()[0].close()
        except OSError:
            pass  # it is gone, or another thread was quicker to take the descriptor
        try:
            self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._spare_fd = -1  # the next time the loop turns there may be one again
        return False

    def _hand_over(self, sock: socket.socket, host: str) -> None:
        """Gives a connection to a worker; it stays open here until the worker says that it has taken it."""
        ready = [worker for worker in self._workers if worker.ready]
        for worker in sorted(ready, key=lambda candidate: (candidate.is_silent, candidate.connections)):
            self._serial += 1
            try:
                worker.channel.send("accept", fd=sock.fileno(), host=host, serial=self._serial)
            except ChannelClosed:
                continue
            worker.connections += 1
            worker.handed[self._serial] = sock, host
            return
        if self._draining or len(self._parked) >= self._config.limits.connections_waiting_max:
            sock.close()
        else:
            self._parked.append((sock, host))

    def _unpark(self) -> None:
        parked, self._parked = self._parked, []
        for sock, host in parked:
            self._hand_over(sock, host)

    def _look_after(self) -> None:
        """Once in LOOK_S: connections that say nothing, workers that say nothing, lines that were left out."""
        if self._draining:
            return
        self._loop.call_later(LOOK_S, self._look_after)
        now = self._loop.time()
        late_s, self._looked_at = now - self._looked_at - LOOK_S, now
        self._lobby.sweep()
        log.flush()
        if late_s > SILENT_S:
            return  # it was we who did not run, and so most likely the workers did not either
        for worker in list(self._workers):
            if worker.ready:
                self._listen_for(worker)

    def _listen_for(self, worker: Worker) -> None:
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

    def _take_back(self, worker: Worker) -> None:
        """Gives what a silent worker has not taken to others: first says so where it looks, then hears what it said."""
        self._roster.revoke(worker.number, max(worker.handed))
        self._from_worker(worker)
        handed, worker.handed = worker.handed, {}
        for sock, host in handed.values():
            worker.connections -= 1
            self._hand_over(sock, host)

    # -- control --------------------------------------------------------------------------------

    async def _open_control(self) -> asyncio.AbstractServer:
        self._unlink_control()
        with control.short_path(self._config.data) as path:
            previous = os.umask(0o177)
            try:
                return await asyncio.start_unix_server(self._serve_control, path)
            finally:
                os.umask(previous)

    def _unlink_control(self) -> None:
        (self._config.data / control.SOCKET_NAME).unlink(missing_ok=True)

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(orjson.dumps(await self._command(line), option=orjson.OPT_APPEND_NEWLINE))
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the other side went away, or sent a line without an end
        finally:
            writer.close()

    async def _command(self, line: bytes) -> dict[str, object]:
        try:
            command = orjson.loads(line)["command"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return {"ok": False, "error": 'a command is a JSON object with a key "command"'}
        match command:
            case "ping":
                return {"ok": True, "pid": os.getpid(), "version": __version__}
            case "stats":
                return {"ok": True, **await self._stats()}
            case "reload":
                try:
                    return {"ok": True, "restart_needed": self._reload()}
                except EngineError as error:
                    return {"ok": False, "error": str(error), "configuration": isinstance(error, ConfigError)}
            case "drain":
                self._stopping.set()
                return {"ok": True}
        return {"ok": False, "error": f"there is no command {command!r}"}

    async def _stats(self) -> dict[str, object]:
        assert self._archive is not None
        pending = []
        for worker in self._workers:
            self._request += 1
            future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
            worker.stats[self._request] = future
            try:
                worker.channel.send("stats", request=self._request)
            except ChannelClosed:
                future.cancel()
            pending.append((worker, future))
        rows = []
        for worker, future in pending:
            try:
                stats = await asyncio.wait_for(future, 2.0)
            except (TimeoutError, asyncio.CancelledError):
                stats = {}
            row = {"number": worker.number, "pid": worker.process.pid, "connections": worker.connections}
            rows.append({**row, **stats})
        return {
            "pid": os.getpid(),
            "time": time.time(),
            "turned_away": sum(
                count
                for name, count in self._metrics.counters.items()
                if name.startswith(("not_dicom_", "connections_"))
            ),
            "counters": dict(self._metrics.counters),
            "waiting": len(self._lobby),
            "workers": rows,
            "caretaker": await self._caretaker.stats(),
            "archive": self._archive.stats(),
        }

    def _reload_logged(self) -> None:
        try:
            self._reload()
        except EngineError as error:
            logger.error("reload refused, the running configuration stays", error=str(error))

    def _reload(self) -> list[str]:
        fresh = self._reread()
        self._config, restart_needed = self._config.reloaded(fresh)
        for worker in self._workers:
            try:
                worker.channel.send("reload", config=self._config.to_json().decode())
            except ChannelClosed:
                continue  # its successor starts with the new configuration
        self._caretaker.reload(self._config)
        logger.info("reloaded", restart_needed=restart_needed)
        return restart_needed

    # -- the end --------------------------------------------------------------------------------

    def _stop(self) -> None:
        """SIGTERM or SIGINT: the first drains, a further one ends what is still running at once."""
        if self._draining:
            self._tell_drain(0.0)
        self._stopping.set()

    def _tell_drain(self, limit_s: float) -> None:
        for worker in list(self._workers):
            try:
                worker.channel.send("drain", limit_s=limit_s)
            except ChannelClosed:
                continue

    async def _drain(self) -> None:
        self._draining = True
        _notify_systemd("STOPPING=1")
        self._close_doors()
        for listener in self._listeners:
            listener.close()
        self._lobby.close()
        for sock, _ in self._parked:
            sock.close()
        limit_s = 0.0 if self._failed else self._config.limits.drain_timeout_s
        logger.info("draining", limit_s=limit_s, associations=sum(worker.connections for worker in self._workers))
        self._tell_drain(limit_s)
        self._caretaker.drain()
        deadline = self._loop.time() + limit_s + 10.0
        processes = [worker.process for worker in self._workers]
        if self._caretaker.process is not None:
            processes.append(self._caretaker.process)
        while any(process.poll() is None for process in processes):
            if self._loop.time() > deadline:
                for process in processes:
                    process.kill()
            await asyncio.sleep(0.01)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`. Raises ConfigError when the port cannot be had."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"host {host!r} is no address to listen on: {error}") from error
    sockets = []
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror}") from error
        sock.listen(LISTEN_BACKLOG)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _raise_descriptor_limit() -> None:
    """Takes what the system allows: the limit that shells set, 1024, is older than servers of a thousand peers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            logger.warning("the limit of open files stays", soft=soft, hard=hard, error=str(error))


def _spawn(module: str) -> tuple[subprocess.Popen[bytes], Channel]:
    """Starts a module of ours as a process of its own, with the other end of a channel."""
    channel, theirs = Channel.pair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
        )
    return process, channel


def _import_path() -> list[str]:
    """Where a worker finds this package, whether installed or run from a checkout."""
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH", "")
    return [root, *([inherited] if inherited else [])]


def _notify_systemd(state: str) -> None:
    """sd_notify: one datagram, where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            logger.warning("systemd was not notified", error=error.strerror)
