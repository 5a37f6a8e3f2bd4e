"""Child processes forked before they are needed, so that a start imports each module once.

    filmroom serve ──imports what its children run──► forks them ──► supervisor: opens the archive, starts threads
                                                        └► each waits at its channel, as one started by `child.spawn`

A child with an interpreter of its own costs half a second of processor time and the memory of all its modules; a forked
one shares both. The successor of a dead child has its own (`child.spawn`): a process with threads cannot fork safely,
and whoever made the first child crash must not meet the same layout of memory again.

Fork only here: before there is a thread, an event loop, an open archive or a key.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from engine import log
from engine.server.channel import Channel
from engine.server.child import Process, spawn

logger = log.get("server.supervisor")

_NAME_BYTES_MAX = 15
"""The longest name that the kernel keeps."""


class ForkedProcess:
    """A forked child; the part of subprocess.Popen that the supervisor uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """Ends it at once."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Waits for its end."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Preforked:
    """The children that wait; used by the supervisor's process alone."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[ForkedProcess, Channel]]] = {}

    def fork(self, modules: Sequence[str], also: Sequence[str] = ()) -> None:
        """Imports all these modules, and forks a child for each of the first ones, which will run its `main`.

        Forks none where a fork is not safe or not allowed: `spawn` starts them then.
        """
        for module in [*modules, *also]:
            importlib.import_module(module)
        if _threads_count() > 1:
            logger.warning("children are not forked: a module has started a thread")
            return
        gc.collect()
        gc.freeze()  # or the first collection of each child would write to, and so copy, every page
        for module in modules:
            try:
                self._fork(module)
            except OSError as error:
                logger.warning("a child was not forked", reason=error.strerror)
                return

    def spawn(self, module: str) -> tuple[Process, Channel]:
        """A child that runs the module: one that waits, else a new interpreter. Raises OSError."""
        while waiting := self._waiting.get(module):
            process, channel = waiting.pop(0)
            if process.poll() is None:
                return process, channel
            channel.close()
        return spawn(module)

    def close(self) -> None:
        """Ends the children that still wait."""
        for process, channel in self._all():
            channel.close()
            process.kill()
            process.wait()
        self._waiting.clear()

    def _all(self) -> list[tuple[ForkedProcess, Channel]]:
        return [child for children in self._waiting.values() for child in children]

    def _fork(self, module: str) -> None:
        channel, theirs = Channel.pair()
        with theirs:
            sys.stdout.flush()
            sys.stderr.flush()
            try:
                pid = os.fork()
            except OSError:
                channel.close()
                raise
            if pid == 0:
                channel.close()
                for _, other in self._all():
                    other.close()  # or that child would not see the end of the supervisor
                _run(module, theirs)
        self._waiting.setdefault(module, []).append((ForkedProcess(pid), channel))


def _run(module: str, theirs: socket.socket) -> NoReturn:
    """Runs the module in the child, and ends it: nothing of the parent's stack may go on here."""
    code = 1
    try:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        _show_name(f"filmroom {module.rpartition('.')[2]}")
        code = importlib.import_module(module).main(theirs.detach())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _show_name(name: str) -> None:
    """Sets what `top` and `ps -e` show: the command line is the supervisor's."""
    try:
        with open("/proc/self/comm", "w") as file:
            file.write(name[:_NAME_BYTES_MAX])
    except OSError:
        pass  # a name for people only


def _threads_count() -> int:
    return len(os.listdir("/proc/self/task"))
