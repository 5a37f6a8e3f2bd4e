"""Guards threads, tasks and callbacks that nobody waits for: logs an unexpected end and informs the owner.

    start    a daemon thread
    watch    a task
    call     a callback, one of several that must all be called
    on_loop  a callback of another thread, which may come after the loop has closed

By itself Python prints the exception that ends a thread and forgets it, keeps the one that ends a task until somebody
collects it, and leaves a loop at the first callback that raises. The owner decides whether to restart after a pause or
to end.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from engine import log

logger = log.get("guards")

Watched = TypeVar("Watched", bound="asyncio.Future[Any]")

OnCrash = Callable[[BaseException], None]


def start(name: str, work: Callable[[], None], on_crash: OnCrash | None = None) -> threading.Thread:
    """Starts a daemon thread that runs `work`; `on_crash` is called in that thread with the exception."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            _log_end("a thread ended unexpectedly", name, error)
            if on_crash is not None:
                on_crash(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def watch(task: Watched, name: str, on_crash: OnCrash | None = None) -> Watched:
    """Returns the task; `on_crash` is called on the loop with its exception. Cancellation is not a crash."""

    def ended(task: asyncio.Future[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log_end("a task ended unexpectedly", name, error)
            if on_crash is not None:
                on_crash(error)

    task.add_done_callback(ended)
    return task


def call(name: str, callback: Callable[..., object], *arguments: object) -> None:
    """Calls it and logs its exception, so that the next callback is called all the same."""
    try:
        callback(*arguments)
    except Exception as error:
        log_failure(name, error)


def on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Calls it on the loop's thread, from another one. Does nothing if the loop is closed: nobody waits there."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        return


def log_failure(name: str, error: Exception) -> None:
    """Logs the exception of a callback that the caller calls itself."""
    _log_end("a callback failed", name, error)


def position_of(error: BaseException) -> str:
    """Where it was raised. For errors whose text may quote what a sender wrote, this and the type are all to log."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _log_end(event: str, name: str, error: BaseException) -> None:
    logger.error(event, name=name, error=type(error).__name__, at=position_of(error))
