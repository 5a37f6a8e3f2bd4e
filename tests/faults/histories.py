"""Random histories of a whole archive on a disk that forgets, and what must be true after every fault.

    python -m tests.faults.histories --states 10000        a long run; prints one line of JSON
    FILMROOM_FAULTS_SEED=7 pytest tests/faults/test_histories.py -k random

A history is a seed. Steps are `operations`; now and then the power goes at some call in the middle of one, everything
is killed, a call fails with EIO, ENOSPC or EMFILE, or a stored bit turns over. After each fault the archive is started
again (that start may be hit too) and examined: check, every UID that was ever sent by look-up and by query, every byte;
a new instance is taken; and one more start, or an index made anew from the log, changes nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from engine.archive import rebuilding, verify
from engine.archive.lifecycle import correction
from engine.errors import CorruptRecord, EngineError, StorageFailed, TornTail
from engine.index.format.entry import Tombstone
from engine.storage.record import Kind, Record
from engine.storage.segment import list_segments, scan, segment_path
from engine.storage.segment_bytes import FileBytes
from tests.faults import administration as administration
from tests.faults.model import Broken, Model, Shown, Standing
from tests.faults.operations import Import, Operation, Scene, check, listed
from tests.faults.world import World
from tests.faulty_files import READS, PowerCut

STEPS = 30
INSTANCE, TOMBSTONE = Kind.INSTANCE, Kind.TOMBSTONE
LEDGER = (Kind.TOMBSTONE, Kind.HOLD, Kind.CORRECTION, Kind.TRASH)


@dataclass
class Tally:
    """What a run has been through."""

    states: int = 0
    """Crash states that an archive was started from and examined."""
    faults: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.states += other.states
        self.faults += other.faults
        self.operations += other.operations


class History:
    """One archive's life, from one seed."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        steps: int = STEPS,
        flips: bool = False,
        prepared: Callable[[World], None] | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.steps = steps
        self.flips = flips
        self.tally = Tally()
        prewrite_bytes = self.rng.choice((0, 0, 8192))
        self.world = World(folder, segment_bytes=self.rng.choice((12_000, 40_000)), prewrite_bytes=prewrite_bytes)
        self.scene = Scene(self.world, Model(), self.rng)
        self.prepared = prepared
        self.workers = self.rng.choice((0, 1, 2))

    def run(self) -> Tally:
        """Raises Broken, with how to replay it, at the first promise that is not kept."""
        try:
            with self.world:
                if self.prepared is not None:
                    self.prepared(self.world)
                self._start()
                for _ in range(self.steps):
                    self._step()
                self._fault("power cut")
        except Exception as error:
            did = "\n  ".join(self.scene.did[-12:])
            raise Broken(f"seed {self.seed}: {error!r}\n  {did}\n{replay(self.seed)}") from error
        return self.tally

    # -- steps ----------------------------------------------------------------------------------

    def _step(self) -> None:
        rng = self.rng
        odd = rng.random()
        if odd < 0.10:
            self._armed_step("cut")
        elif odd < 0.13:
            self._armed_step("EIO")
        elif odd < 0.16:
            self._armed_step(rng.choice(("ENOSPC", "short")))
        elif odd < 0.18:
            self._armed_step("EMFILE")
        elif odd < 0.21:
            self._fault(rng.choice(("power cut", "kill", "restart")))
        elif self.flips and odd < 0.25:
            self._flip()
        else:
            self._operate()

    def _operate(self) -> None:
        scene = self.scene
        able = [operation for operation in Operation.every if operation().can_run(scene)]
        chosen = self.rng.choices(able, [operation.weight for operation in able])[0]
        scene.did.append(chosen.__name__)
        self.tally.operations[chosen.__name__] += 1
        chosen().run(scene)

    def _armed_step(self, kind: str) -> None:
        """Something goes wrong within the next operation, or one that follows soon."""
        disk = self.world.disk
        ahead = self.rng.choice((1, 2, 3, 5, 8, 13, 21))
        if kind == "cut":
            disk.cut_at = disk.calls + ahead
        else:
            disk.fail_at(disk.calls_all + ahead, kind)
        failed: Exception | None = None
        try:
            for _ in range(3):
                self._operate()
                if disk.fault_hit:
                    break
        except PowerCut:
            self.scene.did.append(f"the power went at call {disk.calls}")
            self._fault("power cut")
            return
        except (EngineError, OSError) as error:
            failed = error
        disk.cut_at = 0
        disk.make_room()
        if failed is not None or (kind == "EIO" and disk.fault_hit):
            self._failed(kind, failed)

    def _failed(self, kind: str, error: Exception | None) -> None:
        """An operation ended with an error, or an EIO went by."""
        world = self.world
        self.scene.did.append(f"{kind} at {world.disk.fault_hit or 'no call'}: {error!r}")
        self.tally.faults[kind] += 1
        if not world.disk.fault_hit:
            raise Broken(f"an error without a fault: {error!r}")
        if kind == "EIO":
            self.excuse_unsynced(self.scene)
            # The process ends, in order, as a server does.
            try:
                world.stop()
            except (EngineError, OSError):
                pass
            if world.disk.violations:
                raise Broken(world.disk.violations[0])
            self._fault(self.rng.choice(("power cut", "kill")), loses=True)
            return
        if isinstance(error, StorageFailed):
            raise Broken(f"{kind} was taken for a broken disk: {error!r}")
        # Room has come: no restart, and the next instances are taken.
        self.workers_must_live()
        self._takes_a_new_one()

    def workers_must_live(self) -> None:
        for worker in self.world.workers:
            if worker.failed is not None:
                raise Broken(f"{worker.name} has ended for want of room: {worker.failed!r}")

    @staticmethod
    def excuse_unsynced(scene: Scene) -> None:
        """A sync failed: what was written behind may be gone, and its bytes with it; it must not be wrong."""
        model = scene.model
        method, _, path = scene.world.disk.fault_hit.partition(" ")
        if method in READS:
            # Noted as damage in the index, until a scrub or a re-send says otherwise.
            model.damaged_places.add(Path(path).stem)
        unsynced = {uid for uid, events in model.events.items() if any(e.standing == Standing.BEHIND for e in events)}
        if method == "fdatasync" and unsynced:
            model.damaged |= unsynced
            model.damaged_places.add(Path(path).stem)

    # -- faults ---------------------------------------------------------------------------------

    def _fault(self, kind: str, *, loses: bool = False) -> None:
        """`loses`: what was not synced may be gone, whatever happened since."""
        world = self.world
        self.tally.faults[kind] += 1
        self.scene.did.append(kind)
        lost_power = loses or kind == "power cut"
        if kind == "restart":
            world.stop()
            world.kill()
        elif kind == "kill":
            world.kill()
        else:
            world.power_cut(self.rng.randrange(1 << 30))
        # The way up may be cut off as well.
        for _ in range(3):
            if self.rng.random() > 0.25:
                break
            world.disk.cut_at = self.rng.choice((1, 2, 4, 8, 12, 16, 24, 32))
            try:
                self._start()
            except PowerCut:
                self.scene.did.append(f"the power went at call {world.disk.calls} of the start")
            self.tally.faults["power cut at start"] += 1
            self.tally.states += 1
            lost_power = True
            world.power_cut(self.rng.randrange(1 << 30))
        self._start()
        self.tally.states += 1
        self._examine(lost_power)

    def _start(self) -> None:
        self.world.start(self.workers)

    def _examine(self, lost_power: bool) -> None:
        scene = self.scene
        check(scene)
        shown = settle(scene, lost_power=lost_power)
        self._takes_a_new_one()
        way = self.rng.random()
        if way < 0.4:
            self.world.restart(cleanly=True, workers=self.workers)
        elif way < 0.6:
            self.world.restart(cleanly=False, workers=self.workers)
        elif way < 0.7:
            self._rebuild()
        else:
            return
        again = settle(scene, lost_power=False)
        for uid, before in shown.items():
            if again.get(uid) != before and uid not in scene.model.damaged:
                raise Broken(f"{uid}: a second start shows {again.get(uid)} and no longer {before}")
        check(scene)

    def _rebuild(self) -> None:
        """The index is made again from the log, and says the same; though a segment of the ledger is lost with it."""
        world = self.world
        self.scene.did.append("rebuild")
        world.stop()
        data = Path(world.disk.root) / world.disk.data
        if self.rng.random() < 0.5:
            self._lose_ledger_segment(data / "segments")
        rebuilding.rebuild_index(data, files=world.disk)
        world.kill()
        world.start(self.workers)

    def _lose_ledger_segment(self, segments: Path) -> None:
        """A sealed segment with nothing but tombstones, holds and corrections becomes zeros."""
        disk = self.world.disk
        able = []
        for segment_id in list_segments(str(segments), disk):
            path = segment_path(str(segments), segment_id)
            records = _records(self.world, path, segment_id)
            if records and all(record.kind in LEDGER for record in records):
                able.append((segment_id, path))
        if not able:
            return
        segment_id, path = self.rng.choice(able)
        fd = disk.open(path, os.O_RDWR)
        disk.pwritev(fd, [bytes(disk.size(fd))], 0)
        disk.fdatasync(fd)
        disk.close(fd)
        self.scene.model.damaged_places.add(f"{segment_id:016x}")
        self.scene.did.append(f"segment {segment_id:016x} of the ledger becomes zeros")
        self.tally.faults["ledger segment"] += 1

    def _takes_a_new_one(self) -> None:
        self.scene.did.append("a new instance")
        uid, data = self.scene.pick_new()
        Import.store(self.scene, {uid: data}, "keep-first")

    def _flip(self) -> None:
        """A bit of a record that lies safely on the platter turns over: it is reported, and never served."""
        scene = self.scene
        world = self.world
        names = sorted(
            path for path, file in world.disk.files() if path.endswith(".seg") and "/data/" in path and file.durable
        )
        if not names:
            return
        path = f"{world.disk.root}/{self.rng.choice(names)}"
        segment_id = int(Path(path).stem, 16)
        records = [record for record in _records(world, path, segment_id) if record.kind in (INSTANCE, TOMBSTONE)]
        if not records:
            return
        record = self.rng.choice(records)
        position = record.position
        offset = self.rng.randrange(position.offset, position.payload_offset + position.payload_length)
        world.disk.flip(path, offset, self.rng.randrange(8))
        uids = [record.key] if record.kind == INSTANCE else Tombstone.unpack(record).sop_instance_uids
        scene.model.damaged |= {uid.decode() for uid in uids}
        scene.model.damaged_places.add(Path(path).stem)
        where = f"{Path(path).stem} at {offset}, in the record of {record.key.decode()[-8:]}"
        scene.did.append(f"a bit turns over in {where}")
        self.tally.faults["bit"] += 1
        current = world.keeper.parts.index.locate(record.key)
        if record.kind != INSTANCE or current is None or current.position != position:
            return
        report = verify.check(world.keeper, payloads=True)
        if not any(finding.segment_id == segment_id for finding in report.findings):
            raise Broken("a check does not see the damage")
        if offset >= position.payload_offset:
            try:
                world.keeper.read(current)
            except CorruptRecord:
                return
            raise Broken("damaged bytes are served")


