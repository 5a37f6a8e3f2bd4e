"""Shared by C-MOVE and C-GET loads: the studies, the measurement of a request, and the result."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, harness, load_store, wire
from perf.association import Target
from perf.harness import Latencies, PerfError, say
from perf.load_store import StoreLoad

PENDING = (0xFF00, 0xFF01)
DESTINATION_UNKNOWN = 0xA801
UID_VRS = {0x00080052: b"CS", 0x0020000D: b"UI"}


@dataclass(frozen=True, slots=True)
class RetrievalLoad:
    study_count: int = 3
    study_instance_count: int = 200
    template: str = "ct"
    first_study: int = 1
    pdu_length_max: int = 131072


@dataclass(frozen=True, slots=True)
class StudyRetrieval:
    """One study, as seen by the receiver."""

    instance_count: int
    data_set_bytes: int
    first_command_ns: int
    first_instance_ns: int
    status: int
    response_count: int


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    instances_per_s: float
    megabytes_per_s: float
    first_command: Latencies
    """Time from the request to the first C-STORE-RQ command."""
    first_instance: Latencies
    """Time from the request to the last byte of the first data set."""
    server_cpu_ms: float
    generator_cpu_ms: float
    instance_count: int
    failed_count: int
    failures: dict[str, int]
    elapsed_s: float


def prepare(target: Target, load: RetrievalLoad) -> list[bytes]:
    """Stores the studies. Returns their UIDs."""
    result = load_store.run(
        target,
        StoreLoad(
            template=load.template,
            instance_count=load.study_count * load.study_instance_count,
            series_instance_count=load.study_instance_count,
            warm_up_count=0,
            first_study=load.first_study,
        ),
    )
    if result.failed_count:
        raise PerfError(f"storing the studies to retrieve failed: {result.failures}")
    return [corpus.study_uid(number) for number in result.studies]


def stored_before(load: RetrievalLoad) -> list[bytes]:
    """The UIDs that `prepare` stored in an earlier run with the same parameters."""
    return [corpus.study_uid(load.first_study + 1 + place) for place in range(load.study_count)]


def study_identifier(study_uid: bytes, transfer_syntax: bytes) -> bytes:
    return wire.identifier({0x00080052: b"STUDY", 0x0020000D: study_uid}, transfer_syntax, UID_VRS)


def measure(
    retrieve: Callable[[bytes], StudyRetrieval], study_uids: Sequence[bytes], load: RetrievalLoad, server_pid: int
) -> RetrievalResult:
    """Retrieves the first study once without measuring, then each in turn."""
    retrieve(study_uids[0])
    cpu_before = harness.cpu_s(server_pid) if server_pid else 0.0
    own_before, elapsed_s = time.process_time(), 0.0
    commands_ns, instances_ns, count, size, failures = [], [], 0, 0, dict[str, int]()
    for study_uid in study_uids:
        started_ns = time.perf_counter_ns()
        seen = retrieve(study_uid)
        elapsed_s += (time.perf_counter_ns() - started_ns) / 1e9
        count += seen.instance_count
        size += seen.data_set_bytes
        if seen.instance_count:
            commands_ns.append(seen.first_command_ns - started_ns)
            instances_ns.append(seen.first_instance_ns - started_ns)
        if seen.status:
            failures[f"status {seen.status:04X}"] = failures.get(f"status {seen.status:04X}", 0) + 1
    own_s = time.process_time() - own_before
    cpu_s = harness.cpu_s(server_pid) - cpu_before if server_pid else 0.0
    return RetrievalResult(
        instances_per_s=round(count / elapsed_s, 1),
        megabytes_per_s=round(size / elapsed_s / 1e6, 1),
        first_command=Latencies.of(commands_ns),
        first_instance=Latencies.of(instances_ns),
        server_cpu_ms=round(cpu_s * 1000 / max(1, count), 4),
        generator_cpu_ms=round(own_s * 1000 / max(1, count), 4),
        instance_count=count,
        failed_count=len(study_uids) * load.study_instance_count - count,
        failures=failures,
        elapsed_s=round(elapsed_s, 4),
    )


# command lines -----------------------------------------------------------------------------------


def options_of(description: str | None) -> argparse.ArgumentParser:
    parser = harness.parser(description)
    harness.target_options(parser)
    parser.add_argument("--studies", type=int, default=3)
    parser.add_argument("--study-instances", type=int, default=200)
    parser.add_argument("--template", default="ct", help="ct, mr or tiny")
    parser.add_argument("--first-study", type=int, default=500_000)
    parser.add_argument("--stored", action="store_true", help="the studies are stored from an earlier run")
    return parser


def load_of(options: argparse.Namespace) -> RetrievalLoad:
    if options.smoke:
        options.studies, options.study_instances = 2, 10
    return RetrievalLoad(
        study_count=options.studies,
        study_instance_count=options.study_instances,
        template=options.template,
        first_study=options.first_study,
    )


def report(name: str, options: argparse.Namespace, result: RetrievalResult, advice: str = "") -> int:
    """Prints a result. `advice`: one more line, on how to resolve a failure."""
    say(f"{result.instances_per_s:.0f} instances/s  {result.megabytes_per_s:.0f} MB/s")
    say(f"first C-STORE-RQ after {result.first_command}; first instance whole after {result.first_instance}")
    say(
        f"server CPU {result.server_cpu_ms:.3f} ms an instance, receiver {result.generator_cpu_ms:.3f} ms; "
        f"{result.instance_count} received, {result.failed_count} missing {result.failures or ''}"
    )
    if advice:
        say(advice)
    if not options.stored and not options.peer:
        say(load_store.REMOVAL)
    if options.json:
        harness.write_json(Path(options.json), {name: asdict(result), "smoke": options.smoke})
    return 1 if result.failed_count or result.failures else 0
