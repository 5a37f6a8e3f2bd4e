"""engine.rate_limiter: what passes in a time, judged by adding up."""

from __future__ import annotations

import random

import pytest

from engine.rate_limiter import BURST_S, RateLimiter, TokenBucket, TokenBuckets


@pytest.mark.parametrize("seed", range(20))
def test_no_more_passes_than_the_rate_and_one_burst_in_any_stretch_of_time(seed: int) -> None:
    rng = random.Random(seed)
    rate, burst = rng.choice([(10.0, 5.0), (1000.0, 2000.0), (7.0, 1.0)])
    bucket = TokenBucket(burst, 0.0)
    now_s = 0.0
    passed = [(0.0, 0.0)]
    for _ in range(300):
        now_s += rng.choice([0.0, 0.01, 0.3, 5.0])
        count = rng.uniform(0.1, burst)
        bucket.gather(now_s, rate, burst)
        if not bucket.wait_s(count, rate):
            bucket.take(count)
            passed.append((now_s, count))
    for begin in range(0, len(passed), 7):
        total = 0.0
        for at_s, count in passed[begin:]:
            total += count
            assert total <= rate * (at_s - passed[begin][0]) + burst + 1e-6, f"seed {seed}"


def test_a_debt_is_paid_before_anything_else_passes() -> None:
    bucket = TokenBucket(0.0, 0.0)
    bucket.take(30)
    assert (bucket.debt, bucket.wait_s(0, 10)) == (30, 3)
    bucket.gather(2.0, 10, burst=10)
    assert bucket.debt == 10
    bucket.gather(100.0, 10, burst=10)
    assert (bucket.debt, bucket.tokens, bucket.wait_s(5, 10)) == (0, 10, 0)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(0.0, 10.0)
    for now_s in (10.0, 9.0, 9.0):
        bucket.gather(now_s, 100, burst=100)
        assert bucket.tokens == 0


def test_each_name_has_a_full_bucket_at_first_and_no_rate_means_no_limit() -> None:
    buckets = TokenBuckets()
    assert buckets.wait_s("a", 10, 10, 0.0) == 0
    assert buckets.wait_s("a", 10, 10, 0.25) == pytest.approx(0.75)
    assert buckets.wait_s("a", 2, 10, 0.25) == 0, "less may be there"
    assert buckets.wait_s("b", 1000, 10, 0.0) == 0, "what is more than a bucket holds takes all of it"
    assert buckets.wait_s("b", 1000, 10, 0.5) == pytest.approx(0.5)
    assert buckets.wait_s("a", 10, 0, 0.25) == 0
    assert buckets.wait_s("a", 0, 10, 0.25) == 0


def test_the_number_of_remembered_names_is_limited() -> None:
    buckets = TokenBuckets()
    for number in range(3 * TokenBuckets.NAMES_MAX):
        buckets.wait_s(str(number), 1, 10, 0.0)
    assert len(buckets) == TokenBuckets.NAMES_MAX


def test_a_thread_that_moves_bytes_is_held_to_its_rate_and_catches_up_after_a_pause() -> None:
    now_s, waited = 100.0, []

    def wait(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s
        waited.append(duration_s)

    limiter = RateLimiter(1000, lambda: now_s, wait)
    for _ in range(10):
        limiter.spent(500)
    assert now_s == pytest.approx(105.0)
    now_s += 60.0
    waited.clear()
    limiter.spent(int(1000 * BURST_S))
    assert waited == []
    limiter.spent(2000)
    assert waited == [pytest.approx(2.0)]


def test_without_a_rate_nothing_waits_and_pieces_are_whole() -> None:
    limiter = RateLimiter(0, wait=lambda _: pytest.fail("waited"))
    limiter.spent(1 << 40)
    assert limiter.piece(1 << 30) == 1 << 30
    assert RateLimiter(10_000).piece(1 << 30) == 10_000
