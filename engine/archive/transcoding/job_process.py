"""The other side of `process_pool`: a process that does jobs on hostile bytes. Argument: the most bytes of a frame.

Decoders read hostile bytes, some hold the interpreter lock for seconds and some can crash, so they run here and never
in a process that serves. Knows no archive and opens no file. Jobs come one after the other on standard input, and
results go to standard output, until that is closed. `archive.transcoding.process_pool` has the format of both.

The address space is limited, so an image that is larger than declared ends in an error, or in the end of this process,
and does not exhaust the machine's memory.
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
"""Input, options, the most bytes of a frame → the result in pieces. Raises TranscodeError."""

ADDRESS_SPACE_BYTES: Final = 1 << 30
"""For the interpreter, its libraries and their threads' stacks, in addition to five times a decoded frame."""


def serve(jobs: Mapping[str, Job]) -> None:
    """Does jobs until standard input ends."""
    bytes_max = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and closes our input
    limit = ADDRESS_SPACE_BYTES + 5 * bytes_max
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Messages of libraries may quote the data set, and their output would corrupt the answers.
    warnings.simplefilter("ignore")
    logging.disable()
    orders, answers = sys.stdin.fileno(), os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        while True:
            options_length, length, ahead_length = JOB.unpack(read_exactly(orders, JOB.size))
            options = orjson.loads(read_exactly(orders, options_length))
            source = RemoteSource(orders, answers, length, read_exactly(orders, ahead_length))
            _answer(source, jobs[options["job"]], options, answers, bytes_max)
    except (EOFError, BrokenPipeError):
        return


class RemoteSource:
    """The input of a job, which each read requests from the parent (a `dicom.sources.Source`)."""

    def __init__(self, orders: int, answers: int, length: int, ahead: bytearray) -> None:
        """`ahead`: the first bytes of the input, sent with the job."""
        self._orders, self._answers = orders, answers
        self._ahead = memoryview(ahead)
        self.length = length

    def read(self, offset: int, count: int) -> Buffer:
        """See `Source`. Raises EOFError if the parent has ended."""
        count = max(min(count, self.length - offset), 0)
        if offset + count <= len(self._ahead):
            return self._ahead[offset : offset + count]
        write_all(self._answers, ANSWER.pack(READ, offset, count))
        return read_exactly(self._orders, count)


def _answer(source: RemoteSource, job: Job, options: Options, answers: int, bytes_max: int) -> None:
    why = b""
    try:
        for piece in job(source, options, bytes_max):
            view = memoryview(piece).cast("B")
            for at in range(0, len(view), PIECE_BYTES):
                part = view[at : at + PIECE_BYTES]
                write_all(answers, part, ANSWER.pack(PIECE, len(part), 0))
    except TranscodeError as error:
        why = str(error).encode()[:PIECE_BYTES]
    except MemoryError:
        why = b"it needs more memory than is allowed"
    write_all(answers, why, ANSWER.pack(NOT_POSSIBLE if why else DONE, len(why), 0))
