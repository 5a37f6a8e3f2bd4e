"""Sends the same queries to several servers, and to archives of several sizes, and prints one table.

    python -m perf.fill --direct BIG --studies 100000 --shape long --long-series 1000
    python -m perf.queries --archive BIG:100000 --peers filmroom,orthanc,dcmqrscp --studies 5000

Each --archive names a folder that `perf.fill` filled and its number of studies. Filmroom is started on it and gets
every query twice: the first time the process that answers has not read those pages of the index yet. The other peers
are first filled with one-instance studies by C-STORE, which limits their size: dcmqrscp keeps 500.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from perf import fill, harness, load_find, peers
from perf.harness import NotInstalled, PerfError, say
from perf.load_find import FindLoad, FindResult

DCMQRSCP_STUDIES_MAX = 450
"""Beyond 500, dcmqrscp drops the oldest study, or the connection."""
ONLY_FILMROOM = ("PatientName fuzzy",)
"""Queries that the others do not support: they would match the exact name."""


def of_archive(
    data: Path, study_count: int, query_count: int, *, long_series: bool
) -> tuple[list[FindResult], list[FindResult]]:
    """Filmroom's results on a filled archive, and those of a repetition."""
    names = (*load_find.QUERIES, *([load_find.LONG_SERIES] if long_series else []))
    load = FindLoad(study_count=study_count, query_count=query_count, names=names)
    with peers.running("filmroom", parent=data.parent, data=data) as peer:
        return load_find.run(peer.target, load, peer.pid), load_find.run(peer.target, load, peer.pid)


def of_peer(name: str, parent: Path, study_count: int, query_count: int) -> list[FindResult]:
    """Fills a peer. Returns its results. Raises NotInstalled."""
    names = tuple(each for each in load_find.QUERIES if name == "filmroom" or each not in ONLY_FILMROOM)
    with peers.running(name, parent=parent) as peer:
        # dcmqrscp refuses instances if two associations store at once.
        association_count = 1 if name == "dcmqrscp" else 4
        filled = fill.run(peer.target, study_count=study_count, association_count=association_count, shape="single")
        say(f"{name}: {filled.instance_count} studies of one instance at {filled.instances_per_s:.0f}/s")
        return load_find.run(
            peer.target, FindLoad(study_count=study_count, query_count=query_count, names=names), peer.pid
        )


def table(results: dict[str, list[FindResult]]) -> str:
    """One row for each query: p50 and p99 of each server, in milliseconds."""
    by_query: dict[str, dict[str, FindResult]] = {}
    for label, of_server in results.items():
        for result in of_server:
            by_query.setdefault(result.query, {})[label] = result
    rows = []
    for query, of_label in by_query.items():
        row: list[object] = [query]
        for label in results:
            found = of_label.get(label)
            row.append("" if found is None else f"{found.latency.p50_ms:.2f} / {found.latency.p99_ms:.2f}")
        rows.append(row)
    return harness.table(("p50 / p99 ms of C-FIND by", *results), rows)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--archive", action="append", default=[], metavar="DIR:STUDIES")
    parser.add_argument("--peers", default="", help="filmroom,orthanc,dcmqrscp; each is filled first")
    parser.add_argument("--studies", type=int, default=5000, help="to fill a peer with")
    parser.add_argument("--queries", type=int, default=200, help="of each kind")
    parser.add_argument(
        "--long-series", action="store_true", help="the archives hold the series of perf.fill --long-series"
    )
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="where peers keep their data"
    )
    options = parser.parse_args(arguments)
    if options.smoke:
        options.studies, options.queries, options.peers = 20, 3, options.peers or "filmroom"
    results: dict[str, list[FindResult]] = {}
    for archive in options.archive:
        folder, _, number = archive.rpartition(":")
        if not number.isdigit():
            raise PerfError(f"{archive}: write an archive as DIR:STUDIES")
        label = f"filmroom, {int(number):,} studies of {Path(folder).name}"
        both = of_archive(Path(folder), int(number), options.queries, long_series=options.long_series)
        for each, found in zip((label, f"{label}, again"), both, strict=True):
            say(f"{each}\n{harness.table(load_find.HEADER, load_find.rows_of(found))}")
            results[each] = found
    for name in filter(None, options.peers.split(",")):
        study_count = min(options.studies, DCMQRSCP_STUDIES_MAX) if name == "dcmqrscp" else options.studies
        try:
            found = of_peer(name, options.directory, study_count, options.queries)
        except NotInstalled as error:
            say(f"{name}: {error}")
            continue
        say(harness.table(load_find.HEADER, load_find.rows_of(found)))
        results[f"{name}, {study_count:,} studies"] = found
    say(table(results))
    if options.json:
        document = {
            "machine": harness.machine_facts(options.directory),
            "smoke": options.smoke,
            "queries": {label: [asdict(result) for result in found] for label, found in results.items()},
        }
        harness.write_json(options.json, document)
    return 1 if any(result.failures for found in results.values() for result in found) else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
