"""The supervisor: owns the listening sockets, keeps the archive, starts workers and hands connections to them.

    accept → pending, until its first bytes are a request → the worker with the fewest of its front gets it
    worker is silent, full or dead → see `pool`                        caretaker dies → see `lone_process`
    SIGTERM → no new connections, workers drain, last checkpoint, exit 0        SIGHUP → reads the configuration again
    SIGTERM again → aborts open connections

It serves nothing itself and knows no protocol. The listening sockets outlive every worker, so that no client is refused
while a worker is replaced; and few long-lived connections are spread evenly, unlike with SO_REUSEPORT (8 fall 6 to 2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from engine import __version__, audit, log
from engine.archive import extras
from engine.archive.announced import AnnouncedInstances
from engine.archive.archive import Archive
from engine.archive.feed.quiet import QuietTimes
from engine.archive.feed.writer import FeedOptions, FeedWriter
from engine.archive.nodes import membership
from engine.archive.writer_watch import WriterWatch
from engine.audit.keeper import AuditKeeper
from engine.config import Reading, managed_peers, second_copies
from engine.errors import ArchiveInUse, ConfigError, EngineError, for_log
from engine.metrics import Metrics
from engine.orders.stations import Stations
from engine.runtime.pools import ThreadPool
from engine.server import child
from engine.server.control_server import Commands, ControlServer
from engine.server.listeners import Listener, listen, notify_systemd, raise_descriptor_limit, show_in_systemd
from engine.server.lone_process import LoneProcess, Socket
from engine.server.peer_changes import PeerChanges
from engine.server.pending import PendingConnections
from engine.server.pool import Pool

if TYPE_CHECKING:
    from engine.config import Config, Origin
    from engine.runtime.front import Port

logger = log.get("server.supervisor")

CHECK_S = 0.25
"""The interval at which workers and waiting connections are checked."""

LATE_S = 1.0
"""If the supervisor itself did not run for so long, the workers most likely did not either: do not call them silent."""

REPLAY_TIMEOUT_S = 8.0

ARCHIVE_PATIENCE_S = 3.0
"""How long a start waits for another process to release the archive."""

_UNKNOWN_PEERS = {"loopback": "from this machine only", True: "accepted from everywhere", False: "refused"}
"""`accept_unknown_peers` in the ready line."""


class Composition(Protocol):
    """The parts of the program that depend on protocols."""

    worker_module: str
    """The module that a worker process runs."""

    messages_module: str
    """The module of the process that serves the ports with `is_lone`."""

    def ports(self, config: Callable[[], Config]) -> list[Port]:
        """The ports to listen on; the ready line names the first. `config` returns the current configuration."""

    def prepare(self, config: Config) -> None:
        """Prepares what workers will need. Raises ConfigError."""

    def welcome(self, config: Config, urls: Sequence[str]) -> str:
        """What the first start of a new archive says after the ready line, once; "": nothing."""


class Supervisor:
    """The process; `run` returns its exit code."""

    def __init__(
        self,
        reading: Reading,
        reread: Callable[[], Reading],
        announce: Callable[[str], None],
        composition: Composition,
        spawn: child.Spawn = child.spawn,
    ) -> None:
        """`reread` reads the configuration again; `announce` prints the ready line; `spawn` starts a child."""
        self._config = config = reading.config
        self._config_source = reading.source
        self._origins = dict(reading.origins)
        self._reread = reread
        self._announce = announce
        self._archive: Archive | None = None
        self._writer_watch: WriterWatch | None = None
        self._feed: FeedWriter | None = None
        self._announced: AnnouncedInstances | None = None
        self._audit: AuditKeeper | None = None
        self._composition = composition
        self._listeners: list[Listener] = []
        self._lone_listeners: list[Listener] = []
        """Those of the process of messages, which accepts by itself."""
        self._messages: LoneProcess | None = None
        self._stopping = asyncio.Event()
        self._failure: str | None = None
        self._loop = asyncio.get_running_loop()
        self._serving = False
        self._draining = False
        self._metrics = Metrics()
        raise_descriptor_limit()
        self._pool = Pool(
            config,
            self._metrics,
            composition.worker_module,
            recover=self._recover,
            on_change=self._update_accepting,
            fail=self._fail,
            origins=self._origins,
            spawn=spawn,
        )
        self._pool.answer = self._answer_worker
        self._pending = PendingConnections(self._loop, lambda: self._config, self._metrics, self._pool.hand_over)
        self._archive_thread = ThreadPool("archive", 2)
        """Opens and closes the archive, and recovers the log of dead processes. Two threads, since one may be stuck."""
        self._checked_at = self._loop.time()
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """Closed for a moment when no descriptor is free, so that a connection can be accepted and closed."""
        self._spawn = spawn
        self._caretaker = LoneProcess(config, spawn, self._recover)
        self._peer_changes = PeerChanges(lambda: (self._config, self._origins), self._save_peers, self._apply_peers)
        commands: Commands = {
            "ping": lambda _: self._ping(),
            "stats": lambda _: self._stats(),
            "reload": lambda _: self._reload_command(),
            "drain": lambda _: self._end(),
            "replay": self._replay,
        }
        self._control = ControlServer(config.data, commands)

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT, or until the archive fails."""
        self._composition.prepare(self._config)
        listeners = listen(self._composition.ports(lambda: self._config))
        self._listeners = [listener for listener in listeners if not listener.port.is_lone]
        self._lone_listeners = [listener for listener in listeners if listener.port.is_lone]
        self._archive = await self._archive_thread.run(self._open_archive)
        await self._archive_thread.run(partial(self._keep_reserve_file, self._archive))
        self._writer_watch = self._archive.watch_writers(self._metrics.counters)
        self._feed = await self._archive_thread.run(partial(self._start_feed, self._archive))
        if audit.is_on():
            self._audit = await self._archive_thread.run(self._keep_audit)
            audit.write(audit.Event(kind=audit.Kind.START, action="filmroom serve", detail=f"version {__version__}"))
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(signum, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        await self._control.open()
        self._pool.start()
        await self._until_ready()
        if not self._stopping.is_set():
            self._serving = True
            self._pool.serve()
            self._start_accepting()
            self._check()
            if not self._archive.is_read_only:
                # Answers wait for it where they wait for the bucket, to which it ships; nodes follow each other there.
                is_awaited = "object" in second_copies.places(self._config)
                self._caretaker.start_later(0.0 if is_awaited else self._config.caretaker_pause_s)
            self._start_messages()
            self._announce_ready()
        await self._stopping.wait()
        await self._drain()
        self._control.close()
        if self._feed is not None:
            await self._archive_thread.run(self._feed.close)
        if self._announced is not None:
            await self._archive_thread.run(self._announced.close)
        await self._archive_thread.run(self._archive.close)
        await self._archive_thread.run(self._close_audit)
        self._archive_thread.close()
        logger.info("stopped", reason=self._failure or "signal or command")
        return 1 if self._failure else 0

    def _keep_reserve_file(self, archive: Archive) -> None:
        """Makes it before anything is stored: the caretaker, which keeps it, starts later."""
        if archive.is_read_only:
            return
        try:
            archive.keep_reserve_file()
        except EngineError as error:
            logger.warning("there is no reserve file", reason=for_log(error))

    def _keep_audit(self) -> AuditKeeper:
        assert self._archive is not None
        is_replica = self._archive.is_read_only
        return AuditKeeper(self._config.data, lambda: self._config.audit, self._config.aet, is_replica=is_replica)

    def _close_audit(self) -> None:
        reason = self._failure or ""
        outcome = audit.Outcome.MAJOR if reason else audit.Outcome.SUCCESS
        audit.write(audit.Event(kind=audit.Kind.STOP, action="filmroom serve", outcome=outcome, detail=reason))
        audit.close()
        if self._audit is not None:
            self._audit.close()

    def _open_archive(self) -> Archive:
        def progress(step: str, done: int, total: int) -> None:
            logger.info("opening the archive", step=step, done=done, total=total)
            show_in_systemd(f"opening the archive: {step}, {done} of {total}")

        membership.confirm(self._config.data, self._config.cluster)
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
                    must_encrypt=self._config.encryption.required,
                    study_keys=self._config.encryption.study_keys,
                )
            except ArchiveInUse:
                # A short command, such as find or stats, may have the archive open.
                if time.monotonic() > give_up_at:
                    raise
                threading.Event().wait(0.1)

    def _start_feed(self, archive: Archive) -> FeedWriter | None:
        """Starts the change feed before anything is stored. Without room for it the server serves all the same."""
        options = self._config.feed
        if not options.keep_days:
            archive.switch_feed_off()
            return None
        self._announced = AnnouncedInstances(archive, Stations(lambda: self._config))
        quiet = QuietTimes(options.series_quiet_s, options.study_quiet_s, options.study_complete_s)
        try:
            feed = archive.feed_writer(FeedOptions(options.keep_days, quiet, self._announced.are_here))
        except EngineError as error:
            logger.error("there is no change feed", reason=for_log(error))
            return None
        feed.start()
        return feed

    def _start_messages(self) -> None:
        """Starts the process that receives messages, if there is a port for them."""
        if not self._lone_listeners:
            return
        sockets = [Socket(listener.sock, listener.port.front) for listener in self._lone_listeners]
        module = self._composition.messages_module
        self._messages = LoneProcess(
            self._config, self._spawn, self._recover, module=module, name="messages process", sockets=sockets
        )
        self._messages.start_later(0.0)

    def _announce_ready(self) -> None:
        assert self._archive is not None
        host, port = self._listeners[0].sock.getsockname()[:2]
        urls = [listener.url for listener in (*self._listeners, *self._lone_listeners) if listener.url]
        count = self._archive.stats()["instances"]
        content = "a new, empty archive" if self._archive.is_new else f"{count} instances"
        self._announce(
            f"filmroom {__version__} ready: {self._config.aet} on {host}:{port}, {''.join(f'{url}, ' for url in urls)}"
            f"unknown AE titles: {_UNKNOWN_PEERS[self._config.accept_unknown_peers]}, "
            f"{self._config.workers} workers, {self._config.durability}, "
            f"data in {self._config.data} ({content}), configuration: {self._config_source}"
        )
        if self._archive.is_new and (line := self._composition.welcome(self._config, urls)):
            self._announce(line)
        logger.info(
            "ready",
            aet=self._config.aet,
            host=host,
            port=port,
            urls=urls,
            accept_unknown_peers=self._config.accept_unknown_peers,
            workers=self._config.workers,
            archive=content,
            configuration=self._config_source,
        )
        notify_systemd("READY=1")
        show_in_systemd(f"serving {self._config.aet} on port {port}")

    def _keeper_failed(self, error: EngineError) -> None:
        """Called from the keeper's thread."""
        self._loop.call_soon_threadsafe(self._fail, f"checkpoint: {error}")

    def _fail(self, why: str) -> None:
        logger.error("the archive failed, stopping", why=why)
        self._failure = self._failure or why
        self._stopping.set()

    async def _until_ready(self) -> None:
        while self._pool.ready_count < self._config.workers and not self._stopping.is_set():
            await asyncio.sleep(0.005)

    async def _recover(self) -> None:
        """Recovers the log of dead processes; when that fails, the server ends."""
        assert self._archive is not None
        try:
            await self._archive_thread.run(self._archive.recover_dead_writers)
        except EngineError as error:
            self._fail(f"the log of a dead process cannot be recovered: {error}")

    # -- connections ----------------------------------------------------------------------------

    def _update_accepting(self) -> None:
        if not self._pool.ready_count:
            self._stop_accepting()
        elif self._serving and not self._draining:
            self._start_accepting()

    def _start_accepting(self) -> None:
        for listener in self._listeners:
            self._loop.add_reader(listener.sock.fileno(), self._accept, listener)

    def _stop_accepting(self) -> None:
        """Leaves new connections in the backlog, while there is no worker."""
        for listener in self._listeners:
            if listener.sock.fileno() >= 0:
                self._loop.remove_reader(listener.sock.fileno())

    def _accept(self, listener: Listener) -> None:
        for _ in range(64):
            try:
                sock, address = listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                logger.about("accept").error("accept failed", error=error.strerror)
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._free_descriptor(listener):
                    return
                continue
            sock.setblocking(False)
            self._pending.enter(listener.port, sock, str(address[0]))

    def _free_descriptor(self, listener: Listener) -> bool:
        """Frees a descriptor, or turns one connection away, so that the loop does not spin on it; whether it did free
        one."""
        self._metrics.counters["out_of_descriptors"] += 1
        if self._pending.make_room():
            return True
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
        try:
            listener.sock.accept()[0].close()
        except OSError:
            pass  # the connection is gone, or another thread took the descriptor
        try:
            self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._spare_fd = -1  # a later call may get one again
        return False

    def _check(self) -> None:
        """Every CHECK_S: closes silent connections, checks the processes, logs how many lines were left out."""
        if self._draining:
            return
        self._loop.call_later(CHECK_S, self._check)
        now = self._loop.time()
        late_s, self._checked_at = now - self._checked_at - CHECK_S, now
        self._pending.sweep()
        log.flush()
        self._caretaker.check()
        if self._messages is not None:
            self._messages.check()
        if late_s < LATE_S:
            self._pool.check()
            if self._writer_watch is not None:
                self._writer_watch.look(self._config.limits.worker_silence_s_max)

    # -- control --------------------------------------------------------------------------------

    async def _ping(self) -> dict[str, object]:
        return {"ok": True, "pid": os.getpid(), "version": __version__}

    async def _end(self) -> dict[str, object]:
        self._stopping.set()
        return {"ok": True}

    async def _stats(self) -> dict[str, object]:
        assert self._archive is not None
        counters = dict(self._metrics.counters)
        return {
            "ok": True,
            "pid": os.getpid(),
            "time": time.time(),
            "turned_away": sum(
                count for name, count in counters.items() if name.startswith(("not_dicom_", "connections_"))
            ),
            "counters": counters,
            "waiting": len(self._pending),
            "workers": await self._pool.ask("stats"),
            "workers_missing": self._pool.missing,
            "caretaker": await self._caretaker.stats(),
            "messages": await self._messages.stats() if self._messages is not None else None,
            "archive": self._archive.stats(),
            "feed": self._feed.stats() if self._feed is not None else None,
            "webhooks": [standing.as_dict() for standing in self._archive.feed_destinations().all()],
            "outbox": [standing.as_dict() for standing in self._archive.outbox().all()],
            "audit": self._audit.snapshot() if self._audit is not None else None,
            "index_held_by": self._writer_watch.snapshot() if self._writer_watch is not None else None,
        }

    async def _replay(self, request: dict[str, Any]) -> dict[str, object]:
        """Has a message of the journal applied again."""
        number = request.get("number")
        if self._messages is None or not isinstance(number, int):
            return {"ok": False, "error": "this server receives no messages: there is no [[hl7_listener]]"}
        answer = await self._messages.ask("replay", REPLAY_TIMEOUT_S, number=number)
        return answer or {"ok": False, "error": "the process of messages does not answer"}

    async def _answer_worker(self, topic: str, question: dict[str, Any]) -> dict[str, object]:
        """Answers what a worker asks for a client of its fronts."""
        match topic:
            case "stats":
                return await self._stats()
            case "peers":
                return {"workers": await self._pool.ask("peers")}
            case "replay":
                return await self._replay(question)
            case "change_peer":
                return await self._peer_changes.change(
                    question["title"], question["table"], actor=question["actor"], reason=question["reason"]
                )
        return {}

    async def _reload_command(self) -> dict[str, object]:
        try:
            answer = self._reload()
        except EngineError as error:
            return {"ok": False, "error": str(error), "configuration": isinstance(error, ConfigError)}
        workers_late = await self._pool.wait_until_configured()
        if workers_late:
            logger.warning("workers have not applied the configuration yet", workers=workers_late)
        return {"ok": True, **answer, "workers_late": workers_late}

    def _on_hangup(self) -> None:
        try:
            self._reload()
        except EngineError as error:
            logger.error("reload refused, the current configuration stays", error=for_log(error))

    def _reload(self) -> dict[str, object]:
        reading = self._reread()
        before = self._config
        self._config, restart_needed = second_copies.reloaded(before, reading.config)
        changed = before.differences(self._config)
        kept = {key: self._origins[key] for key in restart_needed if key in self._origins}
        self._origins = {**reading.origins, **kept}
        self._pool.reload(self._config, self._origins)
        self._caretaker.reload(self._config)
        if self._messages is not None:
            self._messages.reload(self._config)
        logger.info("reloaded", configuration=reading.source, changed=changed, restart_needed=restart_needed)
        file = str(reading.path) if reading.path is not None else None
        return {"file": file, "source": reading.source, "changed": changed, "restart_needed": restart_needed}

    async def _save_peers(self, text: str) -> None:
        assert self._archive is not None
        await self._archive_thread.run(partial(self._archive.save_file, managed_peers.FILE, text.encode()))

    async def _apply_peers(self, config: Config, origins: dict[str, Origin]) -> None:
        self._config, self._origins = config, origins
        self._pool.reload(config, origins)
        self._caretaker.reload(config)
        if self._messages is not None:
            self._messages.reload(config)
        await self._pool.wait_until_configured()

    # -- the end --------------------------------------------------------------------------------

    def _stop(self) -> None:
        """SIGTERM or SIGINT: the first drains, a further one aborts open connections at once."""
        if self._draining:
            self._pool.drain(0.0)
        self._stopping.set()

    async def _drain(self) -> None:
        self._draining = True
        notify_systemd("STOPPING=1")
        self._stop_accepting()
        for listener in (*self._listeners, *self._lone_listeners):
            listener.sock.close()
        self._pending.close()
        limit_s = 0.0 if self._failure else self._config.limits.drain_timeout_s
        logger.info("draining", limit_s=limit_s, associations=self._pool.connections_count)
        self._pool.drain(limit_s)
        self._caretaker.drain()
        if self._messages is not None:
            self._messages.drain()
        deadline = self._loop.time() + limit_s + 10.0
        processes = self._pool.processes
        for lone in (self._caretaker, self._messages):
            if lone is not None and lone.process is not None:
                processes.append(lone.process)
        while any(process.poll() is None for process in processes):
            if self._loop.time() > deadline:
                for process in processes:
                    process.kill()
            await asyncio.sleep(0.01)
