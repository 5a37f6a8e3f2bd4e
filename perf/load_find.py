"""C-FIND load: every unique and required key in turn, with values that the filled archive holds.

    python -m perf.fill --port 11112 --studies 100000
    python -m perf.load_find --port 11112 --studies 100000 --queries 200

A query's clock runs from the request to the final response, all matches read. Values come from `perf.population`, so
each query has at least one match; the counts of matches are printed, for an answer that finds nothing is quick.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, fill, harness, peers, population, wire
from perf.association import Association, Target
from perf.harness import Latencies, PerfError, say
from perf.population import StudyFacts

PATIENT_CONTEXT_ID, STUDY_CONTEXT_ID = 1, 3
PENDING = (0xFF00, 0xFF01)

LEVEL, SOP_UID, DATE, TIME = 0x00080052, 0x00080018, 0x00080020, 0x00080030
ACCESSION, MODALITY, MODALITIES = 0x00080050, 0x00080060, 0x00080061
NAME, ID, BIRTH, STUDY, SERIES = 0x00100010, 0x00100020, 0x00100030, 0x0020000D, 0x0020000E
STUDY_ID, SERIES_NUMBER, INSTANCE_NUMBER, INSTANCES = 0x00200010, 0x00200011, 0x00200013, 0x00201208

VRS = {
    LEVEL: b"CS", SOP_UID: b"UI", DATE: b"DA", TIME: b"TM", ACCESSION: b"SH", MODALITIES: b"CS", MODALITY: b"CS",
    NAME: b"PN", ID: b"LO", BIRTH: b"DA", STUDY: b"UI", SERIES: b"UI", STUDY_ID: b"SH", SERIES_NUMBER: b"IS",
    INSTANCE_NUMBER: b"IS", INSTANCES: b"IS",
}  # fmt: skip

# What a worklist asks back with each query at study level.
STUDY_RETURN = dict.fromkeys((DATE, TIME, ACCESSION, NAME, ID, STUDY, STUDY_ID, MODALITIES, INSTANCES), b"")

Keys = dict[int, bytes]


def _study(keys: Callable[[StudyFacts], Keys]) -> Callable[[StudyFacts], Keys]:
    return lambda facts: {**STUDY_RETURN, LEVEL: b"STUDY", **keys(facts)}


QUERIES: dict[str, Callable[[StudyFacts], Keys]] = {
    "StudyInstanceUID": _study(lambda facts: {STUDY: facts.study_uid}),
    "PatientID": _study(lambda facts: {ID: facts.patient_id}),
    "PatientName": _study(lambda facts: {NAME: facts.patient_name}),
    "PatientName prefix*": _study(lambda facts: {NAME: facts.patient_name.partition(b"^")[0][:7] + b"*"}),
    "AccessionNumber": _study(lambda facts: {ACCESSION: facts.accession_number}),
    "StudyID": _study(lambda facts: {STUDY_ID: facts.study_id}),
    "StudyDate day": _study(lambda facts: {DATE: facts.study_date}),
    "StudyDate+StudyTime": _study(
        lambda facts: {DATE: facts.study_date, TIME: facts.study_time[:4] + b"00-" + facts.study_time[:4] + b"59"}
    ),
    "StudyDate+Modality": _study(lambda facts: {DATE: facts.study_date, MODALITIES: facts.modality.encode()}),
    "patient: PatientID": lambda facts: {LEVEL: b"PATIENT", ID: facts.patient_id, NAME: b"", BIRTH: b""},
    "series: SeriesInstanceUID": lambda facts: {
        LEVEL: b"SERIES",
        STUDY: facts.study_uid,
        SERIES: corpus.series_uid(facts.number, 1),
        MODALITY: b"",
        SERIES_NUMBER: b"",
    },
    "series of a study": lambda facts: {
        LEVEL: b"SERIES",
        STUDY: facts.study_uid,
        SERIES: b"",
        MODALITY: b"",
        SERIES_NUMBER: b"",
    },
    "image: SOPInstanceUID": lambda facts: {
        LEVEL: b"IMAGE",
        STUDY: facts.study_uid,
        SERIES: corpus.series_uid(facts.number, 1),
        SOP_UID: corpus.instance_uid(facts.number, 1, 1),
        INSTANCE_NUMBER: b"",
    },
}


@dataclass(frozen=True, slots=True)
class FindResult:
    query: str
    latency: Latencies
    queries_per_s: float
    matches_mean: float
    empty_count: int
    """Queries without a match: there should be none."""
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class FindLoad:
    first_study: int = 1
    study_count: int = 1000
    query_count: int = 100
    """Of each kind."""
    names: tuple[str, ...] = tuple(QUERIES)
    seed: int = 7


def run(target: Target, load: FindLoad) -> list[FindResult]:
    association = Association(
        target,
        [
            wire.Context(PATIENT_CONTEXT_ID, wire.PATIENT_ROOT_FIND),
            wire.Context(STUDY_CONTEXT_ID, wire.STUDY_ROOT_FIND),
        ],
    )
    try:
        return [_measure(association, name, load) for name in load.names]
    finally:
        association.release()


def _measure(association: Association, name: str, load: FindLoad) -> FindResult:
    rng = random.Random(f"{load.seed} {name}")
    context_id = PATIENT_CONTEXT_ID if name.startswith("patient") else STUDY_CONTEXT_ID
    sop_class_uid = wire.PATIENT_ROOT_FIND if context_id == PATIENT_CONTEXT_ID else wire.STUDY_ROOT_FIND
    syntax = association.accepted.transfer_syntaxes.get(context_id)
    if syntax is None:
        raise PerfError(f"the peer accepted no context for {name}")
    command = wire.find_rq(sop_class_uid, 1)
    numbers = [rng.randrange(load.first_study, load.first_study + load.study_count) for _ in range(load.query_count)]
    identifiers = [wire.identifier(QUERIES[name](population.study(each)), syntax, VRS) for each in numbers]
    latencies_ns, matches, empty, failures = [], 0, 0, dict[str, int]()
    for identifier in identifiers:
        started_ns = time.perf_counter_ns()
        association.send_message(context_id, command, identifier)
        found, status = _read_matches(association)
        latencies_ns.append(time.perf_counter_ns() - started_ns)
        matches += found
        empty += found == 0
        if status:
            failures[f"status {status:04X}"] = failures.get(f"status {status:04X}", 0) + 1
    return FindResult(
        query=name,
        latency=Latencies.of(latencies_ns),
        queries_per_s=round(len(latencies_ns) / (sum(latencies_ns) / 1e9), 1),
        matches_mean=round(matches / len(latencies_ns), 2),
        empty_count=empty,
        failures=failures,
    )


def _read_matches(association: Association) -> tuple[int, int]:
    found = 0
    while True:
        message = association.read_message()
        if message is None:
            raise PerfError("the peer released the association instead of answering")
        if message.has_data_set:
            association.discard_data_set()
        if message.status not in PENDING:
            return found, message.status
        found += 1


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    harness.target_options(parser)
    parser.add_argument("--studies", type=int, default=1000, help="how many perf.fill stored")
    parser.add_argument("--first-study", type=int, default=1)
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of: {', '.join(QUERIES)}")
    parser.add_argument("--fill", action="store_true", help="store the studies first")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.studies, options.queries, options.fill = 20, 5, True
    load = FindLoad(
        first_study=options.first_study,
        study_count=options.studies,
        query_count=options.queries,
        names=tuple(options.only or QUERIES),
    )

    def measure(target: Target, server_pid: int) -> int:
        del server_pid
        if options.fill:
            fill.run(target, first_study=load.first_study, study_count=load.study_count, association_count=1)
        return _report(options, run(target, load))

    return peers.with_target(options, measure)


def rows_of(results: list[FindResult]) -> list[list[object]]:
    return [
        [
            result.query,
            f"{result.queries_per_s:.0f}",
            f"{result.latency.p50_ms:.2f}",
            f"{result.latency.p99_ms:.2f}",
            f"{result.matches_mean:.1f}",
            result.empty_count,
            result.failures or "",
        ]
        for result in results
    ]


HEADER = ("C-FIND by", "queries/s", "p50 ms", "p99 ms", "matches", "empty", "failures")


def _report(options: argparse.Namespace, results: list[FindResult]) -> int:
    say(harness.table(HEADER, rows_of(results)))
    if options.json:
        document = {"load_find": [asdict(result) for result in results], "smoke": options.smoke}
        harness.write_json(Path(options.json), document)
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
