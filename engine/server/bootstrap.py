"""The child's side of a process that the supervisor starts: how it begins, listens and ends. `child` is the other side.

open_channel ──► receive ──► run: log, audit log ──► serve ──► exit code
                                                      │
                                                      └── listen: each message of the supervisor, until it ends
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from traceback import format_exc
from typing import Any

from engine import audit, kept_log, log
from engine.config import Config
from engine.errors import EngineError, for_log
from engine.server.channel import Channel, ChannelClosed
from engine.server.child import flush_later

logger = log.get("server.bootstrap")


def open_channel(fd: int) -> Channel:
    """The channel to the supervisor. From now on signals of the terminal do not end this process."""
    # The terminal's Ctrl-C goes to the whole process group: only the supervisor reacts to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return Channel.inherited(fd)


def receive(channel: Channel) -> tuple[dict[str, Any], int | None]:
    """Waits for the next message; returns it and its descriptor. Raises ChannelClosed."""
    channel.set_blocking(True)
    delivery = channel.receive()
    assert delivery is not None
    channel.set_blocking(False)
    return delivery


def run(channel: Channel, name: str, serve: Callable[[Config, dict[str, Any]], int], **context: Any) -> int:
    """Waits for the configuration, and serves with it; returns the exit code.

    `serve` also gets the message of the configuration, which has its version. `context` is added to each line of the
    log.
    """
    try:
        message, _ = receive(channel)
    except ChannelClosed:
        return 1
    config = Config.from_json(message["config"].encode())
    log.configure(config.log, keeper=kept_log.keeper(config), **context)
    audit.configure(config)
    try:
        return serve(config, message)
    except EngineError as error:
        logger.error(f"{name} cannot start", error=for_log(error))
        return 1
    finally:
        audit.close()


def listen(channel: Channel, handle: Callable[[dict[str, Any], int | None], None], end: Callable[[], None]) -> None:
    """From now on the running loop handles each message and its descriptor, and sends those that had to wait.

    `end` is called when the supervisor has ended, or when a message could not be handled.
    """
    loop = asyncio.get_running_loop()

    def on_channel() -> None:
        try:
            while (delivery := channel.receive()) is not None:
                handle(*delivery)
        except ChannelClosed:
            logger.error("the supervisor has ended")
            end()
        except Exception:
            # The message may be half applied, and nobody repeats it: a successor starts with the current state.
            logger.error("a message of the supervisor could not be handled, the process ends", error=format_exc())
            end()

    flush_later(loop, channel)
    loop.add_reader(channel.fileno(), on_channel)
