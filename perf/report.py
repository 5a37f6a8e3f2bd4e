"""Writes a result of `perf.run` or `perf.soak` as a page for decisions: targets, measured figures, and the machine.

    python -m perf.report RESULT.json --targets targets.toml --out report.html

One file without scripts or links; a browser prints it to PDF. Write your own targets:

    [[target]]
    text = "eight scanners at once, durable"
    case = "store-8"                   # of perf.run, or "soak"
    peer = "filmroom"                  # of perf.run
    figure = "rate"                    # any figure of the result, such as p99_ms or server_cpu_ms
    at_least = 100                     # or at_most

Exit code 1: a target is missed.
"""

from __future__ import annotations

import argparse
import html
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf import harness
from perf.harness import PerfError, median, say

Document = Mapping[str, Any]

FIGURES = {
    "rate": ("instances/s", 0),
    "megabytes_per_s": ("MB/s", 0),
    "p50_ms": ("p50, ms", 2),
    "p99_ms": ("p99, ms", 2),
    "first_ms": ("first instance, ms", 1),
    "server_cpu_ms": ("server CPU, ms an instance", 3),
    "failed_count": ("failed", 0),
}
CASES = {"move": "C-MOVE of whole studies", "get": "C-GET of whole studies", "soak": "the whole run"}


@dataclass(frozen=True, slots=True)
class Target:
    """One target. Has exactly one of `at_least` and `at_most`."""

    text: str
    case: str
    figure: str
    peer: str = "filmroom"
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: float) -> bool:
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)

    @property
    def wanted(self) -> str:
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


def targets_of(path: Path) -> list[Target]:
    """Reads targets. Raises PerfError with the first mistake."""
    try:
        tables = tomllib.loads(path.read_text()).get("target", [])
    except (OSError, ValueError) as error:
        raise PerfError(f"{path}: {error}") from None
    targets = []
    for number, table in enumerate(tables, 1):
        try:
            target = Target(**table)
        except TypeError as error:
            raise PerfError(f"{path}: [[target]] number {number}: {str(error).partition(' ')[2]}") from None
        if (target.at_least is None) == (target.at_most is None):
            raise PerfError(f"{path}: [[target]] number {number} needs at_least or at_most, and not both")
        targets.append(target)
    if not targets:
        raise PerfError(f"{path} has no [[target]]")
    return targets


def figures_of(document: Document) -> dict[tuple[str, str], dict[str, float]]:
    """(case, peer) → figure → median of the rounds. Raises PerfError for another document."""
    if "samples" in document:
        return {
            (case, peer): {name: median([float(sample[name]) for sample in samples]) for name in samples[0]}
            for case, by_peer in document["samples"].items()
            for peer, samples in by_peer.items()
        }
    if document.get("soak"):
        intervals = document["soak"]
        return {
            ("soak", "filmroom"): {
                "rate": median([interval["store_rate"] for interval in intervals]),
                "p50_ms": median([interval["store"]["p50_ms"] for interval in intervals]),
                "p99_ms": max(interval["store"]["p99_ms"] for interval in intervals),
                "server_cpu_ms": median([interval["server_cpu_ms"] for interval in intervals]),
                "late_s": max(interval["late_s"] for interval in intervals),
                "failed_count": sum(sum(interval["failures"].values()) for interval in intervals),
            }
        }
    raise PerfError("this is no result of perf.run or perf.soak")


def case_name(case: str) -> str:
    """The title of a case."""
    count = case.removeprefix("store-")
    if count != case:
        return f"C-STORE, {count} association" + ("s" if count != "1" else "")
    return CASES.get(case, case)


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2530; max-width: 58rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } caption { text-align: left; color: #55606e; padding-bottom: .4rem }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #d8dee6; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } .met { color: #146c2e } .missed { color: #a3161a }
.verdict { font-size: 1.15rem; padding: .7rem 1rem; border-left: .4rem solid; background: #f4f6f8 }
@media print { body { margin: 0; font-size: 11pt } h2 { break-after: avoid } tr { break-inside: avoid } }
"""


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> str:
    """A table; columns from `numbers` on are right-aligned."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if place >= numbers else ''}>{cell}</{tag}>" for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return f"<table><caption>{caption}</caption><thead><tr>{cells('th', header)}</tr></thead>\n{body}</table>\n"


def page(document: Document, targets: Sequence[Target]) -> tuple[str, int]:
    """(the page, the number of missed targets). Raises PerfError if a target's figure is not in the result."""
    figures, rows, missed = figures_of(document), [], 0
    for target in targets:
        value = figures.get((target.case, target.peer), {}).get(target.figure)
        if value is None:
            known = ", ".join(sorted({f"{case}/{peer}" for case, peer in figures}))
            raise PerfError(f"the result has no {target.figure} of {target.case}/{target.peer}; it has {known}")
        met = target.is_met(value)
        missed += not met
        verdict = "<b class=met>met</b>" if met else "<b class=missed>missed</b>"
        rows.append([html.escape(target.text), verdict, html.escape(target.wanted), f"{value:.6g}"])
    body = []
    if targets:
        kind = "missed" if missed else "met"
        words = f"{missed} of {len(targets)} targets missed." if missed else f"All {len(targets)} targets met."
        body.append(f'<p class="verdict {kind}">{words}</p>\n<h2>Targets</h2>\n')
        body.append(_table("", ("Target", "", "Limit", "Measured"), rows, 2))
    body.append("<h2>Measured</h2>\n" + _measured(figures))
    machine = document.get("machine", {})
    if machine:
        facts = [[html.escape(name.replace("_", " ")), html.escape(str(value))] for name, value in machine.items()]
        body.append("<h2>Machine</h2>\n" + _table("", ("Fact", "Value"), facts, 2))
    made = html.escape(str(machine.get("time", "")))
    title = "Load test of Filmroom"
    head = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>\n'
    return f"{head}<h1>{title}</h1>\n<p>{made}</p>\n{''.join(body)}</html>\n", missed


def _measured(figures: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    names = [name for name in FIGURES if any(each.get(name) for each in figures.values())]
    rows = [
        [
            html.escape(case_name(case)),
            html.escape(peer),
            *(f"{each[name]:.{FIGURES[name][1]}f}" if each.get(name) else "" for name in names),
        ]
        for (case, peer), each in figures.items()
    ]
    return _table("Medians of all rounds.", ("Load", "Server", *(FIGURES[name][0] for name in names)), rows, 2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--targets", type=Path, help="TOML file with [[target]] tables; without it there is no verdict")
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    options = parser.parse_args(arguments)
    try:
        document: Document = json.loads(options.result.read_text())
    except (OSError, ValueError) as error:
        raise PerfError(f"{options.result}: {error}") from None
    shown, missed = page(document, targets_of(options.targets) if options.targets else [])
    options.out.write_text(shown)
    say(f"written to {options.out}" + (f"; {missed} targets missed" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
