"""Times in lists and answers: ISO 8601 to the second, with the offset of this machine's time zone."""

from __future__ import annotations

from datetime import datetime


def time_text(ns: int) -> str:
    """A time in nanoseconds since 1970 as text: 2026-11-29T18:00:00+01:00."""
    return datetime.fromtimestamp(ns / 1e9).astimezone().isoformat(timespec="seconds")


def with_times(facts: dict[str, object]) -> dict[str, object]:
    """The same with each time `NAME_ns` as the text `NAME`, in nested dictionaries too."""
    readable: dict[str, object] = {}
    for name, value in facts.items():
        if name.endswith("_ns") and (value is None or isinstance(value, int)):
            readable[name.removesuffix("_ns")] = None if value is None else time_text(value)
        else:
            readable[name] = with_times(value) if isinstance(value, dict) else value
    return readable
