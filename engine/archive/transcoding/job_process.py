"""The other side of `process_pool`: a process that does jobs on hostile bytes. Argument: bytes of a frame at most.

Decoders read hostile bytes, some hold the interpreter lock for seconds and some can crash, so they run here and never
in a process that serves. Knows no archive and opens no file; one job after the other comes in on standard input and
goes out on standard output, until that is closed. The format of both is in `archive.transcoding.process_pool`.

The address space is limited, so that an image that is larger than it says ends in an answer, or in the end of this
process, and not in the machine's memory.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import orjson

from engine.archive.transcoding.process_pool import (
    ANSWER,
    DONE,
    JOB,
    NOT_POSSIBLE,
    PIECE,
    PIECE_BYTES,
    READ,
    Options,
    read_exactly,
    write_all,
)
from engine.dicom.sources import Source
from engine.errors import TranscodeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Job: TypeAlias = "Callable[[Source, Options, int], Iterator[Buffer]]"
"""Input, options, bytes of a frame at most → the result in pieces. Raises TranscodeError."""

ADDRESS_SPACE_BYTES: Final = 1 << 30
"""For the interpreter, its libraries and their threads' stacks; five times a decoded frame come on top."""


def serve(jobs: Mapping[str, Job]) -> None:
    """Works until standard input ends."""
    bytes_max = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes our input
    limit = ADDRESS_SPACE_BYTES + 5 * bytes_max
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries say may quote the data set, and what they print would stand among the answers.
    warnings.simplefilter("ignore")
    logging.disable()
    orders, answers = sys.stdin.fileno(), os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        while True:
            options_length, length = JOB.unpack(read_exactly(orders, JOB.size))
            options = orjson.loads(read_exactly(orders, options_length))
            _answer(RemoteSource(orders, answers, length), jobs[options["job"]], options, answers, bytes_max)
    except (EOFError, BrokenPipeError):
        return


class RemoteSource:
    """The input of a job: what is read of it is asked for (a `dicom.sources.Source`)."""

    def __init__(self, orders: int, answers: int, length: int) -> None:
        self._orders, self._answers = orders, answers
        self.length = length

    def read(self, offset: int, count: int) -> bytearray:
        """See `Source`. Raises EOFError when there is nobody to ask any more."""
        count = max(min(count, self.length - offset), 0)
        if not count:
            return bytearray()
        write_all(self._answers, ANSWER.pack(READ, offset, count))
        return read_exactly(self._orders, count)


def _answer(source: RemoteSource, job: Job, options: Options, answers: int, bytes_max: int) -> None:
    why = b""
    try:
        for piece in job(source, options, bytes_max):
            view = memoryview(piece).cast("B")
            for at in range(0, len(view), PIECE_BYTES):
                part = view[at : at + PIECE_BYTES]
                write_all(answers, ANSWER.pack(PIECE, len(part), 0))
                write_all(answers, part)
    except TranscodeError as error:
        why = str(error).encode()[:PIECE_BYTES]
    except MemoryError:
        why = b"it takes more memory than is allowed"
    write_all(answers, ANSWER.pack(NOT_POSSIBLE if why else DONE, len(why), 0))
    write_all(answers, why)
