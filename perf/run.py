"""The runner: starts every installed peer in turn, in interleaved rounds, and prints one table and the targets.

    python -m perf.run                                       all peers and cases, five rounds, some minutes
    python -m perf.run --peers filmroom,orthanc --cases store-8 --rounds 3
    python -m perf.run --smoke

A round runs every case with every peer once, in an order that rotates by one each round, each on a new peer in a new
folder of the same disk, after a sync. A ratio is the median of the ratios within the rounds, so a slow minute of the
machine affects both sides. Results go to perf/results/ as JSON.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from perf import disk_loop, harness, load_get, load_move, load_store, peers, retrieval, stock
from perf.harness import NotInstalled, PerfError, median, say
from perf.load_store import StoreLoad
from perf.peers import Peer
from perf.retrieval import RetrievalLoad
from perf.sink import Sink

WRITE_BEHIND = "filmroom-write-behind"
DISK = "disk-loop"
DISK_WAYS = ((DISK, "append", 8), ("disk-prewritten-1", "prewritten", 1), ("disk-prewritten-8", "prewritten", 8))
"""The disk loops with each store case: name, variant, instances for each fdatasync. They write the same bytes."""
STOCK = "stock-senders"
STOCK_INSTANCE_COUNT = 100
RETRIEVALS = {"move": 1, "get": 1, "move-mr": 1, "get-mr": 1, "move-4": 4}
"""Case → number of store associations for a C-MOVE."""
CASES = ("store-1", "store-8", *RETRIEVALS, STOCK)
DEFAULT_PEERS = (WRITE_BEHIND, "filmroom", "storescp", "dcmqrscp", "orthanc")


@dataclass(frozen=True, slots=True)
class Sample:
    """One case with one peer in one round; figures that do not apply are 0."""

    rate: float
    """Instances a second."""
    megabytes_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    generator_cpu_ms: float
    first_ms: float
    """Retrieval: time from the request to the first C-STORE-RQ at the sink, median of the studies."""
    disk_flushes: float
    failed_count: int


Samples = dict[str, dict[str, list[Sample]]]
"""case → peer → one sample a round"""


@dataclass(frozen=True, slots=True)
class Plan:
    peers: tuple[str, ...]
    cases: tuple[str, ...]
    round_count: int
    store_instance_count: int
    """Instances of a store case, over all associations."""
    study_count: int
    study_instance_count: int
    directory: Path
    workers: int
    template: str = "ct"
    pdu_length_max: int = 131072


# measuring ---------------------------------------------------------------------------------------


def measure(plan: Plan) -> tuple[Samples, dict[str, str]]:
    """(samples, version of each peer). Skips a peer that is not installed, with a message."""
    samples: Samples = {}
    versions: dict[str, str] = {}
    missing: set[str] = set()
    for number in range(plan.round_count):
        say(f"round {number + 1} of {plan.round_count}")
        for case in plan.cases:
            turn = number % len(plan.peers)
            for name in plan.peers[turn:] + plan.peers[:turn]:
                if name in missing or not _is_for(case, name):
                    continue
                try:
                    sample = _measure_one(plan, case, name, versions)
                except NotInstalled as error:
                    missing.add(name)
                    say(f"  {name} is left out: {error}")
                    continue
                samples.setdefault(case, {}).setdefault(name, []).append(sample)
                say(f"  {case:13} {name:22} {sample.rate:7.0f}/s  server CPU {sample.server_cpu_ms:.3f} ms")
            if case.startswith("store-"):
                _measure_disk(plan, samples.setdefault(case, {}))
    return samples, versions


def _is_for(case: str, name: str) -> bool:
    """Whether a peer supports a case; only ours has a setting for more than one store association."""
    if case not in RETRIEVALS:
        return True
    return name in peers.RETRIEVING and (RETRIEVALS[case] == 1 or name.startswith("filmroom"))


def _measure_one(plan: Plan, case: str, name: str, versions: dict[str, str]) -> Sample:
    sink = Sink(0, peers.SINK_AET)
    try:
        with peers.running(
            name,
            parent=plan.directory,
            sink_port=sink.port,
            workers=plan.workers,
            stock=case == STOCK,
            store_associations=RETRIEVALS.get(case, 1),
        ) as peer:
            versions.setdefault(name, peer.version())
            if case.startswith("store-"):
                return _store(plan, peer, int(case.removeprefix("store-")))
            if case == STOCK:
                return _stock(plan, peer)
            return _retrieve(plan, peer, case, sink)
    finally:
        sink.close()


def _store(plan: Plan, peer: Peer, association_count: int) -> Sample:
    load = StoreLoad(
        template=plan.template,
        association_count=association_count,
        instance_count=max(1, plan.store_instance_count // association_count),
        pdu_length_max=plan.pdu_length_max,
    )
    os.sync()
    result = load_store.run(peer.target, load, server_pid=peer.pid, data=peer.data)
    return Sample(
        rate=result.instances_per_s,
        megabytes_per_s=result.megabytes_per_s,
        p50_ms=result.latency.p50_ms,
        p99_ms=result.latency.p99_ms,
        server_cpu_ms=result.server_cpu_ms,
        generator_cpu_ms=result.generator_cpu_ms,
        first_ms=0.0,
        disk_flushes=result.disk_flushes,
        failed_count=result.failed_count,
    )


def _stock(plan: Plan, peer: Peer) -> Sample:
    """DCMTK's storescu with its defaults: a hundred small instances."""
    os.sync()
    count = min(STOCK_INSTANCE_COUNT, plan.store_instance_count)
    result = stock.run(peer.target, count, server_pid=peer.pid)
    return Sample(
        rate=result.instances_per_s,
        megabytes_per_s=result.megabytes_per_s,
        p50_ms=0.0,
        p99_ms=0.0,
        server_cpu_ms=result.server_cpu_ms,
        generator_cpu_ms=0.0,
        first_ms=0.0,
        disk_flushes=0.0,
        failed_count=result.failed_count,
    )


