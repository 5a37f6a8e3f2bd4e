"""The running server's statistics as people read them: workers added up, rates from two answers, a live view.

Knows the shape of the control socket's "stats" answer and of `metrics` snapshots, and nothing else of the server.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.cli import output
from engine.cli.units import time_text

if TYPE_CHECKING:
    from rich.console import RenderableType

Answer = Mapping[str, Any]


@dataclass(slots=True)
class Distribution:
    """A histogram of `metrics`, added up over workers."""

    bounds: list[float] = field(default_factory=list)
    buckets: list[int] = field(default_factory=list)

    def add(self, snapshot: Answer | None) -> None:
        """Counts another worker's observations too."""
        if not snapshot:
            return
        if not self.buckets:
            self.bounds, self.buckets = list(snapshot["bounds"]), [0] * len(snapshot["buckets"])
        self.buckets = [a + b for a, b in zip(self.buckets, snapshot["buckets"], strict=True)]

    def since(self, before: Distribution) -> Distribution:
        """What was observed after `before`; everything when a worker was replaced in between."""
        if len(before.buckets) != len(self.buckets):
            return self
        left = [a - b for a, b in zip(self.buckets, before.buckets, strict=True)]
        return self if min(left, default=0) < 0 else Distribution(self.bounds, left)

    def percentile(self, fraction: float) -> float | None:
        """The bound below which that fraction lies (infinity: above the last bound); None without observations."""
        count = sum(self.buckets)
        seen = 0
        for bound, bucket in zip([*self.bounds, float("inf")], self.buckets, strict=False):
            seen += bucket
            if count and seen >= fraction * count:
                return bound
        return None


@dataclass(slots=True)
class Totals:
    """One answer, added up over the workers."""

    time: float
    workers: int
    associations: int
    queue_depth: int
    instances: int
    bytes: int
    counters: Counter[str]
    peers: dict[str, Counter[str]]
    sync_latency_s: Distribution
    store_latency_s: Distribution


def totals(answer: Answer) -> Totals:
    """Adds the workers of one answer up."""
    workers: Sequence[Answer] = answer.get("workers", [])
    counters: Counter[str] = Counter(answer.get("counters", {}))
    peers: dict[str, Counter[str]] = {}
    sync, store = Distribution(), Distribution()
    for worker in workers:
        counters.update(worker.get("counters", {}))
        for aet, counts in worker.get("peers", {}).items():
            peers.setdefault(aet, Counter()).update(counts)
        sync.add(worker.get("sync_latency_s"))
        store.add(worker.get("store_latency_s"))
    return Totals(
        time=float(answer.get("time", 0.0)),
        workers=len(workers),
        associations=sum(worker.get("associations", 0) for worker in workers),
        queue_depth=sum(worker.get("queue_depth", 0) for worker in workers),
        instances=sum(counts["instances"] for counts in peers.values()),
        bytes=sum(counts["bytes"] for counts in peers.values()),
        counters=counters,
        peers=peers,
        sync_latency_s=sync,
        store_latency_s=store,
    )


def rates(now: Totals, before: Totals) -> dict[str, object]:
    """What happened between two answers, by the second."""
    seconds = max(now.time - before.time, 1e-3)
    sync = now.sync_latency_s.since(before.sync_latency_s)
    store = now.store_latency_s.since(before.store_latency_s)
    return {
        "instances_per_s": round(max(0, now.instances - before.instances) / seconds, 1),
        "mb_per_s": round(max(0, now.bytes - before.bytes) / seconds / 1e6, 1),
        "associations": now.associations,
        "queue_depth": now.queue_depth,
        "sync_p50_ms": milliseconds(sync, 0.5),
        "sync_p99_ms": milliseconds(sync, 0.99),
        "store_p50_ms": milliseconds(store, 0.5),
        "store_p99_ms": milliseconds(store, 0.99),
    }


def as_data(answer: Answer) -> dict[str, Any]:
    """The answer as JSON has it: without what is said beside it, times readable."""
    facts = {name: value for name, value in answer.items() if name not in ("ok", "archive")}
    if "time" in facts:
        facts["time"] = time_text(int(facts["time"] * 1e9))
    return facts


def show_once(answer: Answer) -> None:
    """The server since its start, with everything that it counts."""
    now = totals(answer)
    facts: dict[str, object] = {"workers": now.workers, "associations": now.associations}
    facts |= {"queue depth": now.queue_depth, "new instances": admission(answer)}
    facts |= {"connections without association": answer.get("waiting", 0), "turned away": answer.get("turned_away", 0)}
    facts |= {_COUNTER_NAMES.get(name, name.replace("_", " ")): count for name, count in sorted(now.counters.items())}
    for name, distribution in (("fdatasync", now.sync_latency_s), ("C-STORE", now.store_latency_s)):
        for fraction in (0.5, 0.99):
            facts[f"{name} p{round(fraction * 100)} ms, at most"] = milliseconds(distribution, fraction)
    output.write_facts(facts, title="server")
    if held := answer.get("index_held_by"):
        output.write_facts({name.replace("_", " "): value for name, value in held.items()}, title="keeps the index")
    if caretaker := answer.get("caretaker"):
        output.write_facts(_caretaker_facts(caretaker), title="caretaker")
    show_peers(now)


