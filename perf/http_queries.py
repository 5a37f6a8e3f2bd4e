"""Queries by HTTP of an archive that `perf.fill` has filled, as a table: what `perf.fhir` and `perf.web_queries` share.

Each row has one connection and asks for other values each time. All are asked once before: what a first look at a page
of the index costs is the disk's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from perf import harness, http_load, peers
from perf.harness import PerfError, say
from perf.http_load import HttpResult

HEADER = ("request", "answers", "p50 ms", "p99 ms", "bar", "CPU ms", "KB an answer", "failed")


def parser(text: str | None) -> argparse.ArgumentParser:
    """Options of such a program."""
    found = harness.parser(text)
    found.add_argument("--archive", required=True, metavar="DIR:STUDIES")
    found.add_argument("--queries", type=int, default=100, help="of each kind")
    return found


def archive_of(options: argparse.Namespace) -> tuple[Path, int, int]:
    """The folder, its number of studies, and how often to ask. Raises PerfError."""
    folder, _, number = options.archive.rpartition(":")
    if not number.isdigit():
        raise PerfError(f"{options.archive}: an archive is given as DIR:STUDIES")
    return Path(folder), int(number), 3 if options.smoke else options.queries


def run(
    data: Path,
    queries: Iterable[tuple[str, list[str]]],
    headers: Mapping[str, str],
    count: int,
    then: Callable[[int], None] = lambda _: None,
) -> dict[str, HttpResult]:
    """Latencies by name of a query. `then` gets the port of the server, when all were asked."""
    results = {}
    with peers.running("filmroom", parent=data.parent, data=data, http=True) as peer:
        for name, paths in queries:
            requests = [http_load.get(path, peer.http_port, dict(headers)) for path in paths]
            http_load.run(peer.http_port, requests, total=count)
            results[name] = http_load.run(peer.http_port, requests, total=count, server_pid=peer.pid)
        then(peer.http_port)
    return results


def show(
    results: Mapping[str, HttpResult],
    options: argparse.Namespace,
    data: Path,
    name: str,
    bars_ms: Mapping[str, float] | None = None,
) -> int:
    """Writes the table, and the document under a name; returns the exit code. `bars_ms`: what a median may take."""
    rows = [
        (
            query, result.request_count, f"{result.latency.p50_ms:.2f}", f"{result.latency.p99_ms:.2f}",
            (bars_ms or {}).get(query, ""), f"{result.server_cpu_ms:.2f}",
            f"{result.body_bytes / max(result.request_count, 1) / 1000:.1f}", result.failed_count,
        )
        for query, result in results.items()
    ]  # fmt: skip
    say(harness.table(HEADER, rows))
    if options.json:
        document = {
            "machine": harness.machine_facts(data),
            "smoke": options.smoke,
            name: {query: asdict(result) for query, result in results.items()},
        }
        harness.write_json(options.json, document)
    return 1 if any(result.failed_count for result in results.values()) else 0
