"""Keeps the memory of a process with keys to itself: no core dumps, and no other process of its user may read it."""

from __future__ import annotations

import ctypes
import resource

from engine import log

logger = log.get("keys")

_PR_SET_DUMPABLE = 4


def protect() -> None:
    """Forbids core dumps and, to all but root, reading this process's memory and attaching a debugger."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        logger.warning("the memory of this process can be read by others of its user", errno=ctypes.get_errno())
