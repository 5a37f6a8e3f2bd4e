"""Locks of single bytes of files, owned by a descriptor (OFD): they end with the descriptor, in any process."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_LOCK = struct.Struct("hhqqi4x")


def _argument(kind: int, at: int = 0) -> bytes:
    return _LOCK.pack(kind, os.SEEK_SET, at, 1, 0)


def try_lock(fd: int, *, exclusive: bool, at: int = 0) -> bool:
    """Locks a byte for this descriptor (not process). False if another descriptor has a conflicting lock."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _argument(fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, at))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EACCES:
            return False
        raise
    return True


_UNLOCKED = struct.pack("h", fcntl.F_UNLCK)


def is_locked(fd: int, at: int = 0) -> bool:
    """Whether another descriptor of this file holds a lock on this byte of it."""
    return fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _argument(fcntl.F_WRLCK, at))[:2] != _UNLOCKED


def wait_shared(fd: int) -> None:
    """Takes a shared lock for this descriptor; waits while another descriptor has an exclusive one."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _argument(fcntl.F_RDLCK))
