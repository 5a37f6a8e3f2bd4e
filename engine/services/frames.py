"""The pool of frames of one association, as many as the worker's budget allows.

A frame takes its capacity from the budget when it is made, and returns it when it is dropped; reuse costs nothing.
"""

from __future__ import annotations

from engine.dimse.assembly import Frame
from engine.runtime.retrieval_budget import RetrievalBudget


class Frames:
    """Reusable buffers for instances that are sent."""

    def __init__(self, budget: RetrievalBudget, fragment: int) -> None:
        """`fragment` in bytes."""
        self._budget = budget
        self._fragment = fragment
        self._idle: list[Frame] = []
        self._held_bytes = 0

    def take(self, prefix: int, payload: int, share: float) -> Frame | None:
        """A frame with room for so many bytes: an idle one, or a new one if `share` of the budget has room for it."""
        room = Frame.room_for(prefix, payload, self._fragment)
        for number, frame in enumerate(self._idle):
            if frame.capacity >= room:
                return self._idle.pop(number)
        self.drop_idle()
        capacity = room + room // 8
        return self._make(capacity) if self._budget.take(capacity, share) else None

    async def wait_for(self, prefix: int, payload: int, limit_s: float) -> Frame:
        """A new frame as soon as there is memory. Raises MemoryShort."""
        room = Frame.room_for(prefix, payload, self._fragment)
        await self._budget.wait_for(room, limit_s)
        return self._make(room)

    def keep(self, frame: Frame) -> None:
        """Makes a frame idle, for reuse; drops it if memory is short."""
        if self._budget.is_short:
            self.drop(frame)
        else:
            self._idle.append(frame)

    def keep_all(self, frames: list[Frame]) -> None:
        """The same for several frames."""
        for frame in frames:
            self.keep(frame)

    def drop(self, frame: Frame | None) -> None:
        """Returns the memory of a frame that nothing refers to any more."""
        if frame is not None:
            self._held_bytes -= frame.capacity
            self._budget.give_back(frame.capacity)

    def drop_idle(self) -> None:
        """Drops the idle frames."""
        while self._idle:
            self.drop(self._idle.pop())

    def close(self) -> None:
        """Returns the memory of all frames, also of those in use."""
        self._idle.clear()
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

    def _make(self, capacity: int) -> Frame:
        self._held_bytes += capacity
        return Frame(capacity)
