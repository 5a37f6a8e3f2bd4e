"""The life cycle of data: the cost of deletion, compaction and backup, and their effect on concurrent ingest.

    python -m perf.life --instances 4000 --directory /var/tmp

One server, controlled by its command line like an administrator's. CT instances in studies of a hundred; then:

    backup     a full one, one per cent more instances, an incremental one: bytes copied by the second and the first
    deletion   every second study, one command each; and one study of 5 000 small instances: time of the deletion itself
    ingest     the same load alone and beside a compaction, in turn
    compaction of the half-empty segments: bytes of segments before and after
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from perf import corpus, harness, load_store, peers
from perf.harness import ROOT, PerfError, median, say
from perf.load_store import StoreLoad
from perf.peers import Peer

STUDY_INSTANCES = 100
SMALL_STUDY = 700_000_000
MORE_STUDY = 710_000_000
LOAD_STUDY = 720_000_000
SEGMENT_BYTES = 128 << 20


@dataclass(slots=True)
class LifeResult:
    """Every figure of one run."""

    backup_full_bytes: int = 0
    backup_more_bytes: int = 0
    backup_share: float = 0.0
    """Bytes of the second backup divided by those of the first."""
    more_share: float = 0.0
    """Instances stored between the backups, divided by those before."""
    delete_small_ms: float = 0.0
    """Time for one study of `small_count` instances, without the start of the command."""
    small_count: int = 0
    deleted_studies: int = 0
    segment_bytes_before: int = 0
    segment_bytes_after: int = 0
    given_back: float = 0.0
    ingest_alone: list[float] = field(default_factory=list)
    ingest_during: list[float] = field(default_factory=list)
    ingest_ratio: float = 0.0
    compactions: int = 0
    """Number of rounds in which compaction still ran when the load ended."""


def filmroom(peer: Peer, *arguments: str) -> dict[str, object]:
    """Runs a command on the server's archive. Returns the last line of its JSON. Raises PerfError."""
    done = subprocess.run(
        [sys.executable, "-m", "engine", *arguments, "--data", str(peer.data), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PerfError(f"filmroom {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    answer: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def settled_bytes(peer: Peer) -> int:
    """Bytes of the segments on the disk, after a stop, which frees preallocated space, and a new start."""
    peer.stop()
    taken = sum(path.stat().st_blocks * 512 for path in (peer.data / "segments").iterdir())
    peer.start()
    return taken


def number(answer: dict[str, object], name: str) -> float:
    """A figure from a command's answer."""
    value = answer.get(name)
    if not isinstance(value, int | float):
        raise PerfError(f"the answer has no figure {name}: {answer}")
    return float(value)


def store(peer: Peer, first_study: int, instance_count: int, *, template: str = "ct", associations: int = 8) -> float:
    """Stores `instance_count` instances. Returns instances a second."""
    load = StoreLoad(
        template=template,
        association_count=associations,
        instance_count=max(instance_count // associations, 1),
        series_instance_count=STUDY_INSTANCES,
        warm_up_count=0,
        first_study=first_study,
    )
    result = load_store.run(peer.target, load, server_pid=peer.pid)
    if result.failed_count:
        raise PerfError(f"{result.failed_count} instances were refused: {result.failures}")
    return result.instances_per_s


def run(
    peer: Peer, backup: Path, *, instance_count: int, small_count: int, load_count: int, round_count: int
) -> LifeResult:
    """Measures everything, beginning with an empty server."""
    result = LifeResult(small_count=small_count)
    say(f"storing {instance_count} CT instances")
    store(peer, 1, instance_count)
    _back_up(peer, backup, result, instance_count)
    _delete(peer, result, instance_count, small_count)
    result.segment_bytes_before = settled_bytes(peer)
    _compact(peer, result, load_count, round_count)
    return result


def _back_up(peer: Peer, backup: Path, result: LifeResult, instance_count: int) -> None:
    result.backup_full_bytes = int(number(filmroom(peer, "backup", str(backup)), "copied_bytes"))
    more_count = max(instance_count // 100, 1)
    store(peer, MORE_STUDY, more_count, associations=1)
    result.backup_more_bytes = int(number(filmroom(peer, "backup", str(backup)), "copied_bytes"))
    result.backup_share = result.backup_more_bytes / result.backup_full_bytes
    result.more_share = more_count / instance_count
    say(f"backup: {result.backup_share:.2%} of the full one for {result.more_share:.2%} more instances")


def _delete(peer: Peer, result: LifeResult, instance_count: int, small_count: int) -> None:
    load = StoreLoad("tiny-ct", 1, small_count, series_instance_count=small_count, warm_up_count=0)
    load_store.run(peer.target, StoreLoad(**{**asdict(load), "first_study": SMALL_STUDY}))
    answer = filmroom(peer, "delete", "--study", corpus.study_uid(SMALL_STUDY + 1).decode(), *_WHY)
    result.delete_small_ms = number(answer, "took_ms")
    say(f"deletion of a study of {small_count}: {result.delete_small_ms:.1f} ms")
    per_association = instance_count // 8
    studies = [
        1 + association * (1 + -(-per_association // STUDY_INSTANCES)) + 1 + at
        for association in range(8)
        for at in range(-(-per_association // STUDY_INSTANCES))
    ]
    for study in studies[::2]:
        filmroom(peer, "delete", "--study", corpus.study_uid(study).decode(), *_WHY)
    result.deleted_studies = len(studies[::2])


_WHY = ("--reason", "perf.life", "--yes")


def _compact(peer: Peer, result: LifeResult, load_count: int, round_count: int) -> None:
    """In turn: the load alone, the load beside a compaction at its usual rate; then the rest of it at full speed."""
    for turn in range(round_count):
        first_study = LOAD_STUDY + turn * 2000
        result.ingest_alone.append(store(peer, first_study, load_count))
        with subprocess.Popen(
            [sys.executable, "-m", "engine", "compact", "--data", str(peer.data), "--json"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as compaction:
            _until_copying(peer, compaction)
            result.ingest_during.append(store(peer, first_study + 1000, load_count))
            result.compactions += compaction.poll() is None
            compaction.terminate()
    filmroom(peer, "compact", "--all")
    # Exclude the segments of the loads, which compaction should not free.
    stored_bytes = 2 * round_count * (load_count // 8) * 8 * len(corpus.template("ct").data_set)
    result.segment_bytes_after = settled_bytes(peer) - stored_bytes
    result.given_back = 1 - result.segment_bytes_after / result.segment_bytes_before
    pairs = zip(result.ingest_during, result.ingest_alone, strict=True)
    result.ingest_ratio = median([during / alone for during, alone in pairs])
    say(f"compaction: {result.given_back:.1%} given back; ingest at {result.ingest_ratio:.1%} meanwhile")


def _until_copying(peer: Peer, compaction: subprocess.Popen[bytes]) -> None:
    """Waits until compaction has its own segment, or nothing to do."""
    before = set((peer.data / "segments").iterdir())
    pause = threading.Event()
    while compaction.poll() is None and set((peer.data / "segments").iterdir()) <= before:
        pause.wait(0.01)


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to measure"
    )
    parser.add_argument("--instances", type=int, default=4000, help="CT instances at the beginning")
    parser.add_argument("--small", type=int, default=5000, help="instances of the study that is deleted at once")
    parser.add_argument("--load", type=int, default=2000, help="instances of a load beside compaction")
    parser.add_argument("--rounds", type=int, default=5, help="loads alone and beside compaction")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.instances, options.small, options.load, options.rounds = 160, 50, 16, 1
    backup = Path(tempfile.mkdtemp(prefix="perf-backup-", dir=options.directory))
    config = f"[storage]\nsegment_bytes = {SEGMENT_BYTES}\nprewrite_bytes = 0\n[compaction]\nenabled = false\n"
    try:
        with peers.running("filmroom", parent=options.directory, config=config) as peer:
            result = run(
                peer,
                backup / "to",
                instance_count=options.instances,
                small_count=options.small,
                load_count=options.load,
                round_count=options.rounds,
            )
    finally:
        shutil.rmtree(backup, ignore_errors=True)
    rows = [[name, value] for name, value in asdict(result).items()]
    say(harness.table(("figure", "value"), rows))
    if options.json:
        facts = harness.machine_facts(options.directory)
        harness.write_json(options.json, {"life": asdict(result), "machine": facts, "smoke": options.smoke})
    return 0


if __name__ == "__main__":
    raise SystemExit(harness.guarded(main))
