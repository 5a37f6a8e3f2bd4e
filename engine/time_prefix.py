"""A time in UTC, or the beginning of one, as people type it: 2026, 2026-01-05, 2026-01-05T14:03, 2026-01-05T14:03:07Z.

The ordinary log and the audit log begin their lines with such times, and compare them as texts.
"""

from __future__ import annotations

import re
from typing import Final

EXAMPLE: Final = "2026-01-05, or 2026-01-05T14:03 (UTC)"
_TIME: Final = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d{1,6})?)?)?Z?)?)?)?", re.ASCII)


def time_prefix(text: str) -> str:
    """The text without its zone, which is UTC; "" for "". Raises ValueError."""
    if text and not _TIME.fullmatch(text):
        raise ValueError(f"is no time: write {EXAMPLE}")
    return text.removesuffix("Z")
