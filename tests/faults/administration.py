"""What an administrator and the caretaker do, as operations: deleting, holding, compacting, scrubbing, backing up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from engine.archive.archive import Archive
from engine.archive.copies.backup import back_up
from engine.archive.copies.restore import restore
from engine.archive.lifecycle import correction, reserve_file, trash
from engine.archive.lifecycle.compaction import Compactor
from engine.archive.lifecycle.patients import Patient
from engine.archive.lifecycle.scrub import Scrubber
from engine.config import Compaction
from engine.dicom import tags
from engine.errors import DeletionRefused, NotInTrash
from engine.index.format.types import Level, Query
from engine.storage.files import Files
from tests.actors import actor
from tests.faults.model import Broken, Event, Shown
from tests.faults.operations import ROOT, SERIES, STUDIES, Operation, Scene, judge, study_of
from tests.faults.world import ProcessFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

BY = "faults"
CYCLE_S = 1.0


class Delete(Operation):
    """A study, a series or an instance goes, unless its study is held."""

    weight = 5

    def run(self, scene: Scene) -> None:
        query, uids = self._choose(scene)
        events = [scene.model.tried(uid, None) for uid in uids if self._is_named(scene, uid)]
        held = {study_of(event.uid) for event in events if self._is_visible(scene, event)} & scene.model.held
        try:
            scene.world.keeper.delete(query, actor=actor(BY), reason="because")
        except DeletionRefused as error:
            study = query.keys[tags.StudyInstanceUID].decode()  # type: ignore[union-attr]
            if study not in scene.model.held | scene.model.held_in_doubt:
                raise Broken(f"{query.level.name} is refused and nothing of it is held: {error}") from error
            for event in events:
                scene.model.refused(event)
            return
        if held - scene.model.held_in_doubt:
            raise Broken(f"{held} is on hold and was deleted from")
        scene.did[-1] += f" {query.level.name} {len(events)}"
        for event in events:
            self._answered(scene, event)

    @staticmethod
    def _is_named(scene: Scene, uid: str) -> bool:
        """Whether there is something that the query can find, or may be."""
        model = scene.model
        return (
            uid not in model.damaged
            and bool(model.events[uid])
            and (not model.is_certain(uid) or model.expected(uid).current is not None)
        )

    @staticmethod
    def _is_visible(scene: Scene, event: Event) -> bool:
        """What may have been there and not visible was not named, and comes after a restart."""
        before = scene.model.events[event.uid][:-1]
        return all(other.standing != other.standing.MAYBE for other in before)

    def _answered(self, scene: Scene, event: Event) -> None:
        if self._is_visible(scene, event):
            scene.model.acknowledged(event, durable=True)

    @staticmethod
    def _choose(scene: Scene) -> tuple[Query, list[str]]:
        rng = scene.rng
        study = rng.randrange(STUDIES)
        level = rng.choice((Level.STUDY, Level.SERIES, Level.IMAGE, Level.IMAGE, Level.IMAGE))
        keys = {tags.StudyInstanceUID: f"{ROOT}.{study}".encode()}
        prefix = f"{ROOT}.{study}."
        if level >= Level.SERIES:
            prefix += f"{rng.randrange(SERIES)}."
            keys[tags.SeriesInstanceUID] = prefix[:-1].encode()
        uids = [uid for uid in scene.model.events if uid.startswith(prefix) and scene.model.events[uid]]
        if level == Level.IMAGE:
            uids = rng.sample(uids, min(len(uids), 1))
            keys[tags.SOPInstanceUID] = (uids[0] if uids else f"{prefix}9").encode()
        return Query(level, keys), uids


class PutIntoTrash(Delete):
    """A study, a series or an instance is deleted so that it can be restored."""

    weight = 4

    def run(self, scene: Scene) -> None:
        model = scene.model
        query, uids = self._choose(scene)
        uids = [uid for uid in uids if not model.is_certain(uid) or model.expected(uid).current is not None]
        study = query.keys[tags.StudyInstanceUID].decode()  # type: ignore[union-attr]
        if not uids or study in model.held | model.held_in_doubt or not all(map(model.is_clear, uids)):
            return
        puts = [model.tried(uid, None) for uid in uids]
        for put in puts:
            put.is_put = True
        result = scene.world.keeper.delete(query, actor=actor(BY), reason="because", into_trash=True)
        if result.instances != len(puts):
            raise Broken(f"{result.instances} instances went into the trash, not {len(puts)}")
        for put in puts:
            model.acknowledged(put, durable=True)
        (number,) = result.trash
        model.trash[number] = puts


class SettleTrash(Operation):
    """An entry of the trash is restored, or the trash is emptied of it."""

    weight = 4

    def can_run(self, scene: Scene) -> bool:
        return bool(scene.model.trash)

    def run(self, scene: Scene) -> None:
        model, parts = scene.model, scene.world.keeper.parts
        number = scene.rng.choice(sorted(model.trash))
        puts = model.trash.pop(number)
        if not all(model.is_clear(put.uid) for put in puts):
            return
        is_restored = scene.rng.random() < 0.7
        study = study_of(puts[0].uid)
        if not is_restored and study in model.held | model.held_in_doubt:
            return
        waiting = [put for put in puts if model.waits(put)]
        events = [model.tried(put.uid, None) for put in waiting]
        for put, event in zip(waiting, events, strict=True):
            event.restores, event.empties = (put, None) if is_restored else (None, put)
        try:
            if is_restored:
                trash.restore(parts, number, actor=actor(BY), reason="needed")
            else:
                trash.empty(parts, [number], actor=actor(BY), reason="asked for")
        except NotInTrash as error:
            if waiting:
                raise Broken(f"entry {number} is not in the trash, and should have {len(waiting)}") from error
            return
        if not waiting:
            raise Broken(f"entry {number} had nothing left, and was in the trash")
        for event in events:
            model.acknowledged(event, durable=True)
        scene.did[-1] += f" {'restored' if is_restored else 'emptied'} {len(events)}"


class Hold(Operation):
    """A study is put on legal hold, or released."""

    weight = 2

    def run(self, scene: Scene) -> None:
        model = scene.model
        study = f"{ROOT}.{scene.rng.randrange(STUDIES)}"
        archive = scene.world.keeper
        doubt = study in model.held_in_doubt
        model.held_in_doubt.add(study)
        if study in model.held:
            archive.release_holds([study], actor=actor(BY), reason="over")
            model.held.discard(study)
        else:
            archive.set_holds([study], actor=actor(BY), reason="lawsuit")
            model.held.add(study)
        if not doubt:
            model.held_in_doubt.discard(study)


class Correct(Operation):
    """A patient is merged into another one, or a merge that was acknowledged is undone."""

    weight = 2

    def run(self, scene: Scene) -> None:
        model = scene.model
        archive = scene.world.keeper
        merged = sorted(name for name, is_undone in model.merged.items() if not is_undone)
        if merged and scene.rng.random() < 0.3:
            name = scene.rng.choice(merged)
            number = next(row["number"] for row in correction.list_all(archive) if row["names"] == [name])
            model.merges_in_doubt.add(name)
            correction.undo(archive, number, actor=actor(BY), reason="two persons")
            model.merged[name] = True
        else:
            model.merge_count += 1
            name = f"gone{model.merge_count}"
            model.merges_in_doubt.add(name)
            patients = (Patient(name), Patient("stays"))
            correction.merge(archive, *patients, in_advance=True, actor=actor(BY), reason="one person")
            model.merged[name] = False
        model.merges_in_doubt.discard(name)


class Compact(Operation):
    """Everything that has a dead byte is written anew and its segment removed."""

    weight = 4

    def run(self, scene: Scene) -> None:
        compactor = Compactor(
            scene.world.keeper,
            Compaction(small_segments_min=2),
            segment_bytes=scene.world.options.segment_bytes,
            everything=scene.rng.random() < 0.7,
        )
        with _small_reserve():
            totals = compactor.run()
        scene.did[-1] += f" {totals.segments_removed} removed {totals.segments_written} written"
        if totals.left_alone and not scene.world.disk.fault_hit and not scene.model.damaged_places:
            raise Broken("compaction left a segment alone and nothing is damaged")


class ReserveFile(Operation):
    """Room is set aside for deletions on a full disk."""

    def run(self, scene: Scene) -> None:
        with _small_reserve():
            reserve_file.make(scene.world.keeper.parts.layout, scene.world.keeper.parts.files)


def _small_reserve() -> patch[int]:  # type: ignore[type-arg]
    return patch.multiple(reserve_file, RESERVE_BYTES=8192, BLOCK_BYTES=4096)  # type: ignore[return-value]


class Scrub(Operation):
    """A pass over the whole log finds nothing but what was damaged on purpose."""

    weight = 2

    def run(self, scene: Scene) -> None:
        scrubber = Scrubber(scene.world.keeper, cycle_s=CYCLE_S, rate_bytes_per_s_max=1 << 30)
        try:
            scrubber.begin_pass()
            is_over = False
            while not is_over:
                done = scrubber.step(scene.rng.choice((4096, 1 << 20)))
                judge(scene, [str(damaged) for damaged in done.damaged])
                is_over = done.pass_ended
        finally:
            scrubber.close()


class BackUp(Operation):
    """A backup beside the archive, on the same disk, so that its own writes are cut off too."""

    weight = 2

    def run(self, scene: Scene) -> None:
        world = scene.world
        folder = world.data.parent / "backup"
        world.backed_up = None
        files = ProcessFiles(world.disk, "backup")
        try:
            back_up(world.keeper.parts.layout, folder, files=files, keep=2)  # type: ignore[arg-type]
        finally:
            files.end()
        certain = [uid for uid in scene.model.events if scene.model.is_certain(uid)]
        world.backed_up = {uid: scene.model.expected(uid) for uid in certain}


class Restore(Operation):
    """What was backed up last is restored elsewhere and compared."""

    def can_run(self, scene: Scene) -> bool:
        return scene.world.backed_up is not None and not scene.model.damaged

    def run(self, scene: Scene) -> None:
        world = scene.world
        if world.disk.fault_armed:
            return  # what happens to another disk is not this one's business
        assert world.backed_up is not None
        source = world.folder / "taken"
        shutil.rmtree(source, ignore_errors=True)
        target = world.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        for name, content in _files_under(scene, world.data.parent / "backup"):
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        report = restore(source, target, files=Files())
        judge(scene, list(map(str, report.findings)))
        with Archive.open(target, role="keeper") as archive:
            for uid, expected in world.backed_up.items():
                found = _shown(archive, uid)
                if found != expected:
                    raise Broken(f"{uid}: restored as {found}, backed up was {expected}")


def _files_under(scene: Scene, folder: Path) -> Iterator[tuple[str, bytes]]:
    disk = scene.world.disk
    prefix = os.path.relpath(folder, disk.root) + "/"
    for path, file in disk.files():
        if path.startswith(prefix):
            yield path.removeprefix(prefix), file.read(0, file.size())


def _shown(archive: Archive, uid: str) -> Shown:
    current = archive.parts.index.locate(uid.encode())
    versions = archive.parts.index.versions(uid.encode())
    kept = [archive.read(version) for version in versions if current is None or version.position != current.position]
    return Shown(None if current is None else archive.read(current), tuple(sorted(kept)))
