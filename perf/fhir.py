"""FHIR on an archive that `perf.fill` has filled: reads, searches and pages of studies, as records systems ask for.

    python -m perf.fill --direct DIR --studies 1000000 --shape single
    python -m perf.fhir --archive DIR:1000000

Studies have their series.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from urllib.request import Request, urlopen

from perf import harness, http_queries, population
from perf.harness import say

JSON = {"Accept": "application/fhir+json"}
SEED = 20261130
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
    yield (
        "reports of a patient",
        [f"/fhir/DiagnosticReport?patient.identifier={person.patient_id.decode()}" for person in people],
    )
    yield "20 reports", ["/fhir/DiagnosticReport"]
    yield "a patient", [f"/fhir/Patient?identifier={person.patient_id.decode()}" for person in people]


def _day(person: population.StudyFacts) -> str:
    text = person.study_date.decode()
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def export_rate(port: int, kind: str) -> float:
    """Resources of a kind a second, of one $export."""
    headers = {**JSON, "Prefer": "respond-async"}
    with urlopen(Request(f"http://127.0.0.1:{port}/fhir/$export?_type={kind}", headers=headers)) as answer:
        status = answer.headers["Content-Location"]
    begin_s, count = time.perf_counter(), 0
    with urlopen(f"{status}/{kind}") as answer:
        while chunk := answer.read(1 << 20):
            count += chunk.count(b"\n")
    return count / (time.perf_counter() - begin_s)


def main(arguments: list[str] | None = None) -> int:
    options = http_queries.parser(__doc__).parse_args(arguments)
    data, study_count, query_count = http_queries.archive_of(options)

    def export(port: int) -> None:
        for kind in ("ImagingStudy", "Patient"):
            say(
                f"$export of {kind}: {export_rate(port, kind):.0f}/s"
                + f" (bar {EXPORT_BAR})" * (kind == "ImagingStudy")
            )

    results = http_queries.run(data, paths_of(study_count, query_count), JSON, query_count, export)
    return http_queries.show(results, options, data, "fhir", BARS_MS)


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
