"""Times that people type: whole ones and beginnings, and nothing else."""

from __future__ import annotations

import pytest

from engine.time_prefix import time_prefix


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("", ""),
        ("2026", "2026"),
        ("2026-01-05", "2026-01-05"),
        ("2026-01-05T14Z", "2026-01-05T14"),
        ("2026-01-05T14:03", "2026-01-05T14:03"),
        ("2026-01-05T14:03:07.123456Z", "2026-01-05T14:03:07.123456"),
    ],
)
def test_a_time_or_its_beginning_is_taken_without_the_zone(text: str, prefix: str) -> None:
    assert time_prefix(text) == prefix


@pytest.mark.parametrize(
    "text", ["yesterday", "26", "2026-1-5", "2026-01-05 14:03", "2026-01-05T14:03+01:00", "2026Z", "２０２６", "2026\n"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        time_prefix(text)