def _retrieve(plan: Plan, peer: Peer, case: str, sink: Sink) -> Sample:
    template = "mr" if case.endswith("-mr") else plan.template
    load = RetrievalLoad(plan.study_count, plan.study_instance_count, template)
    study_uids = retrieval.prepare(peer.target, load)
    os.sync()
    if case.startswith("move"):
        result = load_move.run(peer.target, sink, study_uids, load, server_pid=peer.pid)
    else:
        result = load_get.run(peer.target, study_uids, load, server_pid=peer.pid)
    return Sample(
        rate=result.instances_per_s,
        megabytes_per_s=result.megabytes_per_s,
        p50_ms=0.0,
        p99_ms=0.0,
        server_cpu_ms=result.server_cpu_ms,
        generator_cpu_ms=result.generator_cpu_ms,
        first_ms=result.first_command.p50_ms,
        disk_flushes=0.0,
        failed_count=result.failed_count,
    )


def _measure_disk(plan: Plan, into: dict[str, list[Sample]]) -> None:
    """Runs the disk loops with each store case."""
    for name, variant, group in DISK_WAYS:
        os.sync()
        result = disk_loop.run(
            plan.directory, variant, instance_count=plan.store_instance_count, group=group, template=plan.template
        )
        sample = Sample(
            rate=result.instances_per_s,
            megabytes_per_s=result.megabytes_per_s,
            p50_ms=result.group.p50_ms if group == 1 else 0.0,
            p99_ms=result.group.p99_ms if group == 1 else 0.0,
            server_cpu_ms=0.0,
            generator_cpu_ms=0.0,
            first_ms=0.0,
            disk_flushes=1 / group,
            failed_count=0,
        )
        into.setdefault(name, []).append(sample)


# showing -----------------------------------------------------------------------------------------

HEADER = (
    "case", "peer", "instances/s", "spread", "MB/s", "p50 ms", "p99 ms", "server CPU ms", "generator CPU ms",
    "first ms", "flushes", "failed",
)  # fmt: skip


def of(samples: Sequence[Sample], name: str) -> float:
    return median([float(getattr(sample, name)) for sample in samples])


def spread(samples: Sequence[Sample]) -> float:
    """(largest - smallest) / median of the rates of the rounds."""
    rates = [sample.rate for sample in samples]
    return (max(rates) - min(rates)) / median(rates) if median(rates) else 0.0


