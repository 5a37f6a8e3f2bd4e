"""The same content that comes again and again: the sign of a message that goes round in a circle of systems.

Each system on the way may write a header of its own, so a message is known by its kind and all
its segments but MSH. Twice the same
is no circle: a value may change to another and back, and a person may send something again. A circle does not end.

    digest of the content ─► numbers and times of the messages with it, within WINDOW_S

Held in memory: after a restart a circle goes round some times more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

WINDOW_S: Final = 3600.0
NUMBERS_MAX: Final = 50_000
"""Of all contents, some megabytes: the contents that came least recently are forgotten."""


class Repetitions:
    """Counts the messages of each content. Used by one thread at a time."""

    def __init__(self, repeats_max: int) -> None:
        """`repeats_max`: so many messages of one content within WINDOW_S are usual."""
        self._repeats_max = repeats_max
        self._count = 0
        self._seen: OrderedDict[bytes, dict[int, float]] = OrderedDict()

    def is_usual(self, number: int, time: float, content: Iterable[bytes]) -> bool:
        """Counts a message of this number, received at this time in seconds, and judges it.

        A number that was judged before is usual: it is tried again, or a person wants it to be sent.
        """
        hashed = blake2b(digest_size=16)
        for each in content:
            hashed.update(each)
        digest = hashed.digest()
        before = self._seen.pop(digest, {})
        numbers = {each: at for each, at in before.items() if at > time - WINDOW_S} | {number: time}
        self._seen[digest] = numbers
        self._count += len(numbers) - len(before)
        while self._count > NUMBERS_MAX:
            self._count -= len(self._seen.popitem(last=False)[1])
        return number in before or len(numbers) <= self._repeats_max