def _records(world: World, path: str, segment_id: int) -> list[Record]:
    """The records of a segment that lie on the platter as they were written."""
    disk = world.disk
    fd = disk.open(path, os.O_RDONLY)
    try:
        found = list(scan(FileBytes(disk, fd), segment_id, 0, verify_payload=True))
        durable = disk.durable(path)
        return [
            record
            for record in found
            if durable[record.position.offset : record.position.end]
            == disk.pread(fd, record.position.record_bytes, record.position.offset)
        ]
    except (CorruptRecord, TornTail):
        return []  # damaged before
    finally:
        disk.close(fd)


def settle(scene: Scene, *, lost_power: bool) -> dict[str, Shown]:
    """Compares everything that was ever sent with what the archive shows; the model is wiser afterwards."""
    archive = scene.world.keeper
    model = scene.model
    shown: dict[str, Shown] = {}
    for uid in list(model.events):
        if uid in model.damaged:
            _must_not_be_wrong(scene, uid)
            continue
        try:
            shown[uid] = observe(scene, uid)
        except CorruptRecord as error:
            raise Broken(f"{uid}: listed and cannot be read: {error}") from error
        model.settle(uid, shown[uid], lost_power=lost_power)
    held = {hold.study_instance_uid.decode() for hold in archive.parts.index.holds()}
    if held - model.held_in_doubt != model.held - model.held_in_doubt:
        raise Broken(f"on hold are {held}, should be {model.held} but for {model.held_in_doubt}")
    model.held = held
    model.held_in_doubt = set()
    _settle_merges(scene)
    found = listed(scene.world)
    there = {uid for uid, what in shown.items() if what.current is not None}
    if found - model.damaged != there:
        raise Broken(f"a query lists {found - there} too many and lacks {there - found}")
    count = archive.stats()["instances"]
    if count != len(found):
        raise Broken(f"{count} instances are counted and {len(found)} listed")
    return shown


