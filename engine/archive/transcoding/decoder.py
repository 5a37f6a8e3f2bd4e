"""The process in which pixels are decoded, started by `decoder_pool`. Argument: bytes decoded at most.

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

from engine.archive.transcoding.decoder_pool import ANSWER, DONE, JOB, NOT_POSSIBLE, read_exactly, write_all
from engine.archive.transcoding.decompress import decompress
from engine.dicom import transfer_syntax
from engine.errors import TranscodeError

ADDRESS_SPACE_BYTES: Final = 1 << 30
"""For the interpreter, its libraries and their threads' stacks; five times the decoded pixels come on top."""


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
            source, target, length = JOB.unpack(read_exactly(jobs, JOB.size))
            status, answer = _answer(source, target, read_exactly(jobs, length), bytes_max)
            write_all(answers, ANSWER.pack(status, len(answer)))
            write_all(answers, answer)
    except (EOFError, BrokenPipeError):
        return


def _answer(source: bytes, target: bytes, data: bytearray, bytes_max: int) -> tuple[int, bytes]:
    try:
        from_syntax, to_syntax = (transfer_syntax.of(uid.rstrip(b"\0").decode("ascii")) for uid in (source, target))
        return DONE, decompress(data, from_syntax, to_syntax, decoded_bytes_max=bytes_max)
    except TranscodeError as error:
        return NOT_POSSIBLE, str(error).encode()
    except MemoryError:
        return NOT_POSSIBLE, b"decoding it takes more memory than is allowed"


if __name__ == "__main__":
    main(int(sys.argv[1]))
