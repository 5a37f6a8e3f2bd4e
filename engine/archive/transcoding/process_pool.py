"""A pool of processes that decode, encode and draw pixels. Knows no DICOM.

They are few, started on demand, ended when idle, and killed when late. A process does one job at a time, for the thread
that has taken it. `job_process` is the other side of the pipes.

    run ─► an idle process, or a new one ─► job ─► answer ─► idle again ─► after `idle_s`: ended
                                             └─ late, dead, invalid answer: killed, TranscodeError; then a new one

    job       length of the options u32 | of the input u64 | of the bytes ahead u32                 little endian
              the options in JSON, and the first bytes of the input: all of it if it is short
    answers   u8 | u64 | u64, any number of them, then the last:
              0 done | 0 | 0            1 not possible | length | 0, and a sentence in UTF-8
              2 read | offset | length: the bytes of the input there follow on the process's standard input
              3 piece | length | 0, and that much of the result

So neither side holds more of an object in memory than a piece and a frame.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from engine import interpreter
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.dicom.sources import Source

JOB: Final = struct.Struct("<IQI")
ANSWER: Final = struct.Struct("<BQQ")
DONE: Final = 0
NOT_POSSIBLE: Final = 1
READ: Final = 2
PIECE: Final = 3

PIECE_BYTES: Final = 1 << 20

AHEAD_BYTES_MAX: Final = 1 << 20
"""An input up to this length is sent with its job: a request for each piece costs more than the piece."""
AHEAD_BYTES: Final = 64 << 10
"""The bytes of a longer input that are sent with its job: the head."""
PIPE_BYTES: Final = 1 << 20
"""The capacity of a pipe, where the system allows it: a usual image is then written and read at once."""
LOOKS_PER_LIMIT: Final = 8
"""How often a pool looks for late and idle processes within the shorter of the two limits."""
LOOK_S_MAX: Final = 1.0
"""The longest time between two looks."""

Options: TypeAlias = dict[str, Any]
"""The options of a job: "job" names it, the others depend on it. Plain values only."""

SLOWEST_BYTES_PER_S: Final = 1 << 20
"""For each time that a job has yielded this much, it may take a second more than the limit."""


def read_exactly(fd: int, length: int) -> bytearray:
    """Reads this many bytes from a pipe. Raises EOFError if it ends before."""
    data = bytearray(length)
    with memoryview(data) as view:
        at = 0
        while at < length:
            with view[at : at + PIECE_BYTES] as piece:
                count = os.readv(fd, [piece])
            if count == 0:
                raise EOFError
            at += count
    return data


def _widen(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # more than this user may have: a pipe of the usual capacity is only slower


def write_all(fd: int, data: Buffer, before: bytes = b"") -> None:
    """Writes all of the data to a pipe, behind the bytes of `before`."""
    view = memoryview(data)
    if before:
        written = os.writev(fd, (before, view[:PIECE_BYTES]))
        if written < len(before):
            write_all(fd, before[written:])
        view = view[max(written - len(before), 0) :]
    while view:
        view = view[os.write(fd, view[:PIECE_BYTES]) :]


class ProcessPool:
    """The pool. Call it from as many threads as there may be processes."""

    def __init__(self, module: str, time_limit_s: float, decoded_bytes_max: int, idle_s: float) -> None:
        """`module`: the module that each process runs. `decoded_bytes_max`: limit of one native frame."""
        self._module = module
        self._time_limit_s = time_limit_s
        self._decoded_bytes_max = decoded_bytes_max
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._looking: threading.Thread | None = None
        self._idle: dict[_Process, float] = {}
        """Each idle process, and the time since which it is idle."""
        self._working: set[_Process] = set()
        self._is_closed = False

    def run(self, source: Source, options: Options, take: Callable[[Buffer], None]) -> None:
        """Runs a job and waits for it; calls `take` with each piece of the result. Raises TranscodeError."""
        process = self._take()
        is_well = False
        try:
            why = process.run(source, options, take, self._time_limit_s)
            is_well = True
        finally:
            self._give_back(process, is_well)
        if why is not None:
            raise TranscodeError(why)

    def _take(self) -> _Process:
        with self._lock:
            if self._is_closed:
                raise TranscodeError("the transcoder is closed")
            while self._idle:
                process, _ = self._idle.popitem()
                if process.is_alive:
                    break
                process.end()
            else:
                process = _Process(self._module, self._decoded_bytes_max)
            self._working.add(process)
            if self._looking is None:
                self._looking = threading.Thread(target=self._look, name="pool", daemon=True)
                self._looking.start()
            return process

    def _give_back(self, process: _Process, is_well: bool) -> None:
        with self._lock:
            self._working.discard(process)
            if is_well and not self._is_closed:
                self._idle[process] = time.monotonic()
                return
        process.end()

    def _look(self) -> None:
        """Kills late processes and ends idle ones, until there are none left."""
        pause_s = min(min(self._time_limit_s, self._idle_s) / LOOKS_PER_LIMIT, LOOK_S_MAX)
        while True:
            self._changed.wait(pause_s)
            now = time.monotonic()
            with self._lock:
                for process in self._working:
                    process.kill_if_late(now)
                ending = [process for process, since in self._idle.items() if now - since >= self._idle_s]
                for process in ending:
                    del self._idle[process]
                is_over = self._is_closed or not (self._working or self._idle)
                if is_over:
                    self._looking = None
            for process in ending:
                process.end()
            if is_over:
                return

    def close(self) -> None:
        """Ends every process; a running job raises TranscodeError in its own thread."""
        with self._lock:
            self._is_closed = True
            idle = list(self._idle)
            self._idle.clear()
            for process in self._working:
                process.kill()
        self._changed.set()
        for process in idle:
            process.end()


class _Process:
    """One process, and our side of the protocol."""

    def __init__(self, module: str, decoded_bytes_max: int) -> None:
        try:
            self._process = subprocess.Popen(
                interpreter.command(module, str(decoded_bytes_max)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                # Each thread's stack counts towards the limit of the address space.
                env=interpreter.environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
            )
        except OSError as error:
            raise TranscodeError(f"no process can be started: {error.strerror}") from error
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                _widen(pipe.fileno())
        self._lock = threading.Lock()
        self._late_at: float | None = None
        self._is_late = False

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def run(self, source: Source, options: Options, take: Callable[[Buffer], None], time_limit_s: float) -> str | None:
        """Runs a job. Returns the reason if it was not possible, else None. After an exception discard the process."""
        self._late_at = time.monotonic() + time_limit_s
        try:
            return self._exchange(source, options, take)
        except (BrokenPipeError, EOFError) as error:
            how = f"took more than {time_limit_s:g} s" if self._is_late else f"failed: its process {self._fate()}"
            subject = f" transfer syntax {options['syntax']}" if "syntax" in options else ""
            raise TranscodeError(f"{options['job']}{subject} {how}") from error
        finally:
            with self._lock:
                self._late_at = None

    def kill_if_late(self, now: float) -> None:
        """Kills it if its job has exceeded its time. Call it from any thread."""
        with self._lock:
            if self._late_at is not None and now >= self._late_at:
                self._is_late = True
                self.kill()

    def _exchange(self, source: Source, options: Options, take: Callable[[Buffer], None]) -> str | None:
        if self._process.stdin is None or self._process.stdout is None:
            raise EOFError
        jobs, answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        words = orjson.dumps(options)
        ahead = source.read(0, source.length if source.length <= AHEAD_BYTES_MAX else AHEAD_BYTES)
        ahead_length = memoryview(ahead).nbytes
        write_all(jobs, ahead, JOB.pack(len(words), source.length, ahead_length) + words)
        while True:
            kind, first, second = ANSWER.unpack(read_exactly(answers, ANSWER.size))
            if kind == READ and first + second <= source.length:
                for at in range(first, first + second, PIECE_BYTES):
                    write_all(jobs, source.read(at, min(PIECE_BYTES, first + second - at)))
            elif kind == PIECE and first <= PIECE_BYTES:
                take(read_exactly(answers, first))
                self._grant(first / SLOWEST_BYTES_PER_S)
            elif kind == DONE:
                return None
            elif kind == NOT_POSSIBLE and first <= PIECE_BYTES:
                return read_exactly(answers, first).decode("utf-8", "replace")
            else:
                raise EOFError

    def _grant(self, more_s: float) -> None:
        with self._lock:
            if self._late_at is not None:
                self._late_at += more_s

    def _fate(self) -> str:
        self.kill()
        code = self._process.wait()
        return f"ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        """Kills the process; from any thread. Still call `end` afterwards."""
        self._process.kill()

    def end(self) -> None:
        """Ends the process and frees its resources. Not while another thread runs a job with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
