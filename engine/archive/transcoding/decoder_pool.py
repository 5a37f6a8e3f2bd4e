"""The decoder processes: few, started when first needed, ended when idle, killed when late. Knows no DICOM.

One process does one job at a time for the thread that took it. `archive.transcoding.decoder` is what runs in it.

    run ─► an idle process, or a new one ─► job ─► answer ─► idle again ─► after `idle_s`: ended
                                             └─ late, dead or nonsense: killed, TranscodeError; the next job: a new one

    job      source UID (64 bytes, NUL padded) | target UID (64) | length u64 | data set          little endian
    answer   status u8: 0 done, 1 not possible | length u64 | data set, or a sentence in UTF-8
"""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from typing import TYPE_CHECKING, Final

from engine import interpreter
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

JOB: Final = struct.Struct("<64s64sQ")
ANSWER: Final = struct.Struct("<BQ")
DONE: Final = 0
NOT_POSSIBLE: Final = 1

PIECE_BYTES: Final = 1 << 20

_ANSWER_ROOM_BYTES: Final = 1 << 20
"""An answer is no longer than the decoded pixels, twice the data set (explicit VRs) and this."""


def read_exactly(fd: int, length: int) -> bytearray:
    """So many bytes from a pipe. Raises EOFError if it ends before."""
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


def write_all(fd: int, data: Buffer) -> None:
    """All of it into a pipe, however it takes it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:PIECE_BYTES]) :]


class DecoderPool:
    """Used from the transcoder's threads, of which there are as many as there may be processes."""

    def __init__(self, time_limit_s: float, decoded_bytes_max: int, idle_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._decoded_bytes_max = decoded_bytes_max
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: dict[_Process, threading.Timer] = {}
        self._working: set[_Process] = set()
        self._is_closed = False

    def run(self, data: Buffer, source: str, target: str) -> bytes:
        """Does one job, and waits for it. Raises TranscodeError."""
        process = self._take()
        is_well = False
        try:
            status, answer = process.run(data, source, target, self._time_limit_s)
            is_well = True
        finally:
            self._give_back(process, is_well)
        if status != DONE:
            raise TranscodeError(answer.decode("utf-8", "replace"))
        return bytes(answer)

    def _take(self) -> _Process:
        with self._lock:
            if self._is_closed:
                raise TranscodeError("the transcoder is closed")
            while self._idle:
                process, timer = self._idle.popitem()
                timer.cancel()
                if process.is_alive:
                    break
                process.end()
            else:
                process = _Process(self._decoded_bytes_max)
            self._working.add(process)
            return process

    def _give_back(self, process: _Process, is_well: bool) -> None:
        with self._lock:
            self._working.discard(process)
            if is_well and not self._is_closed:
                timer = threading.Timer(self._idle_s, self._retire, (process,))
                timer.daemon = True
                self._idle[process] = timer
                timer.start()
                return
        process.end()

    def _retire(self, process: _Process) -> None:
        with self._lock:
            if self._idle.pop(process, None) is None:
                return
        process.end()

    def close(self) -> None:
        """Ends every process; a job under way ends with TranscodeError in its own thread."""
        with self._lock:
            self._is_closed = True
            idle = list(self._idle.items())
            self._idle.clear()
            for process in self._working:
                process.kill()
        for process, timer in idle:
            timer.cancel()
            process.end()


class _Process:
    """One process, and our side of the protocol."""

    def __init__(self, decoded_bytes_max: int) -> None:
        self._answer_bytes_max = decoded_bytes_max + _ANSWER_ROOM_BYTES
        try:
            self._process = subprocess.Popen(
                interpreter.command("engine.archive.transcoding.decoder", str(decoded_bytes_max)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                # Each thread's stack counts as address space, which is limited.
                env=interpreter.environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
            )
        except OSError as error:
            raise TranscodeError(f"no decoder process can be started: {error.strerror}") from error

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def run(self, data: Buffer, source: str, target: str, time_limit_s: float) -> tuple[int, bytearray]:
        """Does one job: status and answer. After TranscodeError the process is good for nothing."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(time_limit_s, kill)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(data, source, target)
        except (OSError, EOFError) as error:
            how = f"took more than {time_limit_s:g} s" if late.is_set() else f"failed: its process {self._fate()}"
            raise TranscodeError(f"decoding transfer syntax {source} {how}") from error
        finally:
            timer.cancel()

    def _exchange(self, data: Buffer, source: str, target: str) -> tuple[int, bytearray]:
        if self._process.stdin is None or self._process.stdout is None:
            raise EOFError
        jobs, answers = self._process.stdin.fileno(), self._process.stdout.fileno()
        view = memoryview(data).cast("B")
        write_all(jobs, JOB.pack(source.encode("ascii"), target.encode("ascii"), len(view)))
        write_all(jobs, view)
        status, length = ANSWER.unpack(read_exactly(answers, ANSWER.size))
        if length > self._answer_bytes_max + 2 * len(view):
            raise EOFError
        return status, read_exactly(answers, length)

    def _fate(self) -> str:
        self.kill()
        code = self._process.wait()
        return f"ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        """Ends it now; from any thread, and `end` is still due."""
        self._process.kill()

    def end(self) -> None:
        """Ends it and gives back what it takes. Not while another thread runs a job with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