def _cell(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value else ""


def rows_of(samples: Samples) -> list[list[object]]:
    return [
        [
            case,
            name,
            f"{of(each, 'rate'):.0f}",
            f"{spread(each):.0%}",
            f"{of(each, 'megabytes_per_s'):.0f}",
            _cell(of(each, "p50_ms"), 2),
            _cell(of(each, "p99_ms"), 2),
            _cell(of(each, "server_cpu_ms"), 3),
            _cell(of(each, "generator_cpu_ms"), 3),
            _cell(of(each, "first_ms"), 1),
            _cell(of(each, "disk_flushes"), 2),
            sum(sample.failed_count for sample in each),
        ]
        for case, by_peer in samples.items()
        for name, each in by_peer.items()
    ]


@dataclass(frozen=True, slots=True)
class Aim:
    """A target for `case`'s `figure` of `peer`, or for its ratio to that of `against`.

    `against` is of the same case unless `against_case` names another.
    """

    text: str
    case: str
    peer: str
    figure: str
    against: str
    at_least: float | None = None
    at_most: float | None = None
    against_case: str = ""


AIMS = (
    Aim("write-behind, 1, rate over storescp", "store-1", WRITE_BEHIND, "rate", "storescp", 2.2),
    Aim("write-behind, 8, rate over storescp", "store-8", WRITE_BEHIND, "rate", "storescp", 2.2),
    Aim("write-behind, 1: CPU over storescp", "store-1", WRITE_BEHIND, "server_cpu_ms", "storescp", None, 0.4),
    Aim("write-behind, 8: CPU over storescp", "store-8", WRITE_BEHIND, "server_cpu_ms", "storescp", None, 0.5),
    Aim("durable, 1, rate over a loop of prewritten syncs", "store-1", "filmroom", "rate", "disk-prewritten-1", 0.6),
    Aim("durable, 1, p50 over that loop's", "store-1", "filmroom", "p50_ms", "disk-prewritten-1", None, 1.8),
    Aim("durable, 1, rate over Orthanc", "store-1", "filmroom", "rate", "orthanc", 2.5),
    Aim("durable, 8, rate over prewritten groups of 8", "store-8", "filmroom", "rate", "disk-prewritten-8", 0.9),
    Aim("durable, 8, rate over appended groups of 8", "store-8", "filmroom", "rate", DISK, 0.8),
    Aim("durable, 8, rate over Orthanc", "store-8", "filmroom", "rate", "orthanc", 3.0),
    Aim("C-MOVE, rate over dcmqrscp", "move", "filmroom", "rate", "dcmqrscp", 3.0),
    Aim("C-GET, rate over dcmqrscp", "get", "filmroom", "rate", "dcmqrscp", 3.0),
    Aim("C-MOVE, CPU over dcmqrscp", "move", "filmroom", "server_cpu_ms", "dcmqrscp", None, 0.5),
    Aim("C-GET, CPU over dcmqrscp", "get", "filmroom", "server_cpu_ms", "dcmqrscp", None, 0.5),
    Aim("C-MOVE of MR, rate over dcmqrscp", "move-mr", "filmroom", "rate", "dcmqrscp", 4.0),
    Aim("C-GET of MR, rate over dcmqrscp", "get-mr", "filmroom", "rate", "dcmqrscp", 4.0),
    Aim("C-MOVE, 4 store associations over one", "move-4", "filmroom", "rate", "filmroom", 1.6, against_case="move"),
    Aim("C-MOVE, first instance out, ms", "move", "filmroom", "first_ms", "", None, 5.0),
    Aim("C-GET, first instance out, ms", "get", "filmroom", "first_ms", "", None, 5.0),
    Aim("stock senders, rate over storescp", STOCK, "filmroom", "rate", "storescp", 10.0),
    Aim("stock senders, rate over Orthanc", STOCK, "filmroom", "rate", "orthanc", 10.0),
)


def reached(samples: Samples, aim: Aim) -> float | None:
    """The measured figure: the median over the rounds of the value, or of the ratio within the round."""
    ours = samples.get(aim.case, {}).get(aim.peer)
    if not ours:
        return None
    if not aim.against:
        return of(ours, aim.figure)
    theirs = samples.get(aim.against_case or aim.case, {}).get(aim.against)
    if not theirs:
        return None
    pairs = [
        (float(getattr(own, aim.figure)), float(getattr(other, aim.figure)))
        for own, other in zip(ours, theirs, strict=False)
    ]
    return median([own / other for own, other in pairs if other])


def aim_rows(samples: Samples) -> list[list[object]]:
    rows: list[list[object]] = []
    for aim in AIMS:
        value = reached(samples, aim)
        if value is None:
            continue
        passed = (aim.at_least is None or value >= aim.at_least) and (aim.at_most is None or value <= aim.at_most)
        wanted = f"at least {aim.at_least}" if aim.at_least is not None else f"at most {aim.at_most}"
        rows.append([aim.text, f"{value:.2f}", wanted, "yes" if passed else "NO"])
    return rows


# command line ------------------------------------------------------------------------------------


def _plan(options: argparse.Namespace) -> Plan:
    wanted = tuple(options.peers.split(","))
    cases = tuple(options.cases.split(","))
    for case in cases:
        if case not in CASES and not (case.startswith("store-") and case.removeprefix("store-").isdigit()):
            raise PerfError(f"no case is called {case!r}; there are {', '.join(CASES)} and store-N")
    for name in wanted:
        if name not in peers.NAMES:
            raise PerfError(f"no peer is called {name!r}; there are {', '.join(peers.NAMES)}")
    for name in ("rounds", "instances", "studies", "study_instances"):
        if getattr(options, name) < 1:
            raise PerfError(f"--{name.replace('_', '-')} is 1 or more, not {getattr(options, name)}")
    return Plan(
        peers=wanted,
        cases=cases,
        round_count=options.rounds,
        store_instance_count=options.instances,
        study_count=options.studies,
        study_instance_count=options.study_instances,
        directory=options.directory,
        workers=options.workers,
        template=options.template,
        pdu_length_max=options.pdu,
    )


def _document(plan: Plan, machine: Mapping[str, object], samples: Samples, versions: Mapping[str, str]) -> harness.Json:
    return {
        "machine": machine,
        "versions": versions,
        "plan": asdict(plan),
        "samples": {
            case: {name: [asdict(sample) for sample in each] for name, each in by_peer.items()}
            for case, by_peer in samples.items()
        },
        "aims": [
            {"aim": aim.text, "reached": reached(samples, aim), "at_least": aim.at_least, "at_most": aim.at_most}
            for aim in AIMS
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--peers", default=",".join(DEFAULT_PEERS), help=f"some of: {', '.join(peers.NAMES)}")
    parser.add_argument("--cases", default=",".join(CASES), help="some of these, or store-N for N associations")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instances", type=int, default=800, help="of a store case, over all associations")
    parser.add_argument("--studies", type=int, default=3, help="of a retrieval case")
    parser.add_argument("--study-instances", type=int, default=200)
    parser.add_argument("--template", default="ct")
    parser.add_argument("--pdu", type=int, default=131072)
    parser.add_argument("--workers", type=int, default=0, help="of filmroom; 0: one a core")
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure"
    )
    options = parser.parse_args(arguments)
    _plan(options)  # raises errors in the given options
    if options.smoke:
        options.rounds, options.instances, options.studies, options.study_instances = 1, 16, 1, 10
        if options.peers == parser.get_default("peers"):
            options.peers = "sink,filmroom,storescp,dcmqrscp"
        if options.cases == parser.get_default("cases"):
            options.cases = "store-2,move"
    plan = _plan(options)
    machine = harness.machine_facts(plan.directory)
    samples, versions = measure(plan)
    say()
    say(harness.table(HEADER, rows_of(samples)))
    aims = aim_rows(samples)
    if aims:
        say()
        say(harness.table(("aim", "measured", "limit", "met"), aims))
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = options.json or (None if options.smoke else harness.RESULTS / f"run-{stamp}.local.json")
    if path is not None:
        harness.write_json(path, _document(plan, machine, samples, versions))
        say(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
