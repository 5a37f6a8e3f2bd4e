"""The token bucket: what may be had at once, how long the rest takes, and how many names are remembered."""

from __future__ import annotations

import pytest

from engine.rate_limiter import TokenBucket, TokenBuckets


def test_a_bucket_says_how_long_it_takes_until_there_is_enough() -> None:
    bucket = TokenBucket(100, 0.0)
    assert bucket.wait_s(100, 100, 0.0) == 0
    assert bucket.wait_s(100, 100, 0.25) == pytest.approx(0.75)
    assert bucket.wait_s(10, 100, 0.25) == 0, "less may be there"
    assert bucket.wait_s(100, 100, 1.1) == 0


def test_a_bucket_holds_no_more_than_its_burst_and_takes_that_for_more() -> None:
    bucket = TokenBucket(100, 0.0, burst_s=2)
    assert bucket.wait_s(1000, 100, 50.0, burst_s=2) == 0, "what is more than the bucket holds takes all of it"
    assert bucket.wait_s(200, 100, 50.0, burst_s=2) == pytest.approx(2)


def test_each_name_has_a_bucket_and_no_rate_is_no_bound() -> None:
    buckets = TokenBuckets()
    assert buckets.wait_s("a", 10, 10, 0.0) == 0
    assert buckets.wait_s("a", 10, 10, 0.0) == pytest.approx(1)
    assert buckets.wait_s("b", 10, 10, 0.0) == 0
    assert buckets.wait_s("a", 10, 0, 0.0) == 0
    assert buckets.wait_s("a", 0, 10, 0.0) == 0


def test_only_so_many_names_are_remembered() -> None:
    buckets = TokenBuckets()
    for number in range(3 * TokenBuckets.NAMES_MAX):
        buckets.wait_s(str(number), 1, 10, 0.0)
    assert len(buckets) == TokenBuckets.NAMES_MAX
