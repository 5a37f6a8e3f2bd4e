"""Memory that the supervisor and its workers share: one part a worker, which that worker writes.

    memory   part of worker 0 | part of worker 1 | …
    part     heartbeat | associations count          up to a whole page

The supervisor clears the part of a worker that has ended, and with it its associations.
"""

from __future__ import annotations

import mmap
import os

from engine.runtime.associations_count import COUNT_BYTES, AssociationsCount
from engine.runtime.heartbeat import HEARTBEAT_BYTES, Heartbeat

PART_BYTES = -(-(HEARTBEAT_BYTES + COUNT_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE


class WorkerMemory:
    """One process's view of the shared memory."""

    def __init__(self, fd: int, number: int) -> None:
        """`fd`: of the memory, kept open for its locks; `number`: the part that this process writes."""
        self._memory = memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self.fd = fd
        self.heartbeat = Heartbeat(memory, PART_BYTES, number, fd)
        self.associations = AssociationsCount(memory, PART_BYTES, number, HEARTBEAT_BYTES)

    @classmethod
    def create(cls, workers: int) -> WorkerMemory:
        """Makes the memory, for the supervisor. Workers inherit its descriptor; the supervisor only clears parts."""
        fd = os.memfd_create("filmroom-workers", os.MFD_CLOEXEC)
        os.ftruncate(fd, workers * PART_BYTES)
        return cls(fd, 0)

    def clear(self, number: int) -> None:
        """Clears the part of worker `number`, which has ended."""
        self._memory[number * PART_BYTES : (number + 1) * PART_BYTES] = bytes(PART_BYTES)
