"""The process in which pixels are decoded, started by `decoder_pool`. Argument: bytes of a frame at most.

Decoders read hostile bytes, some hold the interpreter lock for seconds and some can crash, so they run here and never
in a process that serves. Knows no archive and opens no file; one job after the other comes in on standard input and
goes out on standard output, until that is closed. The format of both is in `archive.transcoding.decoder_pool`.

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
from typing import Final

from engine.archive.transcoding.decoder_pool import (
    ANSWER,
    DONE,
    JOB,
    NOT_POSSIBLE,
    PIECE,
    PIECE_BYTES,
    WANTED,
    read_exactly,
    write_all,
)
from engine.archive.transcoding.decompress import decompressed
from engine.dicom import transfer_syntax
from engine.errors import TranscodeError

ADDRESS_SPACE_BYTES: Final = 1 << 30
"""For the interpreter, its libraries and their threads' stacks; five times a decoded frame come on top."""


def main(bytes_max: int) -> None:
    """Works until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes our input
    limit = ADDRESS_SPACE_BYTES + 5 * bytes_max
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries say may quote the data set, and what they print would stand among the answers.
    warnings.simplefilter("ignore")
    logging.disable()
    jobs, answers = sys.stdin.fileno(), os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        while True:
            uid, length = JOB.unpack(read_exactly(jobs, JOB.size))
            _answer(Asked(jobs, answers, length), uid.rstrip(b"\0").decode("ascii"), answers, bytes_max)
    except (EOFError, BrokenPipeError):
        return


class Asked:
    """The data set of a job: what is wanted of it is asked for (a `dicom.sources.Source`)."""

    def __init__(self, jobs: int, answers: int, length: int) -> None:
        self._jobs, self._answers = jobs, answers
        self.length = length

    def read(self, offset: int, count: int) -> bytearray:
        """See `Source`. Raises EOFError when there is nobody to ask any more."""
        count = max(min(count, self.length - offset), 0)
        if not count:
            return bytearray()
        write_all(self._answers, ANSWER.pack(WANTED, offset, count))
        return read_exactly(self._jobs, count)


def _answer(source: Asked, uid: str, answers: int, bytes_max: int) -> None:
    why = b""
    try:
        for piece in decompressed(source, transfer_syntax.of(uid), decoded_bytes_max=bytes_max):
            view = memoryview(piece).cast("B")
            for at in range(0, len(view), PIECE_BYTES):
                part = view[at : at + PIECE_BYTES]
                write_all(answers, ANSWER.pack(PIECE, len(part), 0))
                write_all(answers, part)
    except TranscodeError as error:
        why = str(error).encode()[:PIECE_BYTES]
    except MemoryError:
        why = b"decoding it takes more memory than is allowed"
    write_all(answers, ANSWER.pack(NOT_POSSIBLE if why else DONE, len(why), 0))
    write_all(answers, why)


if __name__ == "__main__":
    main(int(sys.argv[1]))
