"""Schedule: the rate of each hour."""

from __future__ import annotations

from datetime import datetime

import pytest

from engine.objects.schedule import Schedule


@pytest.mark.parametrize(
    ("hour", "rate"), [(6, 100 << 20), (7, 2 << 20), (18, 2 << 20), (19, 5), (21, 5), (22, 100 << 20), (0, 100 << 20)]
)
def test_the_first_entry_that_has_the_hour_counts(hour: int, rate: int) -> None:
    schedule = Schedule(5, ["7-19 2 MiB", "22-7 100MiB"])
    assert schedule.bytes_per_s(datetime(2026, 11, 30, hour, 59)) == rate
