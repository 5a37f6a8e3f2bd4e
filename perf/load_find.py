"""C-FIND load: every unique and required key in turn, with values that the filled archive holds.

    python -m perf.fill --port 11112 --studies 100000
    python -m perf.load_find --port 11112 --studies 100000 --queries 200

A query's time runs from the request to the final response, with all matches read. Values come from `perf.population`,
so each query has at least one match; the counts of matches are printed, since an answer without matches is quick.
Server CPU is that of all its processes; queries with hundreds of responses show the cost of one.
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
from perf.harness import Latencies, say
from perf.population import StudyFacts

PATIENT_CONTEXT_ID, STUDY_CONTEXT_ID = 1, 3
FUZZY = b"\0\0\1"
"""PS3.4 Table C.5-2: the third byte asks for fuzzy matching of names."""
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

# Return keys of a worklist with each query at study level.
STUDY_RETURN = dict.fromkeys((DATE, TIME, ACCESSION, NAME, ID, STUDY, STUDY_ID, MODALITIES, INSTANCES), b"")

Keys = dict[int, bytes]


def _study(keys: Callable[[StudyFacts], Keys]) -> Callable[[StudyFacts], Keys]:
    return lambda facts: {**STUDY_RETURN, LEVEL: b"STUDY", **keys(facts)}


QUERIES: dict[str, Callable[[StudyFacts], Keys]] = {
    "StudyInstanceUID": _study(lambda facts: {STUDY: facts.study_uid}),
    "PatientID": _study(lambda facts: {ID: facts.patient_id}),
    "PatientName": _study(lambda facts: {NAME: facts.patient_name}),
    "PatientName prefix*": _study(lambda facts: {NAME: facts.patient_name.partition(b"^")[0][:7] + b"*"}),
    "PatientName *infix*": _study(lambda facts: {NAME: b"*" + facts.patient_name[3:-1] + b"*"}),
    "PatientName *common infix*": _study(
        lambda facts: {NAME: b"*" + facts.patient_name.partition(b"^")[0][2:7] + b"*"}
    ),
    "PatientName fuzzy": _study(lambda facts: {NAME: b" ".join(reversed(facts.patient_name.lower().split(b"^")))}),
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
    "image: a series": lambda facts: {
        LEVEL: b"IMAGE",
        STUDY: facts.study_uid,
        SERIES: corpus.series_uid(facts.number, 1),
        SOP_UID: b"",
        INSTANCE_NUMBER: b"",
    },
}
LONG_SERIES = "image: the long series"
"""Queries the series of `perf.fill --long-series`."""


@dataclass(frozen=True, slots=True)
class FindResult:
    query: str
    latency: Latencies
    first: Latencies
    """Time to the first response, the final one if there is no other."""
    queries_per_s: float
    matches_mean: float
    responses_per_s: float
    server_cpu_ms: float
    """CPU time for each query."""
    responses_per_cpu_s: float
    empty_count: int
    """Number of queries without a match; should be 0."""
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class FindLoad:
    first_study: int = 1
    study_count: int = 1000
    query_count: int = 100
    """Number of queries of each kind."""
    names: tuple[str, ...] = tuple(QUERIES)
    seed: int = 7


def run(target: Target, load: FindLoad, server_pid: int = 0) -> list[FindResult]:
    """Raises PerfError. Without `server_pid` no CPU is measured."""
    return [_measure(target, name, load, server_pid) for name in load.names]


def _measure(target: Target, name: str, load: FindLoad, server_pid: int) -> FindResult:
    rng = random.Random(f"{load.seed} {name}")
    is_of_patients = name.startswith("patient")
    context_id = PATIENT_CONTEXT_ID if is_of_patients else STUDY_CONTEXT_ID
    sop_class_uid = wire.PATIENT_ROOT_FIND if is_of_patients else wire.STUDY_ROOT_FIND
    options = FUZZY if "fuzzy" in name else b""
    association = Association(target, [wire.Context(context_id, sop_class_uid, options=options)])
    try:
        syntax = association.accepted.transfer_syntaxes[context_id]
        command = wire.find_rq(sop_class_uid, 1)
        keys = QUERIES["image: a series" if name == LONG_SERIES else name]
        identifiers = []
        for _ in range(load.query_count):
            number = rng.randrange(load.first_study, load.first_study + load.study_count)
            facts = population.long_study(1) if name == LONG_SERIES else population.study(number)
            identifiers.append(wire.identifier(keys(facts), syntax, VRS))
        latencies_ns, firsts_ns, matches, empty, failures = [], [], 0, 0, dict[str, int]()
        cpu_s = harness.cpu_s(server_pid) if server_pid else 0.0
        for identifier in identifiers:
            started_ns = time.perf_counter_ns()
            association.send_message(context_id, command, identifier)
            found, first_ns, status = association.read_responses(PENDING)
            latencies_ns.append(time.perf_counter_ns() - started_ns)
            firsts_ns.append(first_ns - started_ns)
            matches += found
            empty += found == 0
            if status:
                failures[f"status {status:04X}"] = failures.get(f"status {status:04X}", 0) + 1
        cpu_s = harness.cpu_s(server_pid) - cpu_s if server_pid else 0.0
    finally:
        association.release()
    elapsed_s = sum(latencies_ns) / 1e9
    return FindResult(
        query=name,
        latency=Latencies.of(latencies_ns),
        first=Latencies.of(firsts_ns),
        queries_per_s=round(len(latencies_ns) / elapsed_s, 1),
        matches_mean=round(matches / len(latencies_ns), 2),
        responses_per_s=round(matches / elapsed_s, 1),
        server_cpu_ms=round(cpu_s / len(latencies_ns) * 1e3, 4),
        responses_per_cpu_s=round(matches / cpu_s, 1) if cpu_s else 0.0,
        empty_count=empty,
        failures=failures,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    harness.target_options(parser)
    parser.add_argument("--studies", type=int, default=1000, help="studies that perf.fill has stored")
    parser.add_argument("--first-study", type=int, default=1)
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of: {', '.join(QUERIES)}")
    parser.add_argument("--long-series", action="store_true", help="also ask for the series of perf.fill --long-series")
    parser.add_argument("--fill", action="store_true", help="store the studies first")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.studies, options.queries, options.fill = 20, 5, True
    load = FindLoad(
        first_study=options.first_study,
        study_count=options.studies,
        query_count=options.queries,
        names=(*(options.only or QUERIES), *([LONG_SERIES] if options.long_series else [])),
    )

    def measure(target: Target, server_pid: int) -> int:
        if options.fill:
            fill.run(
                target,
                first_study=load.first_study,
                study_count=load.study_count,
                association_count=1,
                long_series_count=1000 if options.long_series else 0,
            )
        return _report(options, run(target, load, server_pid))

    return peers.with_target(options, measure)


def rows_of(results: list[FindResult]) -> list[list[object]]:
    return [
        [
            result.query,
            f"{result.queries_per_s:.0f}",
            f"{result.latency.p50_ms:.2f}",
            f"{result.latency.p99_ms:.2f}",
            f"{result.first.p50_ms:.2f}",
            f"{result.matches_mean:.1f}",
            f"{result.responses_per_s:.0f}",
            f"{result.server_cpu_ms:.2f}",
            f"{result.responses_per_cpu_s:.0f}",
            result.empty_count,
            result.failures or "",
        ]
        for result in results
    ]


HEADER = (
    "C-FIND by", "queries/s", "p50 ms", "p99 ms", "first ms", "matches", "responses/s", "CPU ms", "responses/CPU s",
    "empty", "failures",
)  # fmt: skip


def _report(options: argparse.Namespace, results: list[FindResult]) -> int:
    say(harness.table(HEADER, rows_of(results)))
    for warning in sorted({harness.delayed_by_acknowledgements(result.latency) for result in results} - {""})[:1]:
        say(warning)
    if options.json:
        document = {"load_find": [asdict(result) for result in results], "smoke": options.smoke}
        harness.write_json(Path(options.json), document)
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
