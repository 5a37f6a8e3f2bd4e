"""perf.open_page: a page that grows is told from one that goes up and down."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perf.open_page import Look, growth


def looks(heap_bytes: Callable[[int], int], nodes: Callable[[int], int] = lambda minute: 900) -> list[Look]:
    return [Look(minute, heap_bytes(minute), nodes(minute), 100, 5) for minute in range(60)]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (looks(lambda minute: 3_000_000 + 50_000 * minute), "heap_bytes"),
        (looks(lambda minute: 3_000_000, lambda minute: 900 + 20 * minute), "nodes"),
        (looks(lambda minute: 3_000_000 + 400_000 * (minute % 3)), ""),
        (looks(lambda minute: 3_000_000 + 100_000 * min(minute, 20)), ""),
        (looks(lambda minute: 3_000_000)[:2], ""),
    ],
)
def test_what_goes_on_growing_is_named(seen: list[Look], expected: str) -> None:
    assert growth(seen).split(" ")[0] == expected
