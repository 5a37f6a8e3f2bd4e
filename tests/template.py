"""Starts `python -m MODULE` by a fork of an interpreter that has imported the engine: a tenth of the processor time.

    tests ──arguments, environment, folder, pipes──► template ──fork──► keeper ──fork──► the process, a new session
      ▲                                                                   │
      └──────────────── its id, and when it has ended its status ─────────┘

It is started like a user's in all else. Take an interpreter of its own (subprocess) where the start itself is what is
tested, where another program starts it (strace), or where the environment is read before Python runs (LD_PRELOAD).
"""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

import orjson

from tests import jitter

ROOT = Path(__file__).resolve().parents[1]
REQUEST_BYTES_MAX = 1 << 20

IMPORTED = ["engine.app.serving", "engine.app.worker", "engine.server.caretaker", "engine.web.front"]
IMPORTED += ["engine.exchange.runner", "engine.cli.backend"]


class Process:
    """A started process; the part of subprocess.Popen that tests use."""

    def __init__(self, arguments: Sequence[str], pid: int, ending: IO[bytes], stdout: IO[str], stderr: IO[str]) -> None:
        self.args = list(arguments)
        self.pid = pid
        self.returncode: int | None = None
        self.stdout = stdout
        self.stderr = stderr
        self._ending = ending
        """Says the status of its end."""

    def poll(self) -> int | None:
        return self._end_within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._end_within(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end_within(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._ending], [], [], seconds)[0]:
            status = self._ending.readline()
            self._ending.close()
            assert status, "the process that keeps it was killed"
            self.returncode = os.waitstatus_to_exitcode(int(status))
        return self.returncode


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | str | None = None,
    terminal: int | None = None,
) -> Process:
    """`python -m module arguments` in a session of its own, with pipes for its output. `terminal`: a descriptor that is
    its input, its output and its errors instead."""
    (out, out_end), (err, err_end), (ending, ending_end) = os.pipe(), os.pipe(), os.pipe()
    request = {
        "module": module,
        "arguments": arguments,
        "environment": dict(os.environ if environment is None else environment),
        "folder": str(folder or Path.cwd()),
    }
    with open(os.devnull, "rb") as nothing:
        standard = [nothing.fileno(), out_end, err_end] if terminal is None else [terminal] * 3
        socket.send_fds(_template(), [orjson.dumps(request)], [*standard, ending_end])
    for end in (out_end, err_end, ending_end):
        os.close(end)
    status = open(ending, "rb", buffering=0)  # noqa: SIM115 - until its end
    pid = int(status.readline())
    return Process([module, *arguments], pid, status, open(out), open(err))


def run(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | str | None = None,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; what it wrote is text."""
    process = start(module, *arguments, environment=environment, folder=folder)
    output: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    is_open = set(output)
    give_up_at = time.monotonic() + timeout_s
    while is_open:
        for fd in select.select(is_open, [], [], max(0.0, give_up_at - time.monotonic()))[0]:
            if block := os.read(fd, 1 << 16):
                output[fd].append(block)
            else:
                is_open.remove(fd)
        if time.monotonic() >= give_up_at:
            break
    process.stdout.close()
    process.stderr.close()
    if is_open:
        process.kill()
        process.wait()
        raise subprocess.TimeoutExpired(process.args, timeout_s)
    code = process.wait()
    texts = [b"".join(blocks).decode() for blocks in output.values()]
    return subprocess.CompletedProcess(process.args, code, *texts)


@cache
def _template() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES_MAX)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.template", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# The template's side -----------------------------------------------------------------------------


def serve(fd: int) -> None:
    """Forks what is asked for until the tests have ended."""
    import importlib

    for module in IMPORTED:
        importlib.import_module(module)
    from tests import light_passwords

    light_passwords.install()
    assert len(os.listdir("/proc/self/task")) == 1, "a module has started a thread: forks would not be safe"
    gc.collect()
    gc.freeze()
    channel = socket.socket(fileno=fd)
    while True:
        data, fds, _, _ = socket.recv_fds(channel, REQUEST_BYTES_MAX, 4)
        if not data:
            return _collect_ended()
        if os.fork() == 0:
            _keep(channel, orjson.loads(data), fds)
        for each in fds:
            os.close(each)
        _collect_ended()


def _collect_ended() -> None:
    """Collects keepers that have ended, so that their processor time counts as the tests'."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _keep(channel: socket.socket, request: dict[str, object], fds: list[int]) -> NoReturn:
    """Starts the process, tells its id, and tells its status when it has ended."""
    channel.close()
    *standard, ending = fds
    in_session, session_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for end in (ending, in_session, session_end):
            os.close(end)
        _become(request, standard)
    for end in (*standard, session_end):
        os.close(end)
    os.read(in_session, 1)  # who knows its id may kill its group
    os.write(ending, b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    try:
        os.write(ending, b"%d\n" % status)
    except BrokenPipeError:
        pass  # the tests have ended
    os._exit(0)


def _become(request: dict[str, object], standard: list[int]) -> NoReturn:
    code = 1
    try:
        for number, fd in enumerate(standard):
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        if jitter.JITTER_S:
            jitter.install()
            jitter.install_files()
        os.environ.clear()
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        time.tzset()
        os.chdir(str(request["folder"]))
        sys.argv = [str(request["module"]), *request["arguments"]]  # type: ignore[misc]
        runpy.run_module(str(request["module"]), run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
