"""Parses sizes and rates.

size   10MB, 1.5 GB (steps of 1000, as disks are counted), 64MiB, 2KiB (steps of 1024), 4096 (bytes)
rate   a size, with /s or without
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """A size in bytes. Raises ValueError with a sentence."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 10MB, 64MiB or a number of bytes")
    number, power, binary = match.groups()
    step = 1024 if binary else 1000
    return round(float(number) * float(step ** _POWERS[(power or "").lower()]))


def parse_rate(text: str) -> int:
    """Bytes a second. Raises ValueError with a sentence."""
    try:
        return parse_bytes(re.sub(r"\s*(/s|ps)$", "", text.strip(), flags=re.IGNORECASE))
    except ValueError:
        raise ValueError(f"{text!r} is not a rate; write 10MB/s, 64MiB/s or a number of bytes a second") from None
