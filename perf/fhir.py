"""FHIR on an archive that `perf.fill` has filled: reads, searches and pages of studies, as records systems ask for.

    python -m perf.fill --direct DIR --studies 1000000 --shape single
    python -m perf.fhir --archive DIR:1000000

Each row has one connection and asks for other values each time. Studies have their series.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from urllib.request import Request, urlopen

from perf import harness, http_load, peers, population
from perf.harness import PerfError, say
from perf.http_load import HttpResult

JSON = {"Accept": "application/fhir+json"}
SEED = 20261130
HEADER = ("request", "answers", "p50 ms", "p99 ms", "bar", "CPU ms", "KB an answer", "failed")
EXPORT_BAR = 5000
BARS_MS = {"read": 2, "identifier": 5, "patient": 5, "50 studies": 20}
"""What a request may take at the median."""


def paths_of(study_count: int, query_count: int) -> Iterator[tuple[str, list[str]]]:
    """Name of a request, and the requests."""
    rng = random.Random(SEED)
    people = [population.study(rng.randrange(1, study_count + 1), "single") for _ in range(query_count)]
    studies = "/fhir/ImagingStudy"
    yield "read", [f"{studies}/{person.study_uid.decode()}" for person in people]
    yield "identifier", [f"{studies}?identifier={person.accession_number.decode()}" for person in people]
    yield "patient", [f"{studies}?patient.identifier={person.patient_id.decode()}" for person in people]
    yield "a day of CT", [f"{studies}?started={_day(person)}&modality=CT" for person in people]
    yield "20 studies", [studies]
    yield "50 studies", [f"{studies}?_count=50"]
    yield "200 studies", [f"{studies}?_count=200"]
    yield "a patient", [f"/fhir/Patient?identifier={person.patient_id.decode()}" for person in people]


def _day(person: population.StudyFacts) -> str:
    text = person.study_date.decode()
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def export_rate(port: int) -> float:
    """Studies a second of one $export."""
    headers = {**JSON, "Prefer": "respond-async"}
    with urlopen(Request(f"http://127.0.0.1:{port}/fhir/$export?_type=ImagingStudy", headers=headers)) as answer:
        status = answer.headers["Content-Location"]
    begin_s, count = time.perf_counter(), 0
    with urlopen(f"{status}/ImagingStudy") as answer:
        while chunk := answer.read(1 << 20):
            count += chunk.count(b"\n")
    return count / (time.perf_counter() - begin_s)


def run(data: Path, study_count: int, query_count: int) -> dict[str, HttpResult]:
    """Latencies by query. All are asked once before: what a first look at a page of the index costs is the disk's."""
    results = {}
    with peers.running("filmroom", parent=data.parent, data=data, http=True) as peer:
        for name, paths in paths_of(study_count, query_count):
            requests = [http_load.get(path, peer.http_port, JSON) for path in paths]
            http_load.run(peer.http_port, requests, total=query_count)
            results[name] = http_load.run(peer.http_port, requests, total=query_count, server_pid=peer.pid)
        say(f"$export: {export_rate(peer.http_port):.0f} studies/s (bar {EXPORT_BAR})")
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--archive", required=True, metavar="DIR:STUDIES")
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    options = parser.parse_args(arguments)
    folder, _, number = options.archive.rpartition(":")
    if not number.isdigit():
        raise PerfError(f"{options.archive}: an archive is given as DIR:STUDIES")
    results = run(Path(folder), int(number), 3 if options.smoke else options.queries)
    rows = [
        (
            name, result.request_count, f"{result.latency.p50_ms:.2f}", f"{result.latency.p99_ms:.2f}",
            BARS_MS.get(name, ""),
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
            "fhir": {name: asdict(result) for name, result in results.items()},
        }
        harness.write_json(options.json, document)
    return 1 if any(result.failed_count for result in results.values()) else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
