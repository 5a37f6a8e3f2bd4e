"""The supervisor's side of a child process: its messages, its configuration, and the pause before a successor.

    start ──► running ──ends──► `lost` ──► `wait_for_end` ──► (its writes are recovered) ──► pause ──► started again

Messages arrive in order and are never lost (`channel`). The configuration has a version: a child reports the version
that it has applied, and the supervisor sends the configuration again until it has the newest.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from engine import interpreter
from engine.server.channel import Channel, ChannelClosed

RETRY_S = 0.02
"""The interval of retries for messages that did not fit into the kernel's buffer."""

RESEND_S = 5.0
"""After this time the configuration is sent again to a child that has not confirmed it."""

ENDING_S_MAX = 30.0
"""How long a child may live after it has closed its end of the channel."""

CHECK_S = 0.01


class Process(Protocol):
    """A child process: a subprocess.Popen, or a forked one (`prefork`)."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def kill(self) -> None:
        """Ends it at once."""


Spawn = Callable[[str], "tuple[Process, Channel]"]
"""Starts a module as a process with a channel. Raises OSError."""


class Restarts:
    """Computes the pause before a successor: twice as long each time, until one has lived for a while."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def pause_s(self, lived_s: float = 0.0) -> float:
        """The pause after a child that lived for `lived_s`; 0: it could not be started."""
        pause_s = self._first_s if lived_s > self._longest_s else self._next_s
        self._next_s = min(pause_s * 2, self._longest_s)
        return pause_s


class Child:
    """One process and our end of its channel; used on the supervisor's loop."""

    def __init__(self, process: Process, channel: Channel) -> None:
        self.process = process
        self.channel = channel
        self.started_at = time.monotonic()
        self.version = 0
        """Version of the configuration that it has applied."""
        self._sent_at = 0.0
        """When its newest configuration was sent."""
        self._request = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loop = asyncio.get_running_loop()
        self._handle: Callable[[dict[str, Any]], None] = lambda message: None
        self._lost: Callable[[], None] = lambda: None

    def attach(self, handle: Callable[[dict[str, Any]], None], lost: Callable[[], None]) -> None:
        """From now on `handle` gets its messages, and `lost` is called once when it has ended."""
        self._handle, self._lost = handle, lost
        self._loop.add_reader(self.channel.fileno(), self.listen)
        flush_later(self._loop, self.channel)

    def listen(self) -> None:
        """Receives and handles its messages."""
        try:
            while (message := self.channel.receive()) is not None:
                self._dispatch(message[0])
        except ChannelClosed:
            self._loop.remove_reader(self.channel.fileno())
            self.channel.close()
            for answer in self._answers.values():
                answer.cancel()
            self._answers.clear()
            self._lost()

    def _dispatch(self, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "answer":
                answer = self._answers.pop(message["request"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message["answer"])
            case "configured":
                self.version = message["version"]
            case _:
                self._handle(message)

    def send(self, kind: str, *, fd: int | None = None, **fields: object) -> None:
        """Sends it a message, now or when there is room. Does nothing when it has ended: `lost` is called for that."""
        try:
            self.channel.send(kind, fd=fd, **fields)
        except ChannelClosed:
            return

    def configure(self, config: str, version: int, origins: Mapping[str, str] | None = None) -> None:
        """Sends it the configuration; an older one that was not sent yet is dropped."""
        self._sent_at = self._loop.time()
        try:
            self.channel.send_latest("config", config=config, version=version, origins=origins or {})
        except ChannelClosed:
            return

    def is_behind(self, version: int) -> bool:
        """Whether it has not confirmed that version though it was sent more than RESEND_S ago and nothing waits."""
        late_s = self._loop.time() - self._sent_at
        return self.version < version and not self.channel.backlog and late_s > RESEND_S

    async def ask(self, topic: str, timeout_s: float, **fields: object) -> dict[str, Any]:
        """Asks for its facts on a topic, such as "stats"; empty when it does not answer in that time."""
        self._request = request = self._request + 1
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[request] = answer
        try:
            if not self.channel.offer("ask", request=request, fd=None, topic=topic, **fields):
                return {}
            return await asyncio.wait_for(answer, timeout_s)
        except (ChannelClosed, TimeoutError, asyncio.CancelledError):
            return {}
        finally:
            self._answers.pop(request, None)

    async def wait_for_end(self) -> int:
        """Waits for the end of a lost child; returns its exit code. Uses no thread: the system may have none left."""
        give_up_at = self._loop.time() + ENDING_S_MAX
        while (code := self.process.poll()) is None:
            if self._loop.time() > give_up_at:
                self.process.kill()
            await asyncio.sleep(CHECK_S)
        return code


def flush_later(loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
    """Makes waiting messages of a channel be sent every RETRY_S until all are gone."""

    def flush() -> None:
        try:
            if not channel.flush():
                loop.call_later(RETRY_S, flush)
        except ChannelClosed:
            return  # the reader of the channel gets the same error and handles it

    def begin() -> None:
        loop.call_later(RETRY_S, flush)

    channel.on_backlog = begin


def spawn(module: str) -> tuple[Process, Channel]:
    """Starts a module of this package as a process, with the other end of a channel. Raises OSError."""
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
