"""Limits of one worker's requests: how many at once, in total and for each client, and how many a second."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from engine.rate_limiter import TokenBuckets
from engine.web.errors import HttpError

if TYPE_CHECKING:
    from engine.metrics import Metrics
    from engine.web.settings import Http

RETRY_S = 1


class RequestLimits:
    """Counts the requests in progress of this process."""

    def __init__(self, settings: Callable[[], Http], metrics: Metrics, now: Callable[[], float]) -> None:
        """`settings`: returns the current ones."""
        self._settings = settings
        self._counters = metrics.counters
        self._now = now
        self._by_client: Counter[str] = Counter()
        self._rates = TokenBuckets()
        self.count = 0
        """Requests in progress."""

    def enter(self, client: str, *, is_limited: bool = True) -> None:
        """Counts a request. Raises HttpError and does not count it when there are too many, if it `is_limited`."""
        if is_limited:
            self._check(client)
        self._count_in(client)

    def _count_in(self, client: str) -> None:
        self.count += 1
        self._by_client[client] += 1

    def _check(self, client: str) -> None:
        settings = self._settings()
        wait_s = self._rates.wait_s(client, 1, settings.requests_per_client_per_s_max, self._now())
        if wait_s or self._by_client[client] >= settings.requests_per_client_max:
            self._counters["http_requests_refused_by_client"] += 1
            headers = {"Retry-After": str(math.ceil(wait_s) or RETRY_S)}
            raise HttpError(HTTPStatus.TOO_MANY_REQUESTS, f"too many requests from {client}", headers)
        if self.count >= settings.requests_max:
            self._counters["http_requests_refused"] += 1
            detail = f"{self.count} requests are in progress"
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(RETRY_S)})

    def allows(self, client: str) -> bool:
        """Whether a request may be answered at once, without `enter`; if not, `enter` raises the reason."""
        return self._has_room(client) and self.has_rate(client)

    def enter_early(self, client: str) -> bool:
        """Counts a request that is answered without `enter` if its body is a usual one; False: there are too many.

        Ask `has_rate` before the answer. Otherwise call `leave`, and `enter` counts it again.
        """
        if not self._has_room(client):
            return False
        self._count_in(client)
        return True

    def has_rate(self, client: str) -> bool:
        """Whether the client may be answered once more in this second, which is then counted."""
        return not self._rates.wait_s(client, 1, self._settings().requests_per_client_per_s_max, self._now())

    def _has_room(self, client: str) -> bool:
        settings = self._settings()
        return self.count < settings.requests_max and self._by_client[client] < settings.requests_per_client_max

    def leave(self, client: str) -> None:
        """Removes a counted request that has ended."""
        self.count -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]
