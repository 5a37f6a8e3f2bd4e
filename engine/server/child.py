"""A process of ours as the supervisor sees it: started, told, asked, listened to; and how long to wait before another.

    start ──► running ──ends──► `lost` ──► `ended` ──► (what it left is recovered) ──► pause ──► started again

What a child is told arrives in order and is never lost (`channel`). The configuration has a version: a child says which
one it has taken over, and is told again until it has.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from typing import Any

from engine import interpreter
from engine.server.channel import Channel, ChannelClosed

RETRY_S = 0.02
"""How soon what the kernel had no room for is tried again."""

TOLD_AGAIN_S = 5.0
"""When a child that has not said that it has the newest configuration is told it once more."""

ENDING_S_MAX = 30.0
"""How long a child may live on after it has closed its end of the channel."""

LOOK_S = 0.01


class Restarts:
    """How long to wait before a successor: twice as long each time, until one has lived for a while."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def pause_s(self, lived_s: float = 0.0) -> float:
        """The pause after a child that lived so long; 0 for one that could not be started."""
        pause_s = self._first_s if lived_s > self._longest_s else self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        return pause_s


class Child:
    """One process and our end of its channel; used on the supervisor's loop."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.process = process
        self.channel = channel
        self.started_at = time.monotonic()
        self.version = 0
        """Of the configuration that it has taken over."""
        self._told_at = 0.0
        self._request = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loop = asyncio.get_running_loop()
        self._handle: Callable[[dict[str, Any]], None] = lambda message: None
        self._lost: Callable[[], None] = lambda: None

    def attach(self, handle: Callable[[dict[str, Any]], None], lost: Callable[[], None]) -> None:
        """From now on `handle` gets its messages, and `lost` is called once when it is gone."""
        self._handle, self._lost = handle, lost
        self._loop.add_reader(self.channel.fileno(), self.listen)
        flush_later(self._loop, self.channel)

    def listen(self) -> None:
        """Takes what it has said."""
        try:
            while (message := self.channel.receive()) is not None:
                self._take(message[0])
        except ChannelClosed:
            self._loop.remove_reader(self.channel.fileno())
            self.channel.close()
            for answer in self._answers.values():
                answer.cancel()
            self._answers.clear()
            self._lost()

    def _take(self, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "stats":
                answer = self._answers.pop(message["request"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message["stats"])
            case "configured":
                self.version = message["version"]
            case _:
                self._handle(message)

    def tell(self, kind: str, *, fd: int | None = None, **fields: object) -> None:
        """Sends it a message, now or when there is room. Nothing when it is gone: `lost` says so."""
        try:
            self.channel.send(kind, fd=fd, **fields)
        except ChannelClosed:
            return

    def configure(self, config: str, version: int) -> None:
        """Tells it the configuration from now on; an older one that it has not been told yet is left out."""
        self._told_at = self._loop.time()
        try:
            self.channel.send_latest("config", config=config, version=version)
        except ChannelClosed:
            return

    def is_behind(self, version: int) -> bool:
        """Whether it has not said that it has that configuration though it was told long ago, and nothing waits."""
        late_s = self._loop.time() - self._told_at
        return self.version < version and not self.channel.backlog and late_s > TOLD_AGAIN_S

    async def ask(self, timeout_s: float) -> dict[str, Any]:
        """Its statistics; empty when it does not answer in that time."""
        self._request = request = self._request + 1
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[request] = answer
        try:
            if not self.channel.offer("stats", request=request):
                return {}
            return await asyncio.wait_for(answer, timeout_s)
        except (ChannelClosed, TimeoutError, asyncio.CancelledError):
            return {}
        finally:
            self._answers.pop(request, None)

    async def ended(self) -> int:
        """Waits for the end of a child that was lost; its exit code. Needs no thread: there may be none to have."""
        give_up_at = self._loop.time() + ENDING_S_MAX
        while (code := self.process.poll()) is None:
            if self._loop.time() > give_up_at:
                self.process.kill()
            await asyncio.sleep(LOOK_S)
        return code


def flush_later(loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
    """Sends what waits in a channel as soon as there is room, without a turn of the loop for each try."""

    def flush() -> None:
        try:
            if not channel.flush():
                loop.call_later(RETRY_S, flush)
        except ChannelClosed:
            return  # whoever reads from it learns it too

    def begin() -> None:
        loop.call_later(RETRY_S, flush)

    channel.on_backlog = begin


def spawn(module: str) -> tuple[subprocess.Popen[bytes], Channel]:
    """Starts a module of ours as a process of its own, with the other end of a channel. Raises OSError."""
    channel, theirs = Channel.pair()
    try:
        with theirs:
            process = subprocess.Popen(
                interpreter.command(module, str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=interpreter.environment(),
            )
    except BaseException:
        channel.close()
        raise
    return process, channel
