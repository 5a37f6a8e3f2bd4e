"""Wake: waits until a file or folder is written to, without looking at it again and again (inotify(7)).

A writer pays for it with a microsecond at most; with `once` only one write is noticed until `arm` is called again.
Where there is no inotify (another system, or too many watches), the waits are short and the caller looks by itself.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Callable

from engine import log

logger = log.get("archive.feed")

_IN_MODIFY, _IN_CREATE, _IN_MOVED_TO, _IN_ONESHOT = 0x2, 0x100, 0x80, 0x80000000
LOOK_S = 0.05
"""How long a wait is where nothing wakes it."""


class Wake:
    """Waits for writes to a path. `fd` is readable once there was one; -1 where there is no inotify."""

    def __init__(self, path: str, *, once: bool) -> None:
        """`once`: only the first write after each `arm` is noticed, so that later ones cost their writer nothing."""
        self._path = os.fsencode(path)
        self._mask = _IN_MODIFY | (_IN_ONESHOT if once else _IN_CREATE | _IN_MOVED_TO)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = -1
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self.fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError:
            pass  # no such function in this C library
        if self.fd >= 0 and not self.arm():
            os.close(self.fd)
            self.fd = -1
        if self.fd < 0:
            logger.warning("nothing tells of changes, they are looked for", error=os.strerror(ctypes.get_errno()))

    def arm(self) -> bool:
        """From now on a write is noticed. What was written before is for the caller to look at, after this call."""
        return self.fd < 0 or self._libc.inotify_add_watch(self.fd, self._path, ctypes.c_uint32(self._mask)) >= 0

    def wait(self, is_news: Callable[[], bool], timeout_s: float | None) -> None:
        """Returns when `is_news` says so, after a write, after `stop`, or after a time."""
        self.clear()
        self.arm()
        if is_news():
            return
        watched = [self._stop_fd]
        if self.fd >= 0:
            watched.append(self.fd)
        else:
            timeout_s = LOOK_S if timeout_s is None else min(timeout_s, LOOK_S)
        poll = select.poll()
        for fd in watched:
            poll.register(fd, select.POLLIN)
        poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        self.clear()

    def clear(self) -> None:
        """Forgets the writes that were noticed."""
        while self.fd >= 0:
            try:
                if not os.read(self.fd, 65536):
                    return
            except BlockingIOError:
                return

    def stop(self) -> None:
        """Ends a wait, and all later ones at once; by any thread."""
        os.eventfd_write(self._stop_fd, 1)

    def close(self) -> None:
        """Gives the descriptors back."""
        for fd in (self.fd, self._stop_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._stop_fd = -1
