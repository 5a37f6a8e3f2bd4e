"""Errors become HTTP answers that say when to come back."""

from __future__ import annotations

import pytest

from engine import errors
from engine.web.errors import problem


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (errors.StoreUnreachable("the store does not answer"), "5"),
        (errors.SegmentCold("in an archive class", 3600.4), "3601"),
        (errors.CatalogBehind("three groups are missing", 3), "5"),
        (errors.Fenced("another node has taken over"), "5"),
        (errors.ClusterUnreachable("PostgreSQL does not answer"), "5"),
        (errors.LeaseLost("the term is over"), "5"),
    ],
)
def test_bytes_that_cannot_be_read_now_are_asked_for_again_later(error: Exception, retry_after: str) -> None:
    answer = problem(error, "1")
    assert (answer.status, answer.headers["Retry-After"]) == (503, retry_after)
