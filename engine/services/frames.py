"""The frames of one association, as many as the worker's budget allows: taken, used again, given back.

Does not fill or send them. A frame costs the budget its capacity from the moment that it is made until it is dropped,
whoever holds it; using one again costs nothing.
"""

from __future__ import annotations

from engine.dimse.assembly import Frame
from engine.runtime.retrieval_budget import RetrievalBudget


class Frames:
    """Buffers for instances on their way out, used again and again."""

    def __init__(self, budget: RetrievalBudget, fragment: int) -> None:
        """`fragment` in bytes."""
        self._budget = budget
        self._fragment = fragment
        self._idle: list[Frame] = []
        self._held_bytes = 0

    def take(self, prefix: int, payload: int, share: float) -> Frame | None:
        """One with room for so many bytes: one that is there, or a new one if `share` of the budget has room for it."""
        room = Frame.room_for(prefix, payload, self._fragment)
        for number, frame in enumerate(self._idle):
            if frame.capacity >= room:
                return self._idle.pop(number)
        self.drop_idle()
        capacity = room + room // 8
        return self._made(capacity) if self._budget.take(capacity, share) else None

    async def wait_for(self, prefix: int, payload: int, limit_s: float) -> Frame:
        """A new one as soon as there is memory. Raises MemoryShort."""
        room = Frame.room_for(prefix, payload, self._fragment)
        await self._budget.wait_for(room, limit_s)
        return self._made(room)

    def keep(self, frame: Frame) -> None:
        """Nobody needs what is in it: it may be used again, unless others need its memory."""
        if self._budget.is_short:
            self.drop(frame)
        else:
            self._idle.append(frame)

    def keep_all(self, frames: list[Frame]) -> None:
        """The same of several."""
        for frame in frames:
            self.keep(frame)

    def drop(self, frame: Frame | None) -> None:
        """Nobody refers to it any more."""
        if frame is not None:
            self._held_bytes -= frame.capacity
            self._budget.give_back(frame.capacity)

    def drop_idle(self) -> None:
        """Lets go of those that are kept."""
        while self._idle:
            self.drop(self._idle.pop())

    def close(self) -> None:
        """All of them are over, wherever they are."""
        self._idle.clear()
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

    def _made(self, capacity: int) -> Frame:
        self._held_bytes += capacity
        return Frame(capacity)
