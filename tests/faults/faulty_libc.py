"""The door to faulty_libc.c: compiles it, preloads it, arms it from inside a process.

Not a simulation: the program, LMDB included, runs on a real file system, and the n-th call of a kind does what a
signal, a full disk or a dying one would have done.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class Call(IntEnum):
    """What is counted."""

    PWRITE = 0
    PWRITEV = 1
    FDATASYNC = 2
    FSYNC = 3
    WRITE_BACK = 4
    FALLOCATE = 5
    FTRUNCATE = 6
    RENAME = 7
    UNLINK = 8
    OPEN = 9


class Action(IntEnum):
    """What happens at the n-th."""

    NOTHING = 0
    KILL = 1
    ERRNO = 2
    ALWAYS = 3
    SHORT = 4
    TORN = 5


def build(folder: Path) -> Path:
    """The shared object, for LD_PRELOAD; whoever runs the tests has the compiler that built the engine."""
    target = folder / "faulty_libc.so"
    command = ("cc", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(target), str(SOURCE))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


class Armed:
    """The preloaded library in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)

    def arm(self, call: Call, at: int, action: Action, number: int, prefix: str) -> None:
        """Counting begins anew; calls on names count below `prefix` only."""
        self._library.fault_arm(int(call), ctypes.c_long(at), int(action), number, os.fsencode(prefix))

    def disarm(self) -> None:
        """Counts on, and nothing fails any more."""
        self._library.fault_arm(-1, ctypes.c_long(0), 0, 0, b"")

    def has_fired(self) -> bool:
        """Whether the fault has happened."""
        return bool(self._library.fault_fired())

    def counts(self) -> dict[str, int]:
        """How often each call was made since it was armed."""
        return {call.name: int(self._library.fault_count(int(call))) for call in Call}