def show_peers(now: Totals, count: int | None = None) -> None:
    """Who sent what since the start, those that sent most first."""
    if now.peers:
        # Rates need two answers: those two columns are for `watch`.
        rows = [(row[0], *row[3:]) for row in _peer_rows(now, None)[:count]]
        output.write_table((_PEER_COLUMNS[0], *_PEER_COLUMNS[3:]), rows)


def _caretaker_facts(caretaker: Answer) -> dict[str, object]:
    """What runs in the background, duty by duty."""
    facts: dict[str, object] = {}
    for name, value in caretaker.items():
        if isinstance(value, Mapping):
            facts |= {f"{name} {key.replace('_', ' ')}": inner for key, inner in value.items()}
        else:
            facts[f"caretaker {name}"] = value
    return facts


def admission(answer: Answer) -> str:
    """Whether new instances are taken; if not, why, and by which workers."""
    refusing: dict[str, list[str]] = {}
    for worker in answer.get("workers", []):
        reason = worker.get("admission", {}).get("reason")
        if "counters" not in worker:
            reason = "does not answer"
        if reason:
            refusing.setdefault(_REASONS.get(reason, reason), []).append(str(worker["number"]))
    said = [f"{reason} (worker {', '.join(numbers)})" for reason, numbers in refusing.items()]
    return f"refused: {'; '.join(said)}" if said else "taken"


def watch(ask: Callable[[], dict[str, Any]], interval: float, count: int | None) -> None:
    """Asks again and again; a live view on a terminal, a line of JSON an interval otherwise."""
    before = totals(ask())
    asked = 0
    if output.as_json() or not output.on_terminal():
        while count is None or asked < count:
            asked += 1
            _pause(interval)
            now = totals(ask())
            peers = {row[0]: dict(zip(_PEER_KEYS, row[1:], strict=True)) for row in _peer_rows(now, before)}
            output.write_json({"time": time_text(int(now.time * 1e9)), **rates(now, before), "peers": peers})
            before = now
        return
    from rich.live import Live

    with Live(_view(before, before), auto_refresh=False, screen=False) as view:
        while count is None or asked < count:
            asked += 1
            _pause(interval)
            now = totals(ask())
            view.update(_view(now, before), refresh=True)
            before = now


_PEER_COLUMNS = ("calling AE title", "instances/s", "MB/s", "instances", "MB", "failures", "associations")
_PEER_KEYS = ("instances_per_s", "mb_per_s", "instances", "mb", "failures", "associations")
_PEERS_SHOWN = 20
_COUNTER_NAMES = {"associations": "associations since the start"}


def _peer_rows(now: Totals, before: Totals | None) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    seconds = max(now.time - before.time, 1e-3) if before else 1.0
    for aet, counts in sorted(now.peers.items(), key=lambda item: -item[1]["bytes"])[:_PEERS_SHOWN]:
        earlier = before.peers.get(aet, Counter()) if before else counts
        rows.append(
            (
                aet,
                round(max(0, counts["instances"] - earlier["instances"]) / seconds, 1),
                round(max(0, counts["bytes"] - earlier["bytes"]) / seconds / 1e6, 1),
                counts["instances"],
                round(counts["bytes"] / 1e6, 1),
                counts["failures"],
                counts["associations"],
            )
        )
    return rows


def _view(now: Totals, before: Totals) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rate = rates(now, before)
    head = Text.assemble(
        (f"{rate['instances_per_s']} instances/s   {rate['mb_per_s']} MB/s", "bold"),
        f"   {now.associations} associations   queue {now.queue_depth}\n",
        f"fdatasync p50 {short(rate['sync_p50_ms'])}, p99 {short(rate['sync_p99_ms'])}   ",
        f"C-STORE p50 {short(rate['store_p50_ms'])}, p99 {short(rate['store_p99_ms'])}",
    )
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in _PEER_COLUMNS:
        table.add_column(column, justify="left" if column == _PEER_COLUMNS[0] else "right")
    for row in _peer_rows(now, before):
        table.add_row(*(Text(output.to_text(value)) for value in row))
    return Group(head, table)


_REASONS = {"disk reserve": "disk full"}
"""Why new instances are refused (`services.admission`), as people say it."""


def milliseconds(distribution: Distribution, fraction: float) -> float | None:
    """A percentile in ms; None without observations."""
    bound = distribution.percentile(fraction)
    return None if bound is None else bound * 1000


def short(value: object) -> str:
    """A percentile in ms as people read it."""
    if value is None:
        return "-"
    return "off the scale" if value == float("inf") else f"≤ {value:g} ms"


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
