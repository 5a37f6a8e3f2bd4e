"""Power cuts under the whole server: what was acknowledged is there after the reboot, byte for byte.

The server runs on ext4 or XFS on a disk that keeps its word and no more (`fuse_disk`); the senders and their ledger are
outside. A history is a new disk and a few lives of the machine, each of which ends with a cut at a write or flush
drawn from a seed: in ingest, while segments roll, at checkpoints, in the first start, in a start after a cut, in the
orderly end, in deletion and compaction. After each the image is mounted again, with the file system's own journal
recovery, and the server must start, find and serve every acknowledged instance of the history and take new ones.

FILMROOM_FUSE_ROUNDS: cuts a file system (CI: a few; 70 for the long run of 210). FILMROOM_FUSE_SEED: another history;
a failure names the one to run again. The control, where fdatasync does nothing, must lose.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import samples
from tests.faults.machine import Machine
from tests.system import ingest, mounts
from tests.system.server import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

ROUNDS = int(os.environ.get("FILMROOM_FUSE_ROUNDS", "3"))
SEED = int(os.environ.get("FILMROOM_FUSE_SEED", "20260301"))

LIVES_MAX = 5
"""Cuts that one disk goes through."""
SENDERS = 3

DISKS = {"ext4": ("ext4", "rw"), "ext4-commit-1": ("ext4", "commit=1"), "xfs": ("xfs", "rw")}

CONFIG = """
write_behind_sync_s = {}
[limits]
disk_reserve_bytes = 0
stream_threshold_bytes = {}
[storage]
segment_bytes = {}
prewrite_bytes = {}
"""
PLAIN = CONFIG.format(1.0, 1 << 20, 8 << 20, 0)

COMPACTION = "[compaction]\ninterval_s = 0.1\ndead_share_min = 0.01\nsmall_segments_min = 2\n"

KINDS = ("ingest", "start", "roll", "checkpoint", "end", "delete", "compact")


@dataclass
class Life:
    """What is drawn for one life of the machine."""

    kind: str
    config: str
    acknowledged: int
    """How many acknowledgements to wait for before the cut is set up; none for a cut in the start."""
    cut_at: tuple[str, int]
    """Right before the n-th of these."""
    sector_bytes: int
    seed: int

    @classmethod
    def draw(cls, rng: random.Random, kind: str) -> Life:
        """By the seed."""
        sync_s = 0.02 if kind == "checkpoint" else rng.choice((0.1, 1.0))
        segment_bytes = 1 << 20 if kind == "roll" else rng.choice((1 << 20, 8 << 20, 64 << 20))
        config = CONFIG.format(sync_s, rng.choice((128 << 10, 1 << 20)), segment_bytes, rng.choice((0, 0, 4 << 20)))
        if kind == "compact":
            config += COMPACTION
        what = rng.choice(("writes", "flushes"))
        # A start makes some 20 to 40 writes and flushes, an acknowledged group 1 to 4.
        reach = {"start": 60, "end": 12, "compact": 60}.get(kind, 25)
        return cls(
            kind,
            config,
            rng.randint(1, 60),
            (what, rng.randint(1, reach)),
            rng.choice((512, 4096)),
            rng.getrandbits(32),
        )


@dataclass
class History:
    """A disk, what it lived through, and what must be on it."""

    machine: Machine
    ledger: ingest.Ledger = field(default_factory=ingest.Ledger)
    lives: list[str] = field(default_factory=list)

    def live(self, life: Life) -> None:
        """From one boot to the cut."""
        self.lives.append(f"{life.kind} {life.cut_at} {life.sector_bytes}")
        disk = self.machine.boot()
        if life.kind == "start":
            disk.arm(*life.cut_at, life.seed, life.sector_bytes)
        server = self.machine.serve(life.config, await_ready=life.kind != "start")
        try:
            if life.kind == "start":
                wait_for(lambda: server.is_ready_within(0.02) or not disk.state().is_on, what="ready or cut")
                if not server.port:
                    return
            else:
                self.ledger.verify(server.port)
            self._store_until_cut(life)
        except BaseException as error:
            error.add_note(f"disk: {self.machine.state()}\n" + "".join(server.log[-40:]))
            raise
        finally:
            self.machine.power_off()

    def _store_until_cut(self, life: Life) -> None:
        rng = random.Random(life.seed)
        server, disk = self.machine.server, self.machine.disk
        assert server is not None
        assert disk is not None
        study = ingest.study_number(len(self.lives))
        reached = threading.Event()
        limit = len(self.ledger.acknowledged) + life.acknowledged
        senders = ingest.start_senders(
            server.port, self.ledger, study, SENDERS, lambda count: reached.set() if count >= limit else None
        )
        if life.kind != "start":
            wait_for(lambda: reached.is_set() or not any(map(threading.Thread.is_alive, senders)), 60, "enough stored")
            assert reached.is_set(), "the senders lost their server\n" + "".join(server.log[-40:])
            if life.kind == "compact":
                self._delete(rng)
            disk.arm(*life.cut_at, life.seed, life.sector_bytes)
        if life.kind in ("delete", "compact"):
            self._delete(rng)
            self.machine.run("compact", "--all")
        if life.kind == "end":
            for sender in senders:
                sender.stop()
            for sender in senders:
                sender.join()
            server.process.terminate()
            wait_for(lambda: server.process.poll() is not None or not disk.state().is_on, 60, "the end or the cut")
        else:
            wait_for(lambda: not disk.state().is_on, 60, "the cut")
        disk.cut(life.seed, life.sector_bytes)
        self.machine.power_off()
        for sender in senders:
            sender.join()

    def _delete(self, rng: random.Random) -> None:
        """One of the studies of earlier lives, or of this one while it grows."""
        study = rng.choice(sorted(self.ledger.studies - self.ledger.deleting) or [ingest.study_number(0)])
        self.ledger.deleting.add(study)
        uid = f"{samples.ROOT}.{study}"
        done = self.machine.run("delete", "--study", uid, "--reason", "a cut", "--yes")
        self.lives[-1] += f" deletion {study} {done}"
        # What is sent to the study after its deletion stays, so nothing is sure of the one that is being sent.
        if done and study != ingest.study_number(len(self.lives)):
            self.ledger.deleted.add(study)

    def conclude(self) -> None:
        """The last boot: everything is there, and the machine works."""
        self.machine.boot()
        try:
            server = self.machine.serve(PLAIN)
            self.ledger.verify(server.port)
            study = ingest.study_number(999)
            sender = ingest.Sender(server.port, self.ledger, study, range(3))
            sender.start()
            sender.join()
            assert not sender.lost
            self.ledger.verify(server.port, studies={study})
            assert server.stop() == 0
            self.machine.server = None
            self.machine.check()
        finally:
            self.machine.power_off()


def lives_of(seed: int, count: int) -> Iterator[Life]:
    """The lives of one history; every third begins with a cut in the very first start."""
    rng = random.Random(seed)
    for number in range(count):
        first = "start" if seed % 3 == 0 and number == 0 else rng.choice(KINDS)
        yield Life.draw(rng, first)


def run_history(folder: Path, disk: str, seed: int, cuts: int, **options: object) -> History:
    """A whole history; a failure says how to see it again."""
    file_system, mount_options = DISKS[disk]
    history = History(Machine(folder, file_system, mount_options, **options))  # type: ignore[arg-type]
    history.machine.install()
    try:
        for life in lives_of(seed, cuts):
            history.live(life)
        history.conclude()
    except BaseException as error:
        error.add_note(
            f"lives: {history.lives}\nagain: FILMROOM_FUSE_SEED={seed} FILMROOM_FUSE_ROUNDS={cuts} "
            f"pytest tests/faults/test_power_cut_fuse.py -k 'acknowledged and {disk}-'"
        )
        raise
    finally:
        history.machine.power_off()
        (folder / "image").unlink(missing_ok=True)
    return history


def needs(file_system: str) -> None:
    """Skips where the rig cannot be set up."""
    missing = mounts.missing_for(file_system, fuse=True)
    if missing:
        pytest.skip(missing)


@pytest.mark.parametrize("disk", DISKS, ids=[f"{disk}-" for disk in DISKS])
def test_every_acknowledged_instance_survives_every_power_cut(tmp_path: Path, disk: str) -> None:
    needs(DISKS[disk][0])
    left, seed = ROUNDS, SEED
    while left:
        cuts = min(left, LIVES_MAX)
        run_history(tmp_path, disk, seed, cuts)
        left -= cuts
        seed += 1


NO_SYNC = """
int fsync(int fd) { return 0; }
int fdatasync(int fd) { return 0; }
int sync_file_range(int fd, long offset, long count, unsigned flags) { return 0; }
"""


def test_a_server_whose_fdatasync_does_nothing_loses(tmp_path: Path) -> None:
    needs("ext4")
    shim = tmp_path / "no_sync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-xc", "-o", str(shim), "-"], input=NO_SYNC, text=True, check=True)
    history = History(Machine(tmp_path, "ext4", environment={"LD_PRELOAD": str(shim)}))
    history.machine.install()
    life = Life("ingest", PLAIN, 40, ("writes", 1), 4096, SEED)
    try:
        history.live(life)
        assert len(history.ledger.acknowledged) >= 40
        with pytest.raises(AssertionError):
            history.conclude()
    finally:
        history.machine.power_off()
