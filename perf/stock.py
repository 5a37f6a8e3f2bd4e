"""A stock sender: DCMTK's storescu with its defaults, Nagle's algorithm on, sending small instances.

    python -m perf.stock --port 11112
    python -m perf.stock --peer orthanc --instances 100

Most modalities send like this: command and data set in separate writes, the second held back until the first has been
acknowledged. The time is that of the whole process; sender and server have no TCP_NODELAY in their environment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from perf import corpus, harness, peers, population, wire
from perf.association import Target
from perf.harness import NotInstalled, PerfError, say

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class StockResult:
    instances_per_s: float
    megabytes_per_s: float
    elapsed_s: float
    server_cpu_ms: float
    """User + system time of the server's processes, an instance; 0 if no process was named."""
    sent_count: int
    failed_count: int


def environment(*, nodelay: bool = False) -> dict[str, str]:
    """The environment of a process whose DCMTK has Nagle's algorithm on, its default, or off."""
    plain = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    return plain | ({"TCP_NODELAY": "1"} if nodelay else {})


def storescu() -> str:
    """The path of DCMTK's storescu; pynetdicom's program of that name comes first in an activated environment."""
    for folder in ("/usr/bin", "/usr/local/bin", *os.environ.get("PATH", "").split(":")):
        found = shutil.which("storescu", path=folder)
        if found:
            said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            if "dcmtk" in said.stdout + said.stderr:
                return found
    raise NotInstalled("DCMTK's storescu is not installed")


def write_files(folder: Path, count: int, template: str = "tiny", first_study: int = 900_000) -> int:
    """Writes `count` instances of one series as Part 10 files. Returns the bytes of all data sets."""
    made = corpus.template(template)
    message = wire.StoreMessage(made, 1, 131072)
    message.set_study(population.plain_study(first_study, "CT", (count,)))
    message.set_series(corpus.series_uid(first_study, 1), 1)
    for number in range(1, count + 1):
        message.set_instance(number, 1)
        meta = b"".join(_meta(made.sop_class_uid, corpus.instance_uid(first_study, 1, number)))
        length = corpus.element_bytes(0x00020000, b"UL", struct.pack("<I", len(meta)))
        (folder / f"{number:05}.dcm").write_bytes(bytes(128) + b"DICM" + length + meta + message.data_set())
    return count * len(made.data_set)


def _meta(sop_class_uid: bytes, sop_instance_uid: bytes) -> Iterator[bytes]:
    yield corpus.element_bytes(0x00020001, b"OB", b"\0\1")
    for tag, uid in (
        (0x00020002, sop_class_uid),
        (0x00020003, sop_instance_uid),
        (0x00020010, corpus.EXPLICIT_LITTLE_ENDIAN),
        (0x00020012, b"1.2.826.0.1.3680043.10.1599.9.2"),
    ):
        yield corpus.element_bytes(tag, b"UI", uid + b"\0" * (len(uid) % 2))


def run(
    target: Target, count: int, *, template: str = "tiny", nodelay: bool = False, server_pid: int = 0
) -> StockResult:
    """Sends `count` instances; raises PerfError if storescu fails."""
    program = storescu()
    with tempfile.TemporaryDirectory(prefix="perf-stock-") as name:
        size = write_files(Path(name), count, template)
        command = [program, "-aet", target.calling_aet, "-aec", target.called_aet, "-v", "+sd"]
        cpu_before = harness.cpu_s(server_pid) if server_pid else 0.0
        started = time.perf_counter()
        done = subprocess.run(
            [*command, target.host, str(target.port), name],
            env=environment(nodelay=nodelay),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
        elapsed_s = time.perf_counter() - started
        cpu_s = harness.cpu_s(server_pid) - cpu_before if server_pid else 0.0
    said = done.stdout + done.stderr
    stored = said.count("Received Store Response (Success)")
    if done.returncode and not stored:
        raise PerfError(f"storescu ended with {done.returncode}: {said[-500:]}")
    return StockResult(
        instances_per_s=round(stored / elapsed_s, 1),
        megabytes_per_s=round(size * stored / count / elapsed_s / 1e6, 2),
        elapsed_s=round(elapsed_s, 3),
        server_cpu_ms=round(cpu_s * 1000 / count, 4),
        sent_count=count,
        failed_count=count - stored,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    harness.target_options(parser)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--template", default="tiny", help="ct, mr, tiny or tiny-<modality>")
    parser.add_argument("--nodelay", action="store_true", help="the sender with TCP_NODELAY=1: its upper limit")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.instances = 10

    def measure(target: Target, server_pid: int) -> int:
        result = run(
            target, options.instances, template=options.template, nodelay=options.nodelay, server_pid=server_pid
        )
        return _report(options, result)

    return peers.with_target(options, measure, stock=True)


def _report(options: argparse.Namespace, result: StockResult) -> int:
    say(f"{result.sent_count} instances in {result.elapsed_s:.2f} s, {result.instances_per_s:.0f} instances/s")
    say(f"server CPU {result.server_cpu_ms:.3f} ms an instance; {result.failed_count} failed")
    if options.json:
        harness.write_json(options.json, {"stock": asdict(result), "smoke": options.smoke})
    return 1 if result.failed_count else 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
