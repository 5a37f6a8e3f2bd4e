"""Queries of somebody who may see a part of an archive that `perf.fill` has filled, against those of one who sees all.

    python -m perf.fill --direct DIR --studies 1000000 --shape single
    python -m perf.scopes --archive DIR:1000000 [--sockets]

Searches run in this process, without a network: what a C-FIND or a QIDO-RS waits for. Each asks for other values each
time, and takes at most 100 matches. Pages are those of `/api/studies`: the first 100 studies in an order.

    --sockets    the same scopes by C-FIND and HTTP, each on one connection to a server with roles, peers and users
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time, time

from engine import Archive
from engine.access import FULL, Patient, Scope
from engine.access.scope import Attribute, Matching, OfPatients, OneOfStudies, scope_of
from engine.accounts import keys, users
from engine.accounts.accounts import Accounts
from engine.accounts.records import Key, User
from engine.config import Config
from engine.dicom import tags
from engine.index.format.types import Level, Order, PlacedMatch, Query
from engine.index.query.explanation import Explanation
from perf import harness, http_load, load_find, peers, population
from perf.harness import PerfError, say
from perf.load_find import FindLoad

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


def seconds(archive: Archive, scope: Scope, wanted: dict[int, bytes]) -> float:
    """The CPU time of a search: others may be at work on the machine."""
    returned = dict.fromkeys((tags.StudyInstanceUID, tags.PatientID, tags.PatientName, tags.StudyDate), b"")
    begun, count = process_time(), 0
    for match in archive.view(scope).find_steps(Query(Level.STUDY, {**returned, **wanted})):
        count += match is not None
        if count >= MATCHES_MAX:
            break
    return process_time() - begun


def page_seconds(archive: Archive, scope: Scope, order: Order) -> float:
    """The CPU time of the first page."""
    query = Query(Level.STUDY, dict.fromkeys((tags.StudyInstanceUID, tags.PatientID, tags.PatientName), b""))
    begun, count = process_time(), 0
    for step in archive.view(scope).ordered_steps(query, order, None, Explanation()):
        count += isinstance(step, PlacedMatch)
        if count >= MATCHES_MAX:
            break
    return process_time() - begun


def run(data: Path, study_count: int, query_count: int) -> dict[str, dict[str, float]]:
    """p50 of CPU ms by query and scope."""
    rng = random.Random(SEED)
    taken: dict[str, dict[str, list[float]]] = {}
    with Archive.open(data) as archive:
        for _ in range(query_count):
            person = population.study(rng.randrange(1, study_count + 1), "single")
            for query, wanted in queries_for(person):
                for name, scope in scopes_for(person):
                    seconds(archive, scope, wanted)  # what a first look at a page costs is the disk's
                    taken.setdefault(query, {}).setdefault(name, []).append(seconds(archive, scope, wanted))
            for title, order in orders_for():
                for name, scope in scopes_for(person):
                    page_seconds(archive, scope, order)
                    taken.setdefault(title, {}).setdefault(name, []).append(page_seconds(archive, scope, order))
    return {query: {name: 1000 * median(each) for name, each in by.items()} for query, by in taken.items()}


# over sockets --------------------------------------------------------------------------------------------

PATHS = {
    "QIDO StudyInstanceUID": "/dicom-web/studies?limit=101&StudyInstanceUID={study_uid}",
    "QIDO PatientID": "/dicom-web/studies?limit=101&PatientID={patient_id}",
    "QIDO StudyDate": "/dicom-web/studies?limit=101&StudyDate={study_date}",
    "QIDO, no key": "/dicom-web/studies?limit=101",
    "page: -received": "/api/studies?limit=101",
    "page: -StudyDate": "/api/studies?limit=101&order=-StudyDate",
    "page: PatientName": "/api/studies?limit=101&order=PatientName",
}
FINDS = ("StudyInstanceUID", "PatientID", "StudyDate day")


def configuration(rules: dict[str, dict[str, str]]) -> str:
    """A role and a peer for each scope."""
    lines = ['[[peer]]\naet = "ALL"\n']
    for number, rule in enumerate(rules.values()):
        conditions = ", ".join(f"{name} = {json.dumps(text)}" for name, text in rule.items())
        lines.append(f'[[role]]\nname = "scope{number}"\nmay = ["query"]\nstudies = [{{{conditions}}}]\n')
        lines.append(f'[[peer]]\naet = "SCOPE{number}"\nrole = "scope{number}"\n')
    return "".join(lines)


def tokens_of(data: Path, count: int) -> list[str]:
    """An API key for a user with each role, the first for one who sees all."""
    database = Accounts.open(data, Config).database
    tokens = []
    for role in ("full", *(f"scope{number}" for number in range(count))):
        name = f"perf-{role}"
        if name not in {user.name for user in users.listed(database)}:
            users.add(database, User(name=name, roles=(role,)))
        key = Key(user=name, name="perf", until=time() + 86_400, created=time())
        tokens.append(keys.add(database, key, name)[1])
    database.close()
    return tokens


def run_sockets(data: Path, study_count: int, query_count: int, round_count: int) -> dict[str, dict[str, str]]:
    """p50 in ms, and how many times the p50 and the CPU time of who sees all, by query and scope.

    Scopes are those of one study; each request asks for another study's values. A round has all scopes, so that what
    else happens on the machine meets each; ratios are medians of those within a round.
    """
    rng = random.Random(SEED)
    person = population.study(rng.randrange(1, study_count + 1), "single")
    rules = rules_for(person)
    people = [population.study(rng.randrange(1, study_count + 1), "single") for _ in range(query_count)]
    tokens = tokens_of(data, len(rules))
    samples: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with peers.running(
        "filmroom", parent=data.parent, data=data, http=True, config=configuration(rules),
        extra_http='login = "required"\n',
    ) as peer:  # fmt: skip
        for number in range(round_count + 1):
            scopes = list(enumerate(("all", *rules)))
            for at, scope in scopes if number % 2 else reversed(scopes):
                for title, sample in _asked(peer, at, tokens[at], people, study_count):
                    if number:  # what a first look at a page costs is the disk's
                        samples.setdefault(title, {}).setdefault(scope, []).append(sample)
    return {
        title: {scope: _cell(by_scope[scope], by_scope["all"]) for scope in ("all", *rules)}
        for title, by_scope in samples.items()
    }


def _asked(
    peer: peers.Peer, at: int, token: str, people: list[population.StudyFacts], study_count: int
) -> Iterator[tuple[str, tuple[float, float]]]:
    """p50 and CPU time in ms of each query, by the peer and the user with one scope."""
    target = replace(peer.target, calling_aet=f"SCOPE{at - 1}" if at else "ALL")
    load = FindLoad(study_count=study_count, query_count=len(people), names=FINDS)
    for found in load_find.run(target, load, peer.pid):
        yield f"C-FIND {found.query}", (found.latency.p50_ms, found.server_cpu_ms)
    headers = {"Accept": "application/dicom+json, application/json", "Authorization": f"Bearer {token}"}
    for title, path in PATHS.items():
        requests = [http_load.get(_filled(path, each), peer.http_port, headers) for each in people]
        answer = http_load.run(peer.http_port, requests, total=len(people), server_pid=peer.pid)
        if answer.failed_count:
            raise PerfError(f"{title}: {answer.failed_count} requests failed")
        yield title, (answer.latency.p50_ms, answer.server_cpu_ms)


def _cell(samples: list[tuple[float, float]], of_all: list[tuple[float, float]]) -> str:
    p50_ms, p50_ratio, cpu_ratio = (
        median(each)
        for each in zip(
            *(
                (ms, ms / ms_of_all, cpu / cpu_of_all)
                for (ms, cpu), (ms_of_all, cpu_of_all) in zip(samples, of_all, strict=True)
            ),
            strict=True,
        )
    )
    return f"{p50_ms:.2f}: {p50_ratio:.2f}, {cpu_ratio:.2f}"


def _filled(path: str, person: population.StudyFacts) -> str:
    values = {name: getattr(person, name).decode() for name in ("study_uid", "patient_id", "study_date")}
    return path.format(**values)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--archive", required=True, metavar="DIR:STUDIES")
    parser.add_argument("--queries", type=int, default=30, help="of each kind")
    parser.add_argument("--sockets", action="store_true", help="by C-FIND and HTTP instead")
    parser.add_argument("--rounds", type=int, default=5, help="with --sockets, after one that does not count")
    options = parser.parse_args(arguments)
    folder, _, number = options.archive.rpartition(":")
    if not number.isdigit():
        raise PerfError(f"{options.archive}: an archive is given as DIR:STUDIES")
    query_count = 2 if options.smoke else options.queries
    if options.sockets:
        cells = run_sockets(Path(folder), int(number), query_count, 1 if options.smoke else options.rounds)
        scopes = list(next(iter(cells.values())))
        lines = [(query, *(by[name] for name in scopes)) for query, by in cells.items()]
        say(harness.table(("p50 ms: ratio of p50, of CPU", *scopes), lines))
        return 0
    results = run(Path(folder), int(number), query_count)
    names = list(next(iter(results.values())))
    rows = [(query, *(f"{by[name]:.2f}" for name in names)) for query, by in results.items()]
    say(harness.table(("p50 CPU ms", *names), rows))
    if options.json:
        machine = harness.machine_facts(Path(folder))
        harness.write_json(options.json, {"machine": machine, "smoke": options.smoke, "p50_cpu_ms": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
