"""Examines whether answers wait for a second copy as the configuration says, and get one."""

from __future__ import annotations

from collections.abc import Iterator

from engine import control
from engine.config import Config, second_copies
from engine.doctor.finding import Finding, fault, good
from engine.errors import EngineError

_SUBJECT = "second copy"
AWAY_S_MAX = 5.0
_ADVICE = {
    "peer": "start `filmroom replicate` with second_copy.replica as destination, or look at the replica and the line",
    "object": "look at the object store and the line",
}


def examine(config: Config) -> Iterator[Finding]:
    """Nothing where no instance waits for one."""
    places = second_copies.places(config)
    if not places:
        return
    try:
        stats = control.request(config.data, {"command": "stats"})
    except EngineError:
        return  # the archive's own examination says it
    workers = [worker.get("second_copies") or {} for worker in stats.get("workers", [])]
    for place in places:
        states = [worker[place] for worker in workers if place in worker]
        if not states:
            continue
        worst = max(states, key=lambda state: float(state["away_s"]))
        waiting = sum(int(state["waiting"]) for state in states)
        figures = {"away_s": float(worst["away_s"]), "waiting": float(waiting)}
        if worst["state"] == "fenced":
            what = f'durable = "{place}": another machine continues this archive, and nothing is acknowledged here'
            yield fault(_SUBJECT, what, "stop this server, and send to the other one", **figures)
        elif worst["away_s"] > AWAY_S_MAX:
            alone = worst["when_away"] == "local"
            done = "acknowledged without a second copy" if alone else "refused"
            what = f'durable = "{place}": no receipts for {worst["away_s"]:.0f} s; instances are {done}'
            yield fault(_SUBJECT, what, _ADVICE[place], **figures)
        else:
            yield good(_SUBJECT, f'durable = "{place}": receipts come; {waiting} instances wait', **figures)
