"""Who takes what it is sent too slowly, at a clock that the tests drive."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.delivery import Delivery

RATE = 1000
WINDOW_S = 27.0


def slow_at(taken: Callable[[float], int], seconds: int, pending: Callable[[float], bool] = lambda _: True) -> int:
    """The second in which a peer is found too slow that has taken so much by then; -1: never."""
    delivery = Delivery(RATE, WINDOW_S)
    for now in range(seconds):
        if delivery.is_too_slow(float(now), taken(now), pending=pending(now)):
            return now
    return -1


def test_a_peer_that_receives_nothing_is_too_slow_after_the_window() -> None:
    assert slow_at(lambda _: 0, 100) == 27


def test_a_rate_below_the_minimum_is_too_slow_and_the_minimum_is_enough() -> None:
    assert slow_at(lambda now: int(now), 100) == 27
    assert slow_at(lambda now: int(now) * (RATE - 1), 100) == 27
    assert slow_at(lambda now: int(now) * RATE, 1000) == -1


def test_a_burst_at_the_start_delays_it_by_no_more_than_itself() -> None:
    """Megabytes fit into the buffer of the peer's kernel, whatever the peer does then."""
    assert slow_at(lambda now: 6_000_000 + int(now) if now >= 1 else 0, 100) == 28


def test_bursts_count_as_much_as_a_constant_rate() -> None:
    assert slow_at(lambda now: int(now) // 10 * 10 * RATE * 2, 1000) == -1
    assert slow_at(lambda now: int(now) // 5 * 5 * RATE // 2, 1000) == 27


def test_time_without_pending_data_does_not_count() -> None:
    """It thinks for twenty seconds, then takes ten thousand bytes within one."""
    assert slow_at(lambda now: int(now) // 21 * 10_000, 2000, pending=lambda now: int(now) % 21 == 20) == -1


def test_the_time_of_many_messages_is_added_up() -> None:
    """Each message is taken in ten seconds, at half of the rate, and thought about for ten more."""
    found = slow_at(
        lambda now: int(now) // 20 * 5000 + min(int(now) % 20, 10) * 500, 500, pending=lambda now: int(now) % 20 < 10
    )
    assert 0 < found <= 60


@pytest.mark.parametrize("taken", [0, 10**9])
def test_without_a_rate_nothing_is_too_slow(taken: int) -> None:
    delivery = Delivery(0, WINDOW_S)
    assert not any(delivery.is_too_slow(float(now), taken, pending=True) for now in range(200))


def test_the_history_is_bounded_by_the_window() -> None:
    delivery = Delivery(RATE, WINDOW_S)
    for now in range(100_000):
        delivery.is_too_slow(float(now), now * RATE, pending=now % 3 != 0)
    assert len(delivery._samples) <= WINDOW_S + 2
