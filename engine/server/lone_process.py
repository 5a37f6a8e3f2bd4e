"""The supervisor's side of a process of which there is one: starts it, replaces it when it dies, ends it.

    start ──► running ──dies──► its unfinished writes are recovered ──► pause ──► started again
                 │                                   twice as long each time, until one has lived for a while
                 └──drain──► ended, not replaced

It is not a worker: the supervisor hands it no connections, and nothing waits for it to be ready. The caretaker is one;
the process of HL7 messages is another, which gets listening sockets. The supervisor keeps them open, so that no sender
is refused while the process is replaced.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from engine import guards, log
from engine.config import Config
from engine.server.child import Child, Process, Restarts, Spawn

logger = log.get("server.supervisor")

RESTART_PAUSE_S = 1.0
RESTART_PAUSE_MAX_S = 60.0

STATS_TIMEOUT_S = 2.0


class Socket(NamedTuple):
    """A listening socket for the process."""

    sock: socket.socket
    front: str


class LoneProcess:
    """One process and its successors; used on the supervisor's loop."""

    def __init__(
        self,
        config: Config,
        spawn: Spawn,
        recover: Callable[[], Awaitable[None]],
        *,
        module: str = "engine.server.caretaker",
        name: str = "caretaker",
        sockets: Sequence[Socket] = (),
    ) -> None:
        """`spawn` starts a module as a process with a channel; `recover` recovers the log of a dead process."""
        self._module = module
        self._name = name
        self._sockets = sockets
        self._config = config
        self._version = 1
        self._spawn = spawn
        self._recover = recover
        self._loop = asyncio.get_running_loop()
        self._child: Child | None = None
        self._restarts = Restarts(RESTART_PAUSE_S, RESTART_PAUSE_MAX_S)
        self._starting: asyncio.Task[None] | None = None
        self._ending = False
        self._restarts_total = 0
        self._error: str | None = None

    @property
    def process(self) -> Process | None:
        """The running process; None when there is none."""
        return self._child.process if self._child is not None else None

    def start_later(self, pause_s: float) -> None:
        """Starts the first one after a pause, so that it does not slow the start of the server."""
        self._starting = guards.watch(self._loop.create_task(self._start_after(pause_s)), f"start {self._name}")

    def start(self) -> None:
        """Starts it. Raises OSError."""
        process, channel = self._spawn(self._module)
        self._child = child = Child(process, channel)
        child.attach(lambda message: None, lambda: self._on_lost(child))
        child.configure(self._config.to_json().decode(), self._version)
        for each in self._sockets:
            child.send("listen", fd=each.sock.fileno(), front=each.front)

    def reload(self, config: Config) -> None:
        """Replaces the configuration."""
        self._config = config
        self._version += 1
        if self._child is not None:
            self._child.configure(config.to_json().decode(), self._version)

    def check(self) -> None:
        """Sends the configuration again if the caretaker has not applied it. Call this regularly."""
        if self._child is not None and self._child.is_behind(self._version):
            self._child.configure(self._config.to_json().decode(), self._version)

    def drain(self) -> None:
        """Ends it; it is not replaced."""
        self._ending = True
        if self._child is not None:
            self._child.send("drain")

    async def stats(self) -> dict[str, Any]:
        """Its statistics; without a process only the facts that the supervisor has."""
        child = self._child
        facts: dict[str, Any] = {
            "pid": child.process.pid if child is not None else None,
            "restarts": self._restarts_total,
            "not_started": self._error,
        }
        return {**facts, **(await child.ask("stats", STATS_TIMEOUT_S) if child is not None else {})}

    async def ask(self, topic: str, timeout_s: float, **fields: object) -> dict[str, Any]:
        """Its answer; empty if there is none in that time."""
        return await self._child.ask(topic, timeout_s, **fields) if self._child is not None else {}

    def _on_lost(self, child: Child) -> None:
        self._starting = guards.watch(self._loop.create_task(self._replace(child)), f"replace {self._name}")

    async def _replace(self, child: Child) -> None:
        code = await child.wait_for_end()
        self._child = None
        if self._ending:
            return
        logger.error(f"{self._name} died", exit_code=code)
        await self._start_after(self._restarts.pause_s(time.monotonic() - child.started_at), is_successor=True)

    async def _start_after(self, pause_s: float, *, is_successor: bool = False) -> None:
        """Starts one after a pause; when that fails, tries again after ever longer pauses."""
        is_recovered = not is_successor
        while True:
            try:
                if not is_recovered:
                    await self._recover()
                    is_recovered = True
                await asyncio.sleep(pause_s)
                if not self._ending:
                    self.start()
                    self._restarts_total += is_successor
                    self._error = None
                return
            except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no thread can be started
                self._error = str(error) or type(error).__name__
                pause_s = self._restarts.pause_s()
                logger.error(f"the {self._name} cannot be started", error=self._error, pause_s=pause_s)
