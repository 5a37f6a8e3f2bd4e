"""Measures ingest, queries and start with one million instances.

    python -m perf.scale --data /var/tmp/archive --studies 100000 --rounds 5

Fills the archive once (--filled: use a filled folder again), then alternates the same CT load between an empty archive
and the filled one. Then come queries by each key, and starts: clean and after kill -9.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from perf import fill, harness, load_find, load_store, peers, start
from perf.harness import median, say
from perf.load_find import FindLoad
from perf.load_store import StoreLoad, StoreResult

LOAD_STUDY = 600_000_000


def _store(name: str, data: Path, load: StoreLoad) -> StoreResult:
    with peers.running(name, parent=data.parent, data=data) as peer:
        return load_store.run(peer.target, load, server_pid=peer.pid, data=data)


def compare_ingest(name: str, filled: Path, load: StoreLoad, round_count: int) -> dict[str, list[StoreResult]]:
    results: dict[str, list[StoreResult]] = {"empty": [], "filled": []}
    for number in range(round_count):
        empty = Path(tempfile.mkdtemp(prefix="perf-empty-", dir=filled.parent))
        moved = StoreLoad(
            template=load.template,
            association_count=load.association_count,
            instance_count=load.instance_count,
            warm_up_count=load.warm_up_count,
            first_study=LOAD_STUDY + number * 1000,
        )
        try:
            results["empty"].append(_store(name, empty, moved))
        finally:
            shutil.rmtree(empty, ignore_errors=True)
        results["filled"].append(_store(name, filled, moved))
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--peer", default="filmroom")
    parser.add_argument("--data", type=Path, help="folder of the filled archive, or for it")
    parser.add_argument("--filled", action="store_true", help="the folder is filled already, with --studies studies")
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--associations", type=int, default=8)
    parser.add_argument("--instances", type=int, default=50, help="of each association")
    parser.add_argument("--queries", type=int, default=200, help="of each kind")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.studies, options.rounds, options.associations, options.instances, options.queries = 20, 1, 2, 10, 5
    data = options.data or Path(tempfile.mkdtemp(prefix="perf-scale-")) / "data"
    document: dict[str, object] = {"machine": harness.machine_facts(data.parent), "smoke": options.smoke}
    try:
        if not options.filled:
            with peers.running(options.peer, parent=data.parent, data=data) as peer:
                filling = fill.run(peer.target, study_count=options.studies)
            rate = f"{filling.instances_per_s:.0f}/s, {filling.failed_count} failed"
            say(f"filled: {filling.instance_count} instances at {rate}")
            document["fill"] = asdict(filling)
        load = StoreLoad(association_count=options.associations, instance_count=options.instances)
        ingest = compare_ingest(options.peer, data, load, options.rounds)
        shares = [
            filled.instances_per_s / empty.instances_per_s
            for filled, empty in zip(ingest["filled"], ingest["empty"], strict=True)
        ]
        for kind, results in ingest.items():
            say(f"ingest, {kind}: {median([r.instances_per_s for r in results]):.0f} instances/s")
        say(f"ingest, filled against empty: {median(shares):.0%}")
        document["ingest"] = {kind: [asdict(r) for r in results] for kind, results in ingest.items()}
        with peers.running(options.peer, parent=data.parent, data=data) as peer:
            found = load_find.run(peer.target, FindLoad(study_count=options.studies, query_count=options.queries))
        say(harness.table(load_find.HEADER, load_find.rows_of(found)))
        document["find"] = [asdict(result) for result in found]
        starts = []
        for kill in (False, True):
            starts += start.run(options.peer, data, round_count=options.rounds, kill=kill)
        for after in ("clean", "kill"):
            ready = [result.ready_s for result in starts if result.after == after]
            say(f"start after {after}: median {median(ready):.3f} s, longest {max(ready):.3f} s")
        document["start"] = [asdict(result) for result in starts]
    finally:
        if options.data is None:
            shutil.rmtree(data.parent, ignore_errors=True)
    if options.json:
        harness.write_json(options.json, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
