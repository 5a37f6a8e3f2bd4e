"""The caretaker as the supervisor sees it: started, asked, replaced when it dies, told to end.

    start ──► running ──dies──► what it left is recovered ──► pause ──► started again
                 │                                              twice as long each time, until one has lived a while
                 └──drain──► ended, not replaced

Not a worker: it has no connections, and nothing waits for it to be ready. What it does is in `caretaker`.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any

from engine import log
from engine.config import Config
from engine.server.channel import Channel, ChannelClosed

logger = log.get("server.supervisor")

RESTART_PAUSE_S = 1.0
RESTART_PAUSE_MAX_S = 60.0

STATS_TIMEOUT_S = 2.0


class CaretakerProcess:
    """One caretaker and its successors; used on the supervisor's loop."""

    def __init__(
        self,
        config: Config,
        spawn: Callable[[str], tuple[subprocess.Popen[bytes], Channel]],
        recover: Callable[[], Awaitable[None]],
    ) -> None:
        """`spawn` starts a module of ours with a channel; `recover` takes over what a dead process left in the log."""
        self._config = config
        self._spawn = spawn
        self._recover = recover
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._started_at = 0.0
        self._pause_s = RESTART_PAUSE_S
        self._request = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ending = False
        self._restarts_total = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start_later(self, pause_s: float) -> None:
        """Starts the first caretaker after a pause: whoever waits for the server needs the processors more."""
        self._loop.call_later(pause_s, self._start_unless_ending)

    def _start_unless_ending(self) -> None:
        if not self._ending:
            self.start()

    def start(self) -> None:
        """Starts a caretaker."""
        self.process, self._channel = self._spawn("engine.server.caretaker")
        self._started_at = time.monotonic()
        self._loop.add_reader(self._channel.fileno(), self._receive, self._channel)
        self._send("config", config=self._config.to_json().decode())

    def reload(self, config: Config) -> None:
        """The configuration from now on."""
        self._config = config
        self._send("reload", config=config.to_json().decode())

    def drain(self) -> None:
        """Ends it; it is not replaced."""
        self._ending = True
        self._send("drain")

    async def stats(self) -> dict[str, Any]:
        """What it has done; only what is known here while there is none."""
        known: dict[str, Any] = {
            "pid": self.process.pid if self.process is not None and self._channel is not None else None,
            "restarts": self._restarts_total,
        }
        self._request += 1
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[self._request] = answer
        self._send("stats", request=self._request)
        if self._channel is None:
            answer.cancel()
        try:
            return {**known, **await asyncio.wait_for(answer, STATS_TIMEOUT_S)}
        except (TimeoutError, asyncio.CancelledError):
            return known

    def _send(self, kind: str, **fields: str | int) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(kind, fd=None, **fields)
        except ChannelClosed:
            return  # `_receive` sees it too and replaces it

    def _receive(self, channel: Channel) -> None:
        try:
            while (message := channel.receive()) is not None:
                if message[0]["kind"] == "stats":
                    answer = self._answers.pop(message[0]["request"], None)
                    if answer is not None and not answer.done():
                        answer.set_result(message[0]["stats"])
        except ChannelClosed:
            self._loop.remove_reader(channel.fileno())
            channel.close()
            self._channel = None
            for answer in self._answers.values():
                answer.cancel()
            self._answers.clear()
            self._loop.create_task(self._replace())

    async def _replace(self) -> None:
        process = self.process
        assert process is not None
        code = await self._loop.run_in_executor(None, process.wait)
        if self._ending:
            return
        logger.error("caretaker died", exit_code=code)
        await self._recover()
        lived_s = time.monotonic() - self._started_at
        self._pause_s = RESTART_PAUSE_S if lived_s > RESTART_PAUSE_MAX_S else self._pause_s
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, RESTART_PAUSE_MAX_S)
        if not self._ending:
            self._restarts_total += 1
            self.start()
