"""Wake: waits until a file or folder is written to, without polling (inotify(7)).

It costs a writer a microsecond at most; with `once` only one write is noticed until the next `arm`. Without inotify
(another system, or too many watches), waits are short and the caller must check by itself.
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
"""The length of a wait without inotify."""


class Wake:
    """Waits for writes to a path. `fd` is readable after a write; -1 without inotify."""

    def __init__(self, path: str, *, once: bool) -> None:
        """`once`: notices only the first write after each `arm`, so that later ones cost their writer nothing."""
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
            logger.warning("no inotify: polling for changes", error=os.strerror(ctypes.get_errno()))

    def arm(self) -> bool:
        """Notices writes from now on. Check for earlier ones after this call."""
        return self.fd < 0 or self._libc.inotify_add_watch(self.fd, self._path, ctypes.c_uint32(self._mask)) >= 0

    def wait(self, is_news: Callable[[], bool], timeout_s: float | None) -> None:
        """Returns when `is_news` is true after a write, after `stop`, or after a timeout."""
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
        """Forgets noticed writes."""
        while self.fd >= 0:
            try:
                if not os.read(self.fd, 65536):
                    return
            except BlockingIOError:
                return

    def stop(self) -> None:
        """Ends a wait, and all later ones at once; from any thread."""
        os.eventfd_write(self._stop_fd, 1)

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in (self.fd, self._stop_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._stop_fd = -1
