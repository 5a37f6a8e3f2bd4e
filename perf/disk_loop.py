"""The upper limit of the disk: writes the bytes of instances to one file, with one fdatasync for each group.

    python -m perf.disk_loop --directory /var/lib/filmroom --instances 400 --group 8

Three variants: `append` grows the file, `preallocated` writes into blocks that fallocate has reserved, `prewritten`
overwrites old contents. Each instance is one pwrite of half a megabyte, so the cost of the interpreter is negligible.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, harness
from perf.harness import Latencies, say

VARIANTS = ("append", "preallocated", "prewritten")


@dataclass(frozen=True, slots=True)
class DiskResult:
    variant: str
    instances_per_s: float
    megabytes_per_s: float
    group: Latencies
    """Time of one group: its writes and its fdatasync."""
    check: int
    """Bytes found in the file afterwards."""


def run(
    directory: Path, variant: str, *, instance_count: int = 400, group: int = 8, template: str = "ct"
) -> DiskResult:
    data = corpus.template(template).data_set
    size = len(data)
    descriptor, path = tempfile.mkstemp(prefix="perf-disk-", dir=directory)
    try:
        if variant == "preallocated":
            os.posix_fallocate(descriptor, 0, size * instance_count)
        elif variant == "prewritten":
            for index in range(instance_count):
                os.pwrite(descriptor, data, index * size)
        os.fsync(descriptor)
        groups_ns = []
        started_ns = time.perf_counter_ns()
        for first in range(0, instance_count, group):
            group_ns = time.perf_counter_ns()
            for index in range(first, min(first + group, instance_count)):
                os.pwrite(descriptor, data, index * size)
            os.fdatasync(descriptor)
            groups_ns.append(time.perf_counter_ns() - group_ns)
        elapsed_s = (time.perf_counter_ns() - started_ns) / 1e9
        return DiskResult(
            variant=variant,
            instances_per_s=round(instance_count / elapsed_s, 1),
            megabytes_per_s=round(instance_count * size / elapsed_s / 1e6, 1),
            group=Latencies.of(groups_ns),
            check=os.fstat(descriptor).st_size,
        )
    finally:
        os.close(descriptor)
        os.unlink(path)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure"
    )
    parser.add_argument("--instances", type=int, default=400)
    parser.add_argument("--group", type=int, default=8, help="instances for each fdatasync")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.instances = 16
    results = [
        run(options.directory, variant, instance_count=options.instances, group=options.group) for variant in VARIANTS
    ]
    rows = [[r.variant, f"{r.instances_per_s:.0f}", f"{r.megabytes_per_s:.0f}", str(r.group)] for r in results]
    say(harness.table(("file", "instances/s", "MB/s", f"group of {options.group}"), rows))
    if options.json:
        harness.write_json(options.json, {"disk_loop": [asdict(r) for r in results], "smoke": options.smoke})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
