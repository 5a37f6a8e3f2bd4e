"""Sizes, rates and times as people write and read them.

size   10MB, 1.5 GB (steps of 1000, as disks are counted), 64MiB, 2KiB (steps of 1024), 4096 (bytes)
rate   a size, with /s or without
time   ISO 8601 with the offset of this machine's zone, in every list and in JSON: 2026-11-29T18:00:00+01:00
"""

from __future__ import annotations

import re
from datetime import datetime

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """A size in bytes. Raises ValueError with a sentence."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write 10MB, 64MiB or a number of bytes")
    number, power, binary = found.groups()
    step = 1024 if binary else 1000
    return round(float(number) * float(step ** _POWERS[(power or "").lower()]))


def parse_rate(text: str) -> int:
    """Bytes a second. Raises ValueError with a sentence."""
    try:
        return parse_bytes(re.sub(r"\s*(/s|ps)$", "", text.strip(), flags=re.IGNORECASE))
    except ValueError:
        raise ValueError(f"{text!r} is no rate; write 10MB/s, 64MiB/s or a number of bytes a second") from None


def time_text(ns: int) -> str:
    """A moment in nanoseconds since 1970 as a list and as JSON have it, to the second."""
    return datetime.fromtimestamp(ns / 1e9).astimezone().isoformat(timespec="seconds")


def with_times(facts: dict[str, object]) -> dict[str, object]:
    """The same with each moment `NAME_ns` as `NAME` in ISO 8601, also in what is nested."""
    readable: dict[str, object] = {}
    for name, value in facts.items():
        if name.endswith("_ns") and (value is None or isinstance(value, int)):
            readable[name.removesuffix("_ns")] = None if value is None else time_text(value)
        else:
            readable[name] = with_times(value) if isinstance(value, dict) else value
    return readable
