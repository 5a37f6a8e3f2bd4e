"""Shows the running server's statistics: sums over the workers, rates between two answers, a live view.

Depends only on the form of the control socket's "stats" answer and of `metrics` snapshots.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine.archive.admin.times import time_text
from engine.cli import output
from engine.totals import Answer, Distribution, Totals, totals

if TYPE_CHECKING:
    from rich.console import RenderableType


def rates(now: Totals, before: Totals) -> dict[str, object]:
    """Rates per second between two answers."""
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
    """The answer for JSON: without the status and the archive's counts, with readable times."""
    facts = {name: value for name, value in answer.items() if name not in ("ok", "archive")}
    if "time" in facts:
        facts["time"] = time_text(int(facts["time"] * 1e9))
    return facts


def show_once(answer: Answer) -> None:
    """Shows all counters of the server since its start."""
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
    if messages := answer.get("messages"):
        output.write_facts(_messages_facts(messages), title="HL7")
    show_peers(now)


def show_peers(now: Totals, count: int | None = None) -> None:
    """Shows what each peer sent since the start, the largest sender first."""
    if now.peers:
        # Rates need two answers, so only `watch` shows those two columns.
        rows = [(row[0], *row[3:]) for row in _peer_rows(now, None)[:count]]
        output.write_table((_PEER_COLUMNS[0], *_PEER_COLUMNS[3:]), rows)


def _caretaker_facts(caretaker: Answer) -> dict[str, object]:
    """The background jobs of the caretaker, one after the other."""
    facts: dict[str, object] = {}
    for name, value in caretaker.items():
        if isinstance(value, Mapping):
            facts |= {f"{name} {key.replace('_', ' ')}": inner for key, inner in value.items()}
        else:
            facts[f"caretaker {name}"] = value
    return facts


def _messages_facts(state: Answer) -> dict[str, object]:
    """What the process of HL7 messages has received, and why it does not apply it."""
    if "counters" not in state:
        return {"hl7": state.get("not_started") or "its process is starting"}
    names = ("last_number", "applied_to", "waiting", "stalled")
    facts = {"open_connections": state["connections"], **{name: state[name] for name in names}, **state["counters"]}
    return {f"hl7 {name.replace('_', ' ')}": value for name, value in facts.items() if value != ""}


def admission(answer: Answer) -> str:
    """Whether the server accepts new instances; otherwise why not, and which workers refuse."""
    refusing: dict[str, list[str]] = {}
    for worker in answer.get("workers", []):
        reason = worker.get("admission", {}).get("reason")
        if "counters" not in worker:
            reason = "does not answer"
        if reason:
            refusing.setdefault(_REASONS.get(reason, reason), []).append(str(worker["number"]))
    causes = [f"{reason} (worker {', '.join(numbers)})" for reason, numbers in refusing.items()]
    return f"refused: {'; '.join(causes)}" if causes else "taken"


def watch(ask: Callable[[], dict[str, Any]], interval: float, count: int | None) -> None:
    """Polls the server: a live view on a terminal, otherwise a line of JSON per interval."""
    before = totals(ask())
    views = 0
    if output.as_json() or not output.on_terminal():
        while count is None or views < count:
            views += 1
            _pause(interval)
            now = totals(ask())
            peers = {row[0]: dict(zip(_PEER_KEYS, row[1:], strict=True)) for row in _peer_rows(now, before)}
            output.write_json({"time": time_text(int(now.time * 1e9)), **rates(now, before), "peers": peers})
            before = now
        return
    from rich.live import Live

    with Live(_view(before, before), auto_refresh=False, screen=False) as view:
        while count is None or views < count:
            views += 1
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
"""Reasons to refuse new instances (`runtime.admission`), in users' words."""


def milliseconds(distribution: Distribution, fraction: float) -> float | None:
    """A percentile in ms; None without observations."""
    bound = distribution.percentile(fraction)
    return None if bound is None else bound * 1000


def short(value: object) -> str:
    """A percentile in ms for display."""
    if value is None:
        return "-"
    return "off the scale" if value == float("inf") else f"≤ {value:g} ms"


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
