"""Random delays, with FILMROOM_JITTER=<milliseconds>: finds what leans on an order that nobody promises.

    FILMROOM_JITTER=20 FILMROOM_JITTER_SEED=7 .venv/bin/python -m pytest tests/net

    a thread, a job of a pool                    begins later; the result of a job is known later
    a task                                       its first step comes later
    asyncio.sleep, call_later                    take longer
    call_soon_threadsafe, from another thread    comes later
    a forked process                             begins later
    Files.open, fdatasync, rename                take longer (not in a process with an interpreter of its own)

So it is in the tests' process, in those that `template` forks, and in `python -m engine…` (`jittered/sitecustomize`).
Nobody may rely on these times, so that no verdict may change. A test whose clock or order is its own subject is marked
`unjittered(reason)`; its process has no delays then, but servers do. The report's head has the seed; processes and
threads draw from it in their own order, so that a second run need not repeat a failure: run it in a loop."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

JITTER_S = float(os.environ.get("FILMROOM_JITTER", "0")) / 1000
SEED = int(os.environ.get("FILMROOM_JITTER_SEED", "1"))
FOLDER = Path(__file__).parent / "jittered"

_chance = random.Random(SEED)
_sleep = time.sleep
_is_on = True


def install() -> None:
    """Delays this process and its children from now on; does nothing without FILMROOM_JITTER."""
    if not JITTER_S:
        return
    _delay_threads()
    _delay_loops()
    os.register_at_fork(after_in_child=_begin_child)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(FOLDER) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER), *paths]))


def install_files() -> None:
    """Delays the engine's calls of the file system too."""
    if not JITTER_S:
        return
    from engine.storage.files import Files

    for name in ("open", "fdatasync", "rename"):
        setattr(Files, name, _delayed(getattr(Files, name)))


def switch(is_on: bool) -> None:
    """Whether there are delays in this process from now on."""
    global _is_on
    _is_on = is_on


def describe() -> str:
    """A line for the head of a test report; "" without delays."""
    return f"threads, tasks and files delayed by up to {JITTER_S * 1000:g} ms, seed {SEED}" if JITTER_S else ""


def _pause_s(share: float = 1.0) -> float:
    """The length of a delay: only a share of all, and most are short. A long one everywhere would be another order."""
    if not _is_on or (share < 1.0 and _chance.random() >= share):
        return 0.0
    return JITTER_S * float(_chance.random()) ** 3


def _pause(share: float = 1.0) -> None:
    if pause_s := _pause_s(share):
        _sleep(pause_s)


def _delayed(call: Callable[..., Any]) -> Callable[..., Any]:
    def delayed(*arguments: Any, **options: Any) -> Any:
        _pause(0.1)
        return call(*arguments, **options)

    return delayed


def _begin_child() -> None:
    _chance.seed(SEED * 1_000_003 + os.getpid())
    _pause()


def _delay_threads() -> None:
    submit, run = ThreadPoolExecutor.submit, threading.Thread.run

    def delayed_submit(
        pool: ThreadPoolExecutor, work: Callable[..., Any], /, *arguments: Any, **options: Any
    ) -> Future[Any]:
        def delayed() -> Any:
            _pause()
            try:
                return work(*arguments, **options)
            finally:
                _pause()

        return submit(pool, delayed)

    def delayed_run(thread: threading.Thread) -> None:
        _pause()
        run(thread)

    ThreadPoolExecutor.submit = delayed_submit  # type: ignore[method-assign]
    threading.Thread.run = delayed_run  # type: ignore[method-assign]


def _delay_loops() -> None:
    import uvloop

    _delay_loop(asyncio.BaseEventLoop)
    _delay_loop(uvloop.Loop)


def _delay_loop(kind: Any) -> None:
    create_task, call_later, call_soon_threadsafe = kind.create_task, kind.call_later, kind.call_soon_threadsafe

    def delayed_task(loop: Any, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        pause_s = _pause_s(0.5)
        if pause_s and asyncio.iscoroutine(work):
            work = _later(loop, work, pause_s)
        task: asyncio.Task[Any] = create_task(loop, work, **options)
        return task

    async def _later(loop: Any, work: Coroutine[Any, Any, Any], pause_s: float) -> Any:
        waiter = loop.create_future()
        timer = call_later(loop, pause_s, lambda: waiter.done() or waiter.set_result(None))
        try:
            await waiter
        except BaseException:
            work.close()  # as a task that is cancelled before its first step
            raise
        finally:
            timer.cancel()
        return await work

    def longer(loop: Any, delay_s: float, call: Any, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timer: asyncio.TimerHandle = call_later(loop, delay_s + _pause_s(0.5), call, *arguments, **options)
        return timer

    def sooner_or_later(loop: Any, call: Any, *arguments: Any, **options: Any) -> asyncio.Handle:
        if asyncio._get_running_loop() is None:
            _pause(0.25)
        handle: asyncio.Handle = call_soon_threadsafe(loop, call, *arguments, **options)
        return handle

    kind.create_task, kind.call_later, kind.call_soon_threadsafe = delayed_task, longer, sooner_or_later
