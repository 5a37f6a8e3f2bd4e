"""Lets a command open the index beside a server in another PID namespace (a container): under an unused process id.

LMDB distinguishes the processes that have an index open by process id. It refuses a process whose id is also used in
another namespace; the first processes of two containers always collide. A child process has another id.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from engine.errors import ProcessIdTaken

Result = TypeVar("Result")

TRIES_MAX = 32
"""Ids tried one after the other; a server has about ten processes."""


def under_a_free_id(work: Callable[[], Result]) -> Result:
    """Runs `work` here, or in a child process that continues in place of this one. Returns and raises as `work` does.

    Call it while the process has only one thread: it may fork.
    """
    for _ in range(TRIES_MAX):
        try:
            return work()
        except ProcessIdTaken:
            _go_on_as_a_child()
    return work()


def _go_on_as_a_child() -> None:
    """Returns in a child; this process waits for it and ends as it does."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        return
    # The terminal's Ctrl-C reaches the child too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
