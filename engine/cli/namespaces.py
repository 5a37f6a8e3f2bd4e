"""Commands beside a server in another PID namespace, as `docker run` makes one: under a process id that is free there.

LMDB tells the processes that have an index open apart by their ids, and so refuses one whose id is taken by a process
of another namespace; of the first process of two containers that is always so. A child has another id.
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
"""So many ids may be taken, one after the other: a server has some ten processes."""


def under_a_free_id(work: Callable[[], Result]) -> Result:
    """What `work` returns, in this process or in a child that goes on in its place. Raises what it raises.

    Call it while there is one thread.
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
