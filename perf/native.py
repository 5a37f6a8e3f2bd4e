"""The compiled parts of the loads: built by the C compiler on first use, called without the interpreter lock.

Without a compiler a load continues in Python; the receiver then costs more, and `perf.bench.warnings` says so.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

SOURCES = Path(__file__).parent
BUFFER_BYTES = 65536

CLOSED, COMMAND, OTHER_PDU, FAILED = range(4)
"""Results of `receive`."""


class Receiver(ctypes.Structure):
    """`struct receiver` of receiver.c."""

    _fields_ = (
        ("fd", ctypes.c_int32),
        ("other_length", ctypes.c_int32),
        ("other_kind", ctypes.c_int32),
        ("pdu_left", ctypes.c_int32),
        ("instance_count", ctypes.c_int64),
        ("data_set_bytes", ctypes.c_int64),
        ("first_command_ns", ctypes.c_int64),
        ("first_instance_ns", ctypes.c_int64),
        ("start", ctypes.c_int32),
        ("end", ctypes.c_int32),
        ("ahead", ctypes.c_uint8 * BUFFER_BYTES),
        ("other", ctypes.c_uint8 * BUFFER_BYTES),
    )

    def receive(self) -> int:
        """Receives and answers instances until something else comes. Returns one of the constants above."""
        library = compiled("receiver")
        assert library is not None, "whoever makes a Receiver has asked `is_available`"
        return int(library.receive(ctypes.byref(self)))

    @property
    def other_bytes(self) -> bytes:
        """The bytes that came instead of an instance: a command, or the body of a PDU."""
        return bytes(memoryview(self.other)[: self.other_length])


def is_available() -> bool:
    """Whether the compiled parts can be used."""
    return compiled("receiver") is not None


@functools.cache
def compiled(name: str) -> ctypes.CDLL | None:
    """`name`.c as a library; None without a compiler. Cached in the folder for temporary files."""
    source = SOURCES / f"{name}.c"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"perf-native-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{name}-{digest}.so"
    if not built.exists():
        # Each builder in a file of its own: two threads, or two programs, may be the first at once.
        part = folder / f"{name}-{os.getpid()}-{threading.get_ident()}.part"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(part), str(source)], check=True)
        part.replace(built)
    return ctypes.CDLL(str(built))
