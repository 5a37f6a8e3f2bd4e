"""Queries of somebody who may see a part of an archive that `perf.fill` has filled, against those of one who sees all.

    python -m perf.fill --direct DIR --studies 1000000 --shape single
    python -m perf.scopes --archive DIR:1000000

Searches run in this process, without a network: what a C-FIND or a QIDO-RS waits for. Each asks for other values each
time, and takes at most 100 matches. Pages are those of `/api/studies`: the first 100 studies in an order.

    --sockets    the same scopes by C-FIND and HTTP, each on one connection to a server with roles, peers and users
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from engine import Archive
from engine.access import FULL, Patient, Scope
from engine.access.scope import Attribute, Matching, OfPatients, OneOfStudies, scope_of
from engine.dicom import tags
from engine.index.format.types import Level, Order, PlacedMatch, Query
from engine.index.query.explanation import Explanation
from perf import harness, population
from perf.harness import PerfError, say

SEED = 20261130
MATCHES_MAX = 100


def scopes_for(person: population.StudyFacts) -> Iterator[tuple[str, Scope]]:
    """What somebody may see of the archive, the widest first."""
    yield "all", FULL
    for name, rule in rules_for(person).items():
        requirements = [Matching.of(Attribute(each), [text]) for each, text in rule.items()]
        yield name, scope_of([frozenset(requirements)])
    yield "patient", scope_of([frozenset({OfPatients(frozenset({Patient(person.patient_id.decode())}))})])
    yield "study", scope_of([frozenset({OneOfStudies(frozenset({person.study_uid.decode()}))})])


def rules_for(person: population.StudyFacts) -> dict[str, dict[str, str]]:
    """Conditions by the name of the scope, as in a [[role]]."""
    institution = person.institution.decode()
    return {
        "modality": {"modality": person.modality},
        "department": {"department": person.department.decode()},
        "sender": {"sender": person.sender},
        "institutions": {"institution": institution[:-1] + "?"},
        "institution": {"institution": institution},
        "referrer": {"referrer": person.referring_physician.decode()},
        "inst.+dep.": {"institution": institution, "department": person.department.decode()},
    }


def queries_for(person: population.StudyFacts) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Keys by the name of the query."""
    yield "StudyInstanceUID", {tags.StudyInstanceUID: person.study_uid}
    yield "PatientID", {tags.PatientID: person.patient_id}
    yield "StudyDate", {tags.StudyDate: person.study_date}
    yield "PatientName x*", {tags.PatientName: person.patient_name.partition(b"^")[0] + b"*"}
    yield "no key", {}


def orders_for() -> Iterator[tuple[str, Order]]:
    """Orders by name."""
    yield "page: -received", Order(None, True)
    yield "page: -StudyDate", Order(tags.StudyDate, True)
    yield "page: PatientName", Order(tags.PatientName)


def seconds(archive: Archive, scope: Scope, keys: dict[int, bytes]) -> float:
    """How long a search takes."""
    returned = dict.fromkeys((tags.StudyInstanceUID, tags.PatientID, tags.PatientName, tags.StudyDate), b"")
    begun, count = perf_counter(), 0
    for match in archive.view(scope).find_steps(Query(Level.STUDY, {**returned, **keys})):
        count += match is not None
        if count >= MATCHES_MAX:
            break
    return perf_counter() - begun


def page_seconds(archive: Archive, scope: Scope, order: Order) -> float:
    """How long the first page takes."""
    query = Query(Level.STUDY, dict.fromkeys((tags.StudyInstanceUID, tags.PatientID, tags.PatientName), b""))
    begun, count = perf_counter(), 0
    for step in archive.view(scope).ordered_steps(query, order, None, Explanation()):
        count += isinstance(step, PlacedMatch)
        if count >= MATCHES_MAX:
            break
    return perf_counter() - begun


def run(data: Path, study_count: int, query_count: int) -> dict[str, dict[str, float]]:
    """p50 in ms by query and scope."""
    rng = random.Random(SEED)
    taken: dict[str, dict[str, list[float]]] = {}
    with Archive.open(data) as archive:
        for _ in range(query_count):
            person = population.study(rng.randrange(1, study_count + 1), "single")
            for query, keys in queries_for(person):
                for name, scope in scopes_for(person):
                    seconds(archive, scope, keys)  # what a first look at a page costs is the disk's
                    taken.setdefault(query, {}).setdefault(name, []).append(seconds(archive, scope, keys))
            for title, order in orders_for():
                for name, scope in scopes_for(person):
                    page_seconds(archive, scope, order)
                    taken.setdefault(title, {}).setdefault(name, []).append(page_seconds(archive, scope, order))
    return {query: {name: 1000 * median(each) for name, each in by.items()} for query, by in taken.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--archive", required=True, metavar="DIR:STUDIES")
    parser.add_argument("--queries", type=int, default=30, help="of each kind")
    options = parser.parse_args(arguments)
    folder, _, number = options.archive.rpartition(":")
    if not number.isdigit():
        raise PerfError(f"{options.archive}: an archive is given as DIR:STUDIES")
    results = run(Path(folder), int(number), 2 if options.smoke else options.queries)
    names = list(next(iter(results.values())))
    rows = [(query, *(f"{by[name]:.2f}" for name in names)) for query, by in results.items()]
    say(harness.table(("p50 ms", *names), rows))
    if options.json:
        machine = harness.machine_facts(Path(folder))
        harness.write_json(options.json, {"machine": machine, "smoke": options.smoke, "p50_ms": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
