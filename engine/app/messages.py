"""The process of HL7 messages: `python -m engine.app.messages FD`, started by the supervisor; FD is its channel.

One process, so that messages have one order and DIMSE does not wait for them. The loop receives, keeps and answers;
one thread applies. It gets its listening sockets from the supervisor, so its successor continues with the connections
that wait.

    listen          a socket to accept connections of
    config          other sources and limits; what cannot be used is logged, and the old ones remain
    ask             stats, or replay a message
    drain           no new connections; answers what has come, and ends
    the journal cannot be written any more ──► the process ends, and a successor starts from the disk
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import uvloop

from engine import guards, log, tls
from engine.archive import hospital, messages
from engine.archive.archive import Archive
from engine.archive.reports import ReportDocuments
from engine.config import Config
from engine.errors import ConfigError, EngineError, for_log
from engine.messaging.applier import Applier
from engine.messaging.listener import Listener
from engine.messaging.reception import Reception
from engine.messaging.sources import Sources
from engine.metrics import Histogram
from engine.orders.stations import Stations
from engine.server import bootstrap
from engine.storage.commit import GroupCommit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.journal import Outcome
    from engine.server.channel import Channel

logger = log.get("hl7")

EXIT_STORAGE_FAILED = 3
UPKEEP_S = 1.0
RETENTION_S = 3600.0
DRAIN_CHECK_S = 0.02
SWITCH_S = 0.0005
"""The loop must not wait 5 ms for the applying thread each time that it wants the interpreter. A fifth of this made
fewer messages a second in three runs of three (2 134 to 2 360 of 2 611 to 2 734), and answers no sooner."""


class Messages:
    """The process; `run` returns its exit code."""

    def __init__(self, channel: Channel, config: Config, version: int) -> None:
        """Raises EngineError."""
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._config = config
        self._version = version
        self._ended = asyncio.Event()
        self._exit_code = 0
        self._sources = Sources(config.hl7, config.hl7_sources)
        self._archive = Archive.open(config.data, role="guest")
        self._journal = messages.open_journal(self._archive)
        self._orders = hospital.open_orders(self._archive, Stations(lambda: self._config))
        self._counters: Counter[str] = Counter()
        self._latency_s = Histogram(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="applier")
        self._upkeep_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upkeep")
        self._commit: GroupCommit[int, None] = GroupCommit(
            self._loop,
            self._journal.log.sync,
            _no_answers,
            self._failed,
            background=self._journal.background_sync(),
        )
        self._applier = Applier(
            self._journal,
            self._orders,
            ReportDocuments(self._archive),
            lambda: self._sources,
            self._counters,
            self._in_thread,
        )
        reception = Reception(
            self._journal,
            self._commit,
            self._counters,
            on_mapped=self._applier.note,
            on_synced=self._applier.synced,
            await_outcome=self._applier.await_outcome,
            waiting_max=lambda: self._config.hl7.waiting_max,
        )
        self._listener = Listener(config.hl7, self._sources, reception, self._counters, self._latency_s)
        self._retained_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def _in_thread(self, work: Callable[[], list[Outcome]]) -> asyncio.Future[list[Outcome]]:
        return self._loop.run_in_executor(self._thread, work)

    async def run(self) -> int:
        """Serves until the supervisor sends drain, or ends."""
        self._commit.start()
        # What a start makes stays: a collection need not look at it, or answers wait for that.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        bootstrap.listen(self._channel, self._handle, self._end_early)
        applying = guards.watch(self._loop.create_task(self._applier.run()), "applier", self._failed)
        upkeep = guards.watch(self._loop.create_task(self._keep_up()), "upkeep", self._failed)
        self._channel.send("configured", version=self._version)
        await self._ended.wait()
        self._loop.remove_reader(self._channel.fileno())
        upkeep.cancel()
        await self._finish(applying)
        return self._exit_code

    async def _finish(self, applying: asyncio.Task[None]) -> None:
        self._listener.abort()
        applying.cancel()
        await asyncio.gather(applying, return_exceptions=True)
        self._thread.shutdown(wait=True)
        self._upkeep_thread.shutdown(wait=True)
        if self._exit_code == 0:
            self._commit.close()
            self._journal.close()
            self._orders.close()
            self._archive.close()

    def _failed(self, error: BaseException) -> None:
        """Ends the process: a successor starts from the disk."""
        logger.error("the journal of messages failed, the process ends", error=for_log(error))
        self._exit_code = EXIT_STORAGE_FAILED
        self._listener.abort()
        self._loop.call_later(0.2, self._ended.set)

    # -- upkeep ---------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        """Seals full segments, and removes old ones."""
        await self._loop.run_in_executor(self._upkeep_thread, self._journal.log.prepare)
        while True:
            if self._journal.log.rolled:
                await self._loop.run_in_executor(self._upkeep_thread, self._journal.seal_rolled)
            if time.monotonic() - self._retained_at > RETENTION_S or not self._retained_at:
                self._retained_at = time.monotonic()
                removed = self._journal.remove_before(time.time() - self._config.hl7.keep_days * 86400)
                if removed:
                    logger.info("old messages are removed", segments=removed)
            log.flush()
            await asyncio.sleep(UPKEEP_S)

    # -- the supervisor's messages --------------------------------------------------------------

    def _end_early(self) -> None:
        self._exit_code = self._exit_code or 1
        self._ended.set()

    def _handle(self, message: dict[str, Any], fd: int | None) -> None:
        match message["kind"]:
            case "listen":
                if fd is not None:
                    self._start("listen", self._listen(socket.socket(fileno=fd), message["front"]))
            case "config":
                self._configure(Config.from_json(message["config"].encode()))
                self._version = message["version"]
                self._channel.send("configured", version=self._version)
            case "ask":
                self._start("answer", self._answer(message))
            case "drain":
                self._start("drain", self._drain())
            case _:
                if fd is not None:
                    os.close(fd)

    def _start(self, name: str, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        guards.watch(task, name, self._failed)

    async def _listen(self, sock: socket.socket, front: str) -> None:
        is_secure = front == "hl7-tls"
        await self._listener.listen(sock, (lambda: tls.server_context(self._config.tls)) if is_secure else None)

    def _configure(self, config: Config) -> None:
        try:
            self._sources = Sources(config.hl7, config.hl7_sources)
        except ConfigError as error:
            logger.error("the sources of messages cannot be used; the old ones remain", error=for_log(error))
            return
        self._config = config
        self._listener.configure(config.hl7, self._sources)

    async def _answer(self, message: dict[str, Any]) -> None:
        answer = await self._replay(message["number"]) if message["topic"] == "replay" else self._stats()
        self._channel.send("answer", request=message["request"], fd=None, answer=answer)

    async def _replay(self, number: int) -> dict[str, object]:
        try:
            outcome = await self._applier.replay(number)
        except EngineError as error:
            return {"ok": False, "error": str(error)}
        fault = outcome.fault.text if outcome.fault is not None else ""
        result = {"number": number, "result": outcome.result.value, "changes": list(outcome.changes)}
        return {"ok": True, **result, "warnings": list(outcome.warnings), "reason": fault}

    def _stats(self) -> dict[str, object]:
        return {
            "connections": self._listener.connections_count,
            "counters": dict(self._counters),
            "last_number": self._journal.last_number,
            "applied_to": self._journal.cursor,
            "waiting": len(self._journal.waiting),
            "stalled": self._applier.stalled or self._commit.late,
            "answer_latency_s": self._latency_s.snapshot(),
            "sync_latency_s": self._commit.sync_latency_s.snapshot(),
            "groups": self._commit.group_sizes.snapshot(),
        }

    async def _drain(self) -> None:
        self._listener.start_draining()
        give_up_at = self._loop.time() + self._config.limits.drain_timeout_s
        while self._listener.connections_count and self._loop.time() < give_up_at:
            await asyncio.sleep(DRAIN_CHECK_S)
        self._ended.set()


def _no_answers(items: Sequence[int]) -> Sequence[None]:
    return [None] * len(items)


def main(fd: int) -> int:
    """Runs the process; returns its exit code."""
    channel = bootstrap.open_channel(fd)
    sys.setswitchinterval(SWITCH_S)

    async def serve(config: Config, message: dict[str, Any]) -> int:
        return await Messages(channel, config, message["version"]).run()

    def start_loop(config: Config, message: dict[str, Any]) -> int:
        return uvloop.run(serve(config, message))

    return bootstrap.run(channel, "the process of messages", start_loop, process="hl7")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
