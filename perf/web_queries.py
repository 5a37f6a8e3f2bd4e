"""QIDO-RS and windows of `/api/studies` on an archive that `perf.fill` has filled.

    python -m perf.fill --direct DIR --studies 1000000 --shape single --long-series 1000
    python -m perf.web_queries --archive DIR:1000000 --long-series

Each row has one connection and asks for other values each time. Answers have up to 101 studies, as a viewer's list.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from perf import harness, http_load, peers, population
from perf.harness import PerfError, say
from perf.http_load import HttpResult

JSON = {"Accept": "application/dicom+json"}
LIST = "limit=101&offset=0&includefield=00081030%2C00080060%2C00080090"
SEED = 20261129
HEADER = ("query", "answers", "p50 ms", "p99 ms", "CPU ms", "KB an answer", "failed")


def paths_of(study_count: int, query_count: int, *, long_series: bool) -> Iterator[tuple[str, list[str]]]:
    """Name of a query, and the requests that ask it."""
    rng = random.Random(SEED)
    people = [population.study(rng.randrange(1, study_count + 1), "single") for _ in range(query_count)]
    studies, window = "/dicom-web/studies", "/api/studies?limit=101"
    names = [quote(person.patient_name.decode().partition("^")[0]) for person in people]
    yield "the first 101", [f"{studies}?{LIST}"]
    yield "StudyInstanceUID", [f"{studies}?{LIST}&StudyInstanceUID={person.study_uid.decode()}" for person in people]
    yield "PatientID", [f"{studies}?{LIST}&PatientID={person.patient_id.decode()}" for person in people]
    yield (
        "AccessionNumber",
        [f"{studies}?{LIST}&AccessionNumber={person.accession_number.decode()}" for person in people],
    )
    yield "StudyDate", [f"{studies}?{LIST}&StudyDate={person.study_date.decode()}" for person in people]
    yield (
        "StudyDate and Modality",
        [
            f"{studies}?{LIST}&StudyDate={person.study_date.decode()}&ModalitiesInStudy={person.modality}"
            for person in people
        ],
    )
    yield "PatientName x*", [f"{studies}?{LIST}&PatientName={name}*" for name in names]
    yield "PatientName *x*", [f"{studies}?{LIST}&PatientName=*{name[1:-1]}*" for name in names]
    yield "/api, latest", [window]
    yield "/api by -StudyDate", [f"{window}&order=-StudyDate"]
    yield "/api by PatientName from", [f"{window}&order=PatientName&from={name}" for name in names]
    yield (
        "/api by PatientName at",
        [f"{window}&order=PatientName&position={rng.randrange(study_count)}" for _ in people],
    )
    yield "/api counted", [f"{window}&count=true"]
    if long_series:
        uid = population.long_study(1).study_uid.decode()
        yield "instances of a study", [f"{studies}/{uid}/instances"]


def run(data: Path, study_count: int, query_count: int, *, long_series: bool) -> dict[str, HttpResult]:
    """Latencies by query. All are asked once before: what a first look at a page of the index costs is the disk's."""
    results = {}
    with peers.running("filmroom", parent=data.parent, data=data, http=True) as peer:
        for name, paths in paths_of(study_count, query_count, long_series=long_series):
            requests = [http_load.get(path, peer.http_port, JSON) for path in paths]
            http_load.run(peer.http_port, requests, total=query_count)
            results[name] = http_load.run(peer.http_port, requests, total=query_count, server_pid=peer.pid)
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--archive", required=True, metavar="DIR:STUDIES")
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--long-series", action="store_true", help="it holds the series of perf.fill --long-series")
    options = parser.parse_args(arguments)
    folder, _, number = options.archive.rpartition(":")
    if not number.isdigit():
        raise PerfError(f"{options.archive}: an archive is given as DIR:STUDIES")
    results = run(Path(folder), int(number), 3 if options.smoke else options.queries, long_series=options.long_series)
    rows = [
        (
            name, result.request_count, f"{result.latency.p50_ms:.2f}", f"{result.latency.p99_ms:.2f}",
            f"{result.server_cpu_ms:.2f}",
            f"{result.body_bytes / max(result.request_count, 1) / 1000:.1f}", result.failed_count,
        )
        for name, result in results.items()
    ]  # fmt: skip
    say(harness.table(HEADER, rows))
    if options.json:
        document = {
            "machine": harness.machine_facts(Path(folder)),
            "smoke": options.smoke,
            "queries": {name: asdict(result) for name, result in results.items()},
        }
        harness.write_json(options.json, document)
    return 1 if any(result.failed_count for result in results.values()) else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
