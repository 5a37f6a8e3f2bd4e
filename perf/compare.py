"""Compares two results of `perf.run` in one table.

    python -m perf.compare perf/results/before.json perf/results/after.json

A change within the spread of the rounds is marked as noise. Differences of the machines are listed first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from perf import harness
from perf.harness import PerfError, median, say

FIGURES = (
    ("rate", "instances/s", 0),
    ("p99_ms", "p99 ms", 2),
    ("server_cpu_ms", "CPU ms", 3),
    ("first_ms", "first ms", 1),
)
SAME = ("cpu_model", "core_count", "kernel", "disk", "python")

Result = dict[str, Any]


def load(path: Path) -> Result:
    try:
        document: Result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PerfError(f"{path}: {error}") from None
    if "samples" not in document:
        raise PerfError(f"{path} is no result of perf.run")
    return document


def rows_of(before: Result, after: Result) -> list[list[object]]:
    rows: list[list[object]] = []
    for case, by_peer in after["samples"].items():
        for name, samples in by_peer.items():
            older = before["samples"].get(case, {}).get(name)
            if not older:
                continue
            for figure, title, digits in FIGURES:
                old, new = ([float(sample[figure]) for sample in each] for each in (older, samples))
                if not median(old) or not median(new):
                    continue
                change = median(new) / median(old) - 1
                noise = max(_spread(old), _spread(new)) / 2
                rows.append(
                    [
                        case,
                        name,
                        title,
                        f"{median(old):.{digits}f}",
                        f"{median(new):.{digits}f}",
                        f"{change:+.1%}",
                        "noise" if abs(change) <= noise else "",
                    ]
                )
    return rows


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / median(values)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    before, after = load(options.before), load(options.after)
    for fact in SAME:
        one, other = before["machine"].get(fact), after["machine"].get(fact)
        if one != other:
            say(f"different {fact}: {one} / {other}")
    say(f"commit {before['machine'].get('commit')} -> {after['machine'].get('commit')}")
    rows = rows_of(before, after)
    say(harness.table(("case", "peer", "figure", "before", "after", "change", ""), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
