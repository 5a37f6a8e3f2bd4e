"""Threads, tasks and callbacks that nobody waits for: an unexpected end is logged, and its owner is told.

    start    a daemon thread
    watch    a task
    call     a callback, one of several that must all be called

Python prints what ends a thread and forgets it, keeps what ends a task until somebody collects it, and leaves a loop at
the first callback that raises. The caller decides what follows: it begins again after a pause, or ends.
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
    """A started daemon thread that runs `work`; `on_crash` is called from it with what it raised."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            _tell("a thread ended unexpectedly", name, error)
            if on_crash is not None:
                on_crash(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def watch(task: Watched, name: str, on_crash: OnCrash | None = None) -> Watched:
    """The task; `on_crash` is called on the loop with what it raised. A cancelled one ends as somebody wanted."""

    def ended(task: asyncio.Future[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _tell("a task ended unexpectedly", name, error)
            if on_crash is not None:
                on_crash(error)

    task.add_done_callback(ended)
    return task


def call(name: str, callback: Callable[..., object], *arguments: object) -> None:
    """Calls it. What it raises is logged, and the next callback is called all the same."""
    try:
        callback(*arguments)
    except Exception as error:
        failed(name, error)


def failed(name: str, error: Exception) -> None:
    """Logs what a callback has raised, for a caller that calls it itself."""
    _tell("a callback failed", name, error)


def _tell(event: str, name: str, error: BaseException) -> None:
    where = traceback.extract_tb(error.__traceback__)[-1:]
    at = [f"{frame.filename}:{frame.lineno}" for frame in where]
    logger.error(event, name=name, error=repr(error), at=at[0] if at else "")
