"""How many streams without an end may be open, in all and of one principal: nobody may take the place of all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from engine.web.errors import HttpError, Unavailable

if TYPE_CHECKING:
    from engine.access import Principal

SHARE_OF_ONE: Final = 4
"""One principal has at most a quarter of the streams."""
RETRY_S: Final = 5


class StreamSlots:
    """The open streams of one kind in one process. Used on the loop's thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def taken(self, principal: Principal, count_max: int) -> Iterator[None]:
        """Counts a stream while it is open. Raises Unavailable if all are taken, HttpError if too many are his."""
        who = principal.share or principal.actor
        if self._counts.total() >= count_max:
            raise Unavailable(f"{count_max} streams are open already")
        if self._counts[who] >= max(count_max // SHARE_OF_ONE, 1):
            headers = {"Retry-After": str(RETRY_S)}
            raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, "too many streams of one user or address", headers)
        self._counts[who] += 1
        try:
            yield
        finally:
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]
