"""QIDO-RS and windows of `/api/studies` on an archive that `perf.fill` has filled.

    python -m perf.fill --direct DIR --studies 1000000 --shape single --long-series 1000
    python -m perf.web_queries --archive DIR:1000000 --long-series

Answers have up to 101 studies, as a viewer's list.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from urllib.parse import quote

from perf import harness, http_queries, population

JSON = {"Accept": "application/dicom+json"}
LIST = "limit=101&offset=0&includefield=00081030%2C00080060%2C00080090"
SEED = 20261129


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


def main(arguments: list[str] | None = None) -> int:
    parser = http_queries.parser(__doc__)
    parser.add_argument("--long-series", action="store_true", help="it holds the series of perf.fill --long-series")
    options = parser.parse_args(arguments)
    data, study_count, query_count = http_queries.archive_of(options)
    queries = paths_of(study_count, query_count, long_series=options.long_series)
    return http_queries.show(http_queries.run(data, queries, JSON, query_count), options, data, "queries")


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