def _settle_merges(scene: Scene) -> None:
    model = scene.model
    rows = [row for row in correction.list_all(scene.world.keeper) if row["operation"] == "merge"]
    merged = {row["names"][0]: bool(row["undone_by"]) for row in rows}
    doubt = model.merges_in_doubt
    if {one for one in merged.items() if one[0] not in doubt} != {
        one for one in model.merged.items() if one[0] not in doubt
    }:
        raise Broken(f"merged are {merged}, should be {model.merged} but for {doubt}")
    in_force = scene.world.keeper.stats()["corrections"]
    if in_force != sum(not is_undone for is_undone in merged.values()):
        raise Broken(f"{in_force} corrections are counted, and listed are {merged}")
    model.merged = merged
    model.merges_in_doubt = set()


def _must_not_be_wrong(scene: Scene, uid: str) -> None:
    try:
        found = observe(scene, uid)
    except CorruptRecord:
        return
    wrong = {found.current, *found.versions} - {None} - scene.model.sent(uid)
    if wrong:
        raise Broken(f"{uid}: damaged, and served are bytes that were never sent")


def observe(scene: Scene, uid: str) -> Shown:
    """What the archive shows of a UID, every byte read and checked."""
    archive = scene.world.keeper
    current = archive.parts.index.locate(uid.encode())
    versions = archive.parts.index.versions(uid.encode())
    kept = [archive.read(version) for version in versions if current is None or version.position != current.position]
    return Shown(None if current is None else archive.read(current), tuple(sorted(kept)))


def replay(seed: int) -> str:
    """The line that does it again."""
    return f"FILMROOM_FAULTS_SEED={seed} pytest tests/faults/test_histories.py -k random"


def main() -> int:
    """A long run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=10_000, help="crash states to go through")
    parser.add_argument("--seed", type=int, default=1, help="the first history's seed")
    chosen = parser.parse_args()
    tally = Tally()
    findings: list[str] = []
    seed = chosen.seed
    began = time.monotonic()
    while tally.states < chosen.states and len(findings) < 5:
        folder = Path(tempfile.mkdtemp(prefix="faults"))
        history = History(folder, seed, flips=seed % 4 == 0)
        try:
            history.run()
        except Broken as error:
            findings.append(str(error))
            sys.stderr.write(f"{error}\n")
        finally:
            tally.add(history.tally)
            shutil.rmtree(folder, ignore_errors=True)
        seed += 1
    line = {
        "test": "simulated disk",
        "seed": chosen.seed,
        "histories": seed - chosen.seed,
        "states": tally.states,
        "findings": len(findings),
        "seconds": round(time.monotonic() - began, 1),
        "faults": dict(tally.faults),
        "operations": dict(tally.operations),
    }
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
