"""What nodes pay for agreeing in PostgreSQL: an append, the barrier, and how soon another node has a group.

    python -m perf.cluster --database "host=/run/postgresql dbname=perf"

The database gets the tables of Filmroom, and rows of an archive of its own, which are removed again. `select 1` is the
way there and back: a busy machine makes all of them slower alike, so read the figures as multiples of it. `visible` is
the moment at which a second node, which listens, has read a group: from the call of the append, which includes the
disk of the database, and from its return.
"""

from __future__ import annotations

import argparse
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from engine.cluster.cluster import Cluster
from engine.cluster.settings import ClusterSettings
from engine.storage.chain import Group
from engine.storage.segment_ids import segment_id_of
from perf import harness
from perf.harness import say

HEAD_BYTES = 738
"""The mean head of an instance (CT of the corpus)."""
SIZES = (1, 8, 32)
TERM_S = 600.0
TIMEOUT_S = 30.0

Percentiles = tuple[float, float]
"""p50 and p99 in milliseconds."""


def main(arguments: list[str] | None = None) -> int:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True, metavar="WORDS", help="of libpq, or an address")
    parser.add_argument("--rounds", type=int, default=1000, help="of each measurement")
    parser.add_argument("--smoke", action="store_true", help="tiny parameters: shows in a second or two that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    options = parser.parse_args(arguments)
    settings = ClusterSettings(database=options.database, node="perf", timeout_s=TIMEOUT_S)
    archive_id = uuid.uuid4().bytes
    with Cluster(settings, archive_id) as one, Cluster(settings, archive_id) as two:
        one.init()
        try:
            result = measure(one, two, 20 if options.smoke else options.rounds)
        finally:
            clean(one)
    for name, (p50, p99) in result.items():
        say(f"{name:14} p50 {p50:6.2f} ms, p99 {p99:6.2f} ms")
    if options.json:
        harness.write_json(options.json, {"cluster": result, "smoke": options.smoke})
    return 0


def measure(one: Cluster, two: Cluster, rounds: int) -> dict[str, Percentiles]:
    """p50 and p99 in milliseconds of each measurement."""
    slot, epoch = one.nodes.join("perf-1", "", TERM_S)
    two.nodes.join("perf-2", "", TERM_S)
    numbers = iter(range(1, 1 << 40))

    def append(size: int) -> None:
        number = next(numbers)
        group = Group(number, segment_id_of(slot, 1), 1, number * 1000, number * 1000 + 1000, False)
        one.chains.append(epoch, group, size, bytes(HEAD_BYTES) * size)

    result = {"select 1": timed(lambda: one.database.ask("select 1"), rounds)}
    result["barrier"] = timed(one.chains.positions, rounds)
    for size in SIZES:
        result[f"append {size}"] = timed(lambda size=size: append(size), rounds)
    result["select 1 again"] = timed(lambda: one.database.ask("select 1"), rounds)
    called, returned = visible(lambda: append(8), two, slot, min(rounds, 300))
    return result | {"visible": called, "visible after": returned}


def timed(call: Callable[[], object], rounds: int) -> Percentiles:
    """p50 and p99 of a call, in milliseconds, after ten that do not count."""
    for _ in range(10):
        call()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return percentiles(taken)


def visible(append: Callable[[], None], other: Cluster, slot: int, rounds: int) -> tuple[Percentiles, Percentiles]:
    """From the call, and from the return, of an append to the end of the reading at the other node."""
    has_read, is_heard = threading.Event(), threading.Event()
    read_at = [0.0]
    number = other.chains.positions()[slot]

    def follow() -> None:
        nonlocal number
        wake = other.wake()
        wake.wait(0)
        is_heard.set()
        while number < last:
            wake.wait(TIMEOUT_S)
            if groups := other.chains.after(slot, number):
                read_at[0] = time.perf_counter()
                number = groups[-1].group.number
                has_read.set()
        wake.close()

    last = number + rounds
    follower = threading.Thread(target=follow)
    follower.start()
    is_heard.wait()
    since_call, since_return = [], []
    for _ in range(rounds):
        has_read.clear()
        begun = time.perf_counter()
        append()
        ended = time.perf_counter()
        has_read.wait()
        since_call.append(read_at[0] - begun)
        since_return.append(max(0.0, read_at[0] - ended))
    follower.join()
    return percentiles(since_call), percentiles(since_return)


def percentiles(taken: list[float]) -> Percentiles:
    """p50 and p99 in milliseconds."""
    taken.sort()
    return taken[len(taken) // 2] * 1000, taken[int(len(taken) * 0.99)] * 1000


def clean(cluster: Cluster) -> None:
    """Removes the rows of the archive."""
    archive = uuid.UUID(bytes=cluster.archive_id)
    for table in ("leases", "feed", "chains", "nodes", "archives"):
        cluster.database.change(f"delete from filmroom.{table} where archive = %s", [archive])


if __name__ == "__main__":
    raise SystemExit(main())
