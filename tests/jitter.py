"""Random delays between threads, with FILMROOM_JITTER=<milliseconds>: finds what leans on an order of threads.

    FILMROOM_JITTER=20 FILMROOM_JITTER_SEED=7 .venv/bin/python -m pytest tests/net

Each thread, and each job of a thread pool, begins up to so much later, and the result of a job is known up to so much
later. Nobody may rely on these times, so that no verdict may change. A failure prints the seed in the report's head;
threads draw from it in their own order, so that a second run need not repeat it: run it in a loop."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

JITTER_S = float(os.environ.get("FILMROOM_JITTER", "0")) / 1000
SEED = int(os.environ.get("FILMROOM_JITTER_SEED", "1"))


def install() -> None:
    """Delays the threads of this process from now on; does nothing without FILMROOM_JITTER."""
    if not JITTER_S:
        return
    chance = random.Random(SEED)
    submit, run = ThreadPoolExecutor.submit, threading.Thread.run

    def pause() -> None:
        # Most are short. A long delay everywhere would only be another order.
        threading.Event().wait(JITTER_S * chance.random() ** 3)

    def delayed_submit(
        pool: ThreadPoolExecutor, work: Callable[..., Any], /, *arguments: Any, **options: Any
    ) -> Future[Any]:
        def delayed() -> Any:
            pause()
            try:
                return work(*arguments, **options)
            finally:
                pause()

        return submit(pool, delayed)

    def delayed_run(thread: threading.Thread) -> None:
        pause()
        run(thread)

    ThreadPoolExecutor.submit = delayed_submit  # type: ignore[method-assign]
    threading.Thread.run = delayed_run  # type: ignore[method-assign]


def describe() -> str:
    """A line for the head of a test report; "" without delays."""
    return f"threads delayed by up to {JITTER_S * 1000:g} ms, seed {SEED}" if JITTER_S else ""
